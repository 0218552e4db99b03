"""Inspection of stored windows, without the handler that made them.

What a reader has to know of a handler beside its windows (`tell`) is stored with its progress.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from pspf.records import EntryPlace
from pspf.windowing.aggregation import Aggregation
from pspf.windowing.aggregations import Count, Distinct, Max, Mean, Min, Sum
from pspf.windowing.definitions import SessionWindow, SlidingWindow, TumblingWindow, Window, Windowing
from pspf.windowing.event_time import Key, decode_key
from pspf.windowing.folds import ReadyFold
from pspf.windowing.kept_values import Collect, Last, TopN
from pspf.windowing.session_rows import ROWS, TOGETHER, before_rows, decode_sessions, read_rows, split_row_key
from pspf.windowing.sessions import SessionSpan
from pspf.windowing.several import Several

_SIMPLE: Final[Mapping[str, Callable[[str], Aggregation]]] = {
    "count": Count,
    "sum": Sum,
    "min": Min,
    "max": Max,
    "mean": Mean,
    "last": Last,
    "distinct": Distinct,
    "collect": Collect,
}
_PAGE: Final = 500
_FIELD: Final = "value"
"""Any name: stored states no longer need the field of their events."""


@dataclass(frozen=True, slots=True)
class StoredWindow:
    """One window of a key. `value` is JSON: the result of a ready aggregation, else the state as it is stored.

    It is None where the state lies in slices that only the handler's own aggregation can merge. A window
    that is not open is closed and can still be read.
    """

    key: Key
    start_ms: int
    end_ms: int
    is_open: bool
    value: bytes | None


def tell(windowing: Windowing) -> dict[str, Any]:
    """Return what a reader has to know of a handler's windows; it may change from version to version of the app."""
    size_ms = windowing.window.sizes.get("size_ms")
    closes = windowing.closes and size_ms is not None
    aggregation = windowing.aggregation
    return {
        "due_after_ms": windowing.due_after_ms if closes else None,
        "ready": None if aggregation is None else _name_of(aggregation),
    }


def _name_of(aggregation: Aggregation) -> Any:
    """Return a ready aggregation as JSON, None for one that is the user's own."""
    kind = type(aggregation)
    if kind is Several and isinstance(aggregation, Several):
        parts = {name: _name_of(part) for name, part in aggregation.parts.items()}
        return None if None in parts.values() else parts
    if kind is TopN and isinstance(aggregation, TopN):
        return [aggregation.n, aggregation.keeps]
    return next((name for name, simple in _SIMPLE.items() if simple is kind), None)


def _aggregation_of(name: Any) -> Aggregation:
    if isinstance(name, dict):
        return Several({part: _aggregation_of(one) for part, one in name.items()})
    if isinstance(name, list):
        return TopN(_FIELD, name[0], _FIELD if name[1] else None)
    return _SIMPLE[name](_FIELD)


class StoredStates(Protocol):
    """The states of one cursor, as a broker has them."""

    async def read_entries(self, places: Sequence[EntryPlace]) -> Mapping[EntryPlace, bytes]:
        """Return the states at places; absent ones are missing."""
        ...

    async def scan_entries(
        self, namespace: int, *, after: bytes | None = None, max_entries: int = 1_000
    ) -> Sequence[tuple[bytes, bytes]]:
        """Return the first (key, state) of a slot behind the key `after`, in the order of keys; fewer at its end."""
        ...


class View(ABC):
    """A reader of the windows of one cursor, by what its progress says of them."""

    def __init__(self, window: Window, tree: Mapping[str, Any]) -> None:
        self.window = window
        ready = tree.get("ready")
        self._fold = None if ready is None else ReadyFold(_aggregation_of(ready))
        self._has_slices = tree["slice_ms"] is not None

    @abstractmethod
    def each(
        self, states: StoredStates, slots: Sequence[int], key: bytes | None, *, also_closed: bool
    ) -> AsyncIterator[StoredWindow]:
        """Give the windows that are open (`also_closed`: all), in bounded pages; with `key`, as stored, of this key."""

    def _merge(self, states: Sequence[bytes | None]) -> bytes | None:
        there = [state for state in states if state is not None]
        if self._fold is None:
            return there[0] if len(there) == 1 and not self._has_slices else None
        if not there:
            return None
        merged, *rest = map(self._fold.decode, there)
        for state in rest:
            merged = self._fold.merge(merged, state)
        return self._fold.to_json(merged)


