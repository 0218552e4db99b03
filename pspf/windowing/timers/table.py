"""The timers of one cursor: those that are due first in memory, and what a batch changes of all of them.

    beyond the limit ──extend──> in a queue ──due, and its key free──> fires ──> gone, or put again
                                   │  ↑
                      due, key held└──┴──release: the key is free

A place is a timer's identity: its record key and name, as the key of its row.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from pspf.records import EntryChanges, EntryPlace
from pspf.windowing.spans import NEVER
from pspf.windowing.timers.rows import CLOCK, EVENT, INDEXED, ROWS, TimerRow, due_of, key_and_name, place_of

_MOST: Final = 20_000
"""How many timers of a queue are in memory; beyond that the later half is left to the broker."""
_MOST_BLOCKED: Final = 20_000


class DueQueue:
    """The first timers of one queue, in order. All that is stored up to `limit` is here; None: nothing was read."""

    def __init__(self, namespace: int) -> None:
        self.namespace = namespace
        self.limit: bytes | None = None
        self.is_complete = False
        """Whether nothing is stored behind the limit."""
        self._indices: list[bytes] = []
        self._of_place: dict[bytes, bytes] = {}

    def __contains__(self, place: bytes) -> bool:
        return place in self._of_place

    @property
    def is_short(self) -> bool:
        """Whether more is to be read before it is known what is due next."""
        return not self._indices and not self.is_complete

    @property
    def due_ms(self) -> int:
        """The time at which the first of them is due."""
        return due_of(self._indices[0]) if self._indices else NEVER

    @property
    def first_place(self) -> bytes | None:
        """The place of the first of them."""
        return place_of(self._indices[0]) if self._indices else None

    def extend(self, indices: Sequence[bytes], *, is_last: bool) -> None:
        """Take in what is stored behind the limit."""
        for index in indices:
            insort(self._indices, index)
            self._of_place[place_of(index)] = index
        if indices:
            self.limit = indices[-1]
        self.is_complete = is_last

    def add(self, index: bytes) -> None:
        """Take in a timer, unless it is behind the limit."""
        if not self.is_complete and (self.limit is None or index > self.limit):
            return
        insort(self._indices, index)
        self._of_place[place_of(index)] = index
        if len(self._indices) > _MOST:
            for later in self._indices[_MOST // 2 :]:
                del self._of_place[place_of(later)]
            del self._indices[_MOST // 2 :]
            self.limit, self.is_complete = self._indices[-1], False

    def discard(self, place: bytes) -> None:
        """Forget the timer at a place, if it is here."""
        index = self._of_place.pop(place, None)
        if index is not None:
            del self._indices[bisect_left(self._indices, index)]

    def first(self, until_ms: int, most: int) -> list[bytes]:
        """Return the index entries of what is due by a time, in order, at most so many."""
        found = self._indices[:most]
        return [index for index in found if due_of(index) <= until_ms]


class TimerTable:
    """The timers of one cursor, and the changes of a batch. Rows are given to it as they are needed (`learn`)."""

    def __init__(self) -> None:
        self.queues: Mapping[int, DueQueue] = {CLOCK: DueQueue(CLOCK), EVENT: DueQueue(EVENT)}
        self.retrying = 0
        """How many timers have failed and are to run again."""
        self._blocked: dict[bytes, dict[bytes, tuple[int, bytes]]] = {}
        """By record key, the due timers that wait for its records, by place: queue and index entry."""
        self._changes: dict[bytes, TimerRow | None] = {}
        self._stored: dict[bytes, TimerRow | None] = {}
        """Rows as the last commit has left them, of this batch."""

    def put(self, place: bytes, row: TimerRow) -> None:
        """Set a timer; the one of its key and name is replaced."""
        self._forget(place)
        self._changes[place] = row
        self.queues[row.queue].add(row.index(place))

    def remove(self, place: bytes) -> None:
        """Remove a timer, if there is one."""
        self._forget(place)
        self._changes[place] = None

    def _forget(self, place: bytes) -> None:
        key, _ = key_and_name(place)
        blocked = self._blocked.get(key, {})
        queues = self.queues.values()
        is_known = place in blocked or any(place in queue for queue in queues)
        if not is_known and place not in self._changes and all(queue.is_complete for queue in queues):
            self._stored.setdefault(place, None)
        for queue in queues:
            queue.discard(place)
        if blocked.pop(place, None) is not None and not blocked:
            del self._blocked[key]

    # Rows

    def unread(self, places: Sequence[bytes]) -> list[EntryPlace]:
        """Return which rows of some timers have to be read."""
        return [(ROWS, place) for place in places if place not in self._changes and place not in self._stored]

    def unread_changes(self) -> list[EntryPlace]:
        """Return the rows that have to be read before `take_changes`."""
        return [(ROWS, place) for place in self._changes if place not in self._stored]

    def learn(self, places: Sequence[EntryPlace], found: Mapping[EntryPlace, bytes]) -> None:
        """Take over rows that were read. Raises StateUnreadable where one is damaged."""
        for each in places:
            stored = found.get(each)
            self._stored[each[1]] = None if stored is None else TimerRow.decode(stored, each[1])

    def row_of(self, place: bytes) -> TimerRow | None:
        """Return the row of a timer that was learned or changed."""
        return self._changes[place] if place in self._changes else self._stored.get(place)

    # Due

    @property
    def can_extend(self) -> bool:
        """Whether more timers may come into memory."""
        return sum(map(len, self._blocked.values())) < _MOST_BLOCKED

    def take_due(self, namespace: int, until_ms: int, most: int, is_held: Callable[[bytes], bool]) -> list[bytes]:
        """Return the places of timers that are due, in order; those of keys that are held are put aside."""
        queue = self.queues[namespace]
        while True:
            indices = queue.first(until_ms, most)
            held = [index for index in indices if is_held(key_and_name(place_of(index))[0])]
            if not held:
                return [place_of(index) for index in indices]
            for index in held:
                place = place_of(index)
                queue.discard(place)
                self._blocked.setdefault(key_and_name(place)[0], {})[place] = namespace, index

    def release(self, is_held: Callable[[bytes], bool]) -> None:
        """Bring the timers back whose keys are not held any more."""
        for key in [key for key in self._blocked if not is_held(key)]:
            for namespace, index in self._blocked.pop(key).values():
                self.queues[namespace].add(index)

    # Changes

    @property
    def has_changes(self) -> bool:
        """Whether the batch has set or removed timers."""
        return bool(self._changes)

    def take_changes(self) -> EntryChanges:
        """Return what the batch has changed, for its commit; the rows that were there are learned by now."""
        entries: dict[int, dict[bytes, bytes | None]] = {ROWS: {}, CLOCK: {}, EVENT: {}}
        for place, row in self._changes.items():
            before = self._stored[place]
            if row == before:
                continue
            self.retrying += bool(row and row.attempts) - bool(before and before.attempts)
            entries[ROWS][place] = None if row is None else row.encode()
            if before is not None:
                entries[before.queue][before.index(place)] = None
            if row is not None:
                entries[row.queue][row.index(place)] = INDEXED
        self._changes.clear()
        self._stored.clear()
        return EntryChanges((), {namespace: changed for namespace, changed in entries.items() if changed})
