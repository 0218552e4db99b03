"""Expiry of a cursor's state: frees values whose time is up, in the commits of their owner.

    commit of a value with a due time ──> its entry in the index
    another commit of that value      ──> the old entry goes
    the due time has come             ──> value and entry go, some hundred with a commit

Nothing is read or written for a cursor that has no value with a due time, but one look after its acquisition.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from pspf.clock import Clock
from pspf.events.expiring_values import EXPIRY, due_of, expiry_key, split_expiry_key
from pspf.records import STATE, EntryPlace, StateKey, split_state_key, state_key
from pspf.windowing.spans import NEVER

Reader = Callable[[Sequence[EntryPlace]], Awaitable[Mapping[EntryPlace, bytes]]]
Scanner = Callable[[int, bytes | None, int], Awaitable[Sequence[tuple[bytes, bytes]]]]
"""From a namespace, the key before and a number to the entries that follow, in order of key."""
Loader = Callable[[Sequence[StateKey]], Awaitable[Mapping[StateKey, bytes | None]]]
"""Gives values as committed."""

_FREED_AT_ONCE: Final = 500


class StateExpiry:
    """What expires of one cursor's state."""

    def __init__(self, read: Reader, scan: Scanner, clock: Clock) -> None:
        self.due_ms = 0
        """When to look for values to free: not later than the first of them is due. NEVER: none has a due time."""
        self.freed: list[StateKey] = []
        """The values that this batch frees."""
        self._read = read
        self._scan = scan
        self._clock = clock
        self._index: dict[bytes, bytes | None] = {}
        """What this batch does to the index."""

    def now_ms(self) -> int:
        """Return the wall-clock time."""
        return self._clock.now_ms()

    def expect(self, due_ms: int) -> None:
        """Note that a call has put a value with a due time."""
        self.due_ms = min(self.due_ms, due_ms)

    async def prepare(self, changes: Mapping[StateKey, bytes | None], load: Loader) -> None:
        """Find what a batch with these changes does to the index, and the values that it frees."""
        self.freed, self._index = [], {}
        if self.due_ms == NEVER:
            return
        now_ms = self.now_ms()
        if self.due_ms <= now_ms:
            await self._free(changes, now_ms)
        if self.due_ms == NEVER and not any(due_of(value) is not None for value in changes.values()):
            return
        before = await load(list(changes))
        for place, value in changes.items():
            old_ms, new_ms = due_of(before[place]), due_of(value)
            if old_ms is not None and old_ms != new_ms:
                self._index[expiry_key(old_ms, state_key(*place))] = None
            if new_ms is not None:
                self._index[expiry_key(new_ms, state_key(*place))] = b""
                self.due_ms = min(self.due_ms, new_ms)

    async def _free(self, changes: Mapping[StateKey, bytes | None], now_ms: int) -> None:
        """Free values whose time is up, but those that the batch changes."""
        page = [key for key, _ in await self._scan(EXPIRY, None, _FREED_AT_ONCE)]
        due = [key for key in page if split_expiry_key(key)[0] <= now_ms]
        if len(due) < len(page):
            self.due_ms = split_expiry_key(page[len(due)])[0]
        elif len(page) < _FREED_AT_ONCE:
            self.due_ms = NEVER
        self._index.update(dict.fromkeys(due))
        places = [split_expiry_key(key)[1] for key in due]
        found = await self._read([(STATE, place) for place in places]) if places else {}
        for place in dict.fromkeys(places):
            due_ms = due_of(found.get((STATE, place)))
            if due_ms is not None and due_ms <= now_ms and split_state_key(place) not in changes:
                self.freed.append(split_state_key(place))

    @property
    def has_changes(self) -> bool:
        """Whether the batch frees something."""
        return bool(self._index)

    def get_changes(self) -> Mapping[bytes, bytes | None]:
        """Return what the batch does to the index, the namespace EXPIRY."""
        return self._index

    def settle(self) -> None:
        """The batch is committed."""
        self.freed, self._index = [], {}