class SpanView(View):
    """Tumbling and sliding windows: by start and key."""

    def __init__(self, window: TumblingWindow | SlidingWindow, tree: Mapping[str, Any]) -> None:
        super().__init__(window, tree)
        self._size_ms, self._slide_ms, self._offset_ms = window.size_ms, window.slide_ms, window.offset_ms
        self._slice_ms: int | None = tree["slice_ms"]
        self._frontier_ms: int = tree["frontier_ms"]
        self._due_after_ms: int | None = tree.get("due_after_ms")
        self._withheld = {(start, key) for start, key in tree["withheld"]}
        closing = tree["closing"]
        self._closing: tuple[int, Key] | None = None if closing is None else (closing[0], closing[1])

    def starts(self, slots: Sequence[int]) -> list[int]:
        """Return the windows that slots are part of, in order."""
        if self._slice_ms is None:
            return sorted(slots)
        found: list[int] = []
        for slot in sorted(slots):
            beyond = slot - self._size_ms
            first = beyond + self._slide_ms - (beyond - self._offset_ms) % self._slide_ms
            if found:
                first = max(first, found[-1] + self._slide_ms)
            found += range(first, slot + 1, self._slide_ms)
        return found

    def slots_of(self, start: int) -> range:
        """Return the slots that may hold a part of a window."""
        return (
            range(start, start + 1) if self._slice_ms is None else range(start, start + self._size_ms, self._slice_ms)
        )

    def is_closed(self, start: int) -> bool:
        """Return whether a window is closed for all keys but those that are withheld."""
        return self._due_after_ms is not None and start + self._due_after_ms <= self._frontier_ms

    def has_withheld(self, start: int) -> bool:
        """Return whether a closed window is still open for a key."""
        return any(withheld == start for withheld, _ in self._withheld)

    def read(self, start: int, stored_key: bytes, states: Sequence[bytes]) -> StoredWindow:
        """Return a window from the states of its slots for a key, in the slots' order."""
        key = decode_key(stored_key)
        is_open = not self.is_closed(start) or (start, key) in self._withheld
        if is_open and self._closing is not None and self._closing[0] == start:
            is_open = _order_of(key) > _order_of(self._closing[1])
        return StoredWindow(key, start, start + self._size_ms, is_open, self._merge(states))

    async def each(
        self, states: StoredStates, slots: Sequence[int], key: bytes | None, *, also_closed: bool
    ) -> AsyncIterator[StoredWindow]:
        there = set(slots)
        starts = [
            start
            for start in self.starts(slots)
            if also_closed or not self.is_closed(start) or self.has_withheld(start)
        ]
        parts = {start: [slot for slot in self.slots_of(start) if slot in there] for start in starts}
        known: Mapping[EntryPlace, bytes] = {}
        if key is not None:  # all of it in one read
            wanted = dict.fromkeys(slot for part in parts.values() for slot in part)
            known = await states.read_entries([(slot, key) for slot in wanted])
        for start, part in parts.items():
            if key is None:
                async for stored_key, found in _each_key(states, part):
                    window = self.read(start, stored_key, found)
                    if window.is_open or also_closed:
                        yield window
            elif mine := [known[slot, key] for slot in part if (slot, key) in known]:
                window = self.read(start, key, mine)
                if window.is_open or also_closed:
                    yield window


class SessionView(View):
    """Sessions: by key and start. Those of a key are in one state, or have rows of their own."""

    def __init__(self, window: SessionWindow, tree: Mapping[str, Any]) -> None:
        super().__init__(window, tree)
        self._gap_ms = window.gap_ms

    async def each(
        self, states: StoredStates, slots: Sequence[int], key: bytes | None, *, also_closed: bool
    ) -> AsyncIterator[StoredWindow]:
        if TOGETHER in slots:
            async for stored_key, (stored,) in _each_together(states, key):
                sessions = decode_sessions(stored, bytes, "", 0)
                for window in self._windows_of(decode_key(stored_key), sessions):
                    if window.is_open or also_closed:
                        yield window
        if ROWS in slots:
            async for rows in _each_row(states, None if key is None else before_rows(decode_key(key))):
                found = list(read_rows(rows, bytes, "", 0))
                for window in self._windows_of(found[0][0], [session for _, session in found]):
                    if window.is_open or also_closed:
                        yield window

    def _windows_of(self, key: Key, sessions: Sequence[SessionSpan]) -> list[StoredWindow]:
        windows = [
            StoredWindow(key, one.first_ms, one.last_ms + self._gap_ms, not one.is_closed, self._merge([one.state]))
            for one in sessions
        ]
        return sorted(windows, key=lambda window: window.start_ms)


async def _each_together(states: StoredStates, key: bytes | None) -> AsyncIterator[tuple[bytes, list[bytes]]]:
    if key is None:
        async for found in _each_key(states, [TOGETHER]):
            yield found
        return
    known = await states.read_entries([(TOGETHER, key)])
    if known:
        yield key, list(known.values())


async def _each_key(states: StoredStates, slots: Sequence[int]) -> AsyncIterator[tuple[bytes, list[bytes]]]:
    """Give each key that has states in the slots, in order, with these in the order of slots."""
    after: bytes | None = None
    while True:
        pages = [await states.scan_entries(slot, after=after, max_entries=_PAGE) for slot in slots]
        # A page that is full ends before its slot does: behind its last key others know more than it.
        ends = [page[-1][0] for page in pages if len(page) == _PAGE]
        states_of: dict[bytes, list[bytes]] = {}
        for page in pages:
            for key, state in page:
                if not ends or key <= min(ends):
                    states_of.setdefault(key, []).append(state)
        for key in sorted(states_of):
            yield key, states_of[key]
        if not ends:
            return
        after = min(ends)


async def _each_row(states: StoredStates, prefix: bytes | None) -> AsyncIterator[Sequence[tuple[bytes, bytes]]]:
    """Give the rows of sessions, those of a key together; with `prefix` of one key alone."""
    after, kept = prefix, list[tuple[bytes, bytes]]()
    while True:
        page = await states.scan_entries(ROWS, after=after, max_entries=_PAGE)
        for stored_key, stored in page:
            if prefix is not None and not stored_key.startswith(prefix):
                page = []
                break
            if kept and split_row_key(kept[0][0])[0] != split_row_key(stored_key)[0]:
                yield kept
                kept = []
            kept.append((stored_key, stored))
        if len(page) < _PAGE:
            break
        after = page[-1][0]
    if kept:
        yield kept


def view_spans(tree: Mapping[str, Any]) -> SpanView:
    """Return the view of tumbling or sliding windows."""
    sizes = {name: size for name, size in tree["window"].items() if name != "kind"}
    return SpanView(SlidingWindow(**sizes) if "slide_ms" in sizes else TumblingWindow(**sizes), tree)


def view_sessions(tree: Mapping[str, Any]) -> SessionView:
    """Return the view of sessions."""
    return SessionView(SessionWindow(tree["window"]["gap_ms"]), tree)


def _order_of(key: Key) -> tuple[bool, str]:
    return key is not None, key or ""
