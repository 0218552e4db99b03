"""State of tumbling and sliding windows: what is open, the states in memory, and how more of them are loaded."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from pspf.engine.operators.context import OperatorContext
from pspf.windowing.definitions import Windowing
from pspf.windowing.event_time import Key
from pspf.windowing.folds import Fold
from pspf.windowing.slices import Slices
from pspf.windowing.spans import BEGINNING, SpanIndex
from pspf.windowing.table import Table

PAGE: Final = 1_000


class SpanState:
    """The windows of one cursor. A slot is a window, or a slice that sliding windows share."""

    def __init__(self, context: OperatorContext, windowing: Windowing, fold: Fold) -> None:
        self._windowing = windowing
        self._fold = fold
        self._entries = context.entries
        self._max_entries = context.scope.max_entries
        self.reset((), BEGINNING)

    def reset(self, slots: Iterable[int], closed_ms: int) -> None:
        """Begin with these stored slots; what started up to `closed_ms` is closed."""
        spans = self.spans = SpanIndex(self._windowing, closed_ms)
        self.table = Table(self._fold.encode_all, self._fold.decode, self._max_entries, slots)
        self.slices = Slices(spans, self._fold.merge, self._max_entries) if spans.is_sliced else None

    async def load(self, places: Iterable[tuple[int, Key]]) -> None:
        """Load the states at places that are not in memory; slots that are not there are passed over."""
        missing = self.table.missing(places)
        if missing:
            self.table.fill(await self._entries.read_entries(missing))

    async def load_slot(self, slot: int) -> None:
        """Load all states of a slot."""
        table = self.table
        if table.slots[slot].is_whole:
            return
        after: bytes | None = None
        while True:
            page = await self._entries.scan_entries(slot, after=after, max_entries=PAGE)
            table.fill_page(slot, page)
            if len(page) < PAGE:
                break
            after = page[-1][0]
        table.make_whole(slot)

    async def scan_slot(self, slot: int, after: bytes | None) -> Sequence[tuple[bytes, bytes]]:
        """Return a page of a slot's stored entries, behind a key."""
        return await self._entries.scan_entries(slot, after=after, max_entries=PAGE)

    def state_of(self, start: int, key: Key) -> Any:
        """Return the state of a window for a key; None where it has none. It is loaded."""
        if self.slices is not None:
            return self.slices.combine_one(start, key, self.table.slots)
        slot = self.table.slots.get(start)
        return None if slot is None else slot.entries.get(key)

    def is_dirty(self, start: int, key: Key) -> bool:
        """Return whether a window changed for a key since the last commit."""
        slots = self.table.slots
        return any(key in slots[slot].dirty for slot in self.spans.slots_of(start) if slot in slots)

    def takes_updates(self, start: int, key: Key) -> bool:
        """Return whether a change of a window is emitted now: the last one of a closed window was when it closed."""
        spans = self.spans
        return not spans.closes or start + spans.due_after_ms > spans.frontier_ms or spans.is_withheld(start, key)
