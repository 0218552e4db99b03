"""Merge of the records of several topics: the earliest event time first, each topic in its own order. No I/O."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from pspf.records import Batch, Record

_DUE: Final = -(1 << 127)
"""Stands before the times of all new records: those whose retry is due come first, by their numbers."""
ReadTime = Callable[[Record], int]
"""Gives the event time of a record; raises nothing."""


@dataclass(slots=True)
class Chunk:
    """What is left of one poll of a topic: its records with their times, in order. A suspect one runs alone."""

    items: deque[tuple[int, Record]]
    end: int
    """The first offset behind it."""
    suspicion: "Suspected | None"


class Taken(NamedTuple):
    """A record that comes next: the index of its topic, and the position in that behind it.

    The position is None where it was passed before: the record's retry is due.
    """

    input: int
    record: Record
    position: int | None
    suspicion: "Suspected | None"


@dataclass(frozen=True, slots=True)
class Suspected:
    """That records may have ended an earlier process: those of one poll, and how often it was the only one of it."""

    crashes: int


class TopicBuffer:
    """The records of one topic that were read and not handed on.

    Retries that are due come first, then new records in order of their offsets.
    """

    def __init__(self, position: int, read_time: ReadTime) -> None:
        self._read_time = read_time
        self._chunks: deque[Chunk] = deque()
        self._next = position
        """The first offset that was not read."""

    @property
    def head_ms(self) -> int | None:
        """The time of its first record, None where there is none."""
        return self._chunks[0].items[0][0] if self._chunks else None

    @property
    def is_due(self) -> bool:
        """Whether its first record is one whose retry is due."""
        return _is_due(self.head_ms)

    def add(self, batch: Batch, find_number: Callable[[int], int | None]) -> bool:
        """Take in what a poll gave; return whether retries are among that.

        `find_number` gives the number of an offset from before that is still to be done.
        """
        suspicion = Suspected(batch.crashes) if batch.suspect else None
        due, new = list[tuple[int, Record]](), list[tuple[int, Record]]()
        for record in batch.records:
            if record.offset >= self._next:
                new.append((self._read_time(record), record))
            elif (number := find_number(record.offset)) is not None:
                due.append((_DUE + number, record))
        if due:
            self._chunks.appendleft(Chunk(deque(due), 0, suspicion))
        if new:
            self._chunks.append(Chunk(deque(new), batch.end, suspicion))
        self._next = max(self._next, batch.end)
        return bool(due)

    def drop_due(self) -> None:
        """Forget the retries that were not taken: they come again, behind those that are due since."""
        while self.is_due:
            self._chunks.popleft()

    @property
    def suspicion(self) -> Suspected | None:
        """Of which suspected ones its first record is."""
        return self._chunks[0].suspicion

    def take(self) -> tuple[Record, int | None, Suspected | None]:
        """Return its first record, the position behind it (None where that was passed before), and its suspicion."""
        chunk = self._chunks[0]
        time_ms, record = chunk.items.popleft()
        is_last = not chunk.items
        if is_last:
            self._chunks.popleft()
        if _is_due(time_ms):
            return record, None, chunk.suspicion
        return record, chunk.end if is_last else record.offset + 1, chunk.suspicion


def merge(
    buffers: Sequence[TopicBuffer], max_records: int, may_pass: Callable[[int], bool], *, due_only: bool
) -> Iterator[Taken]:
    """Take records, the earliest first, until there are `max_records`, or one of an empty topic may be earlier.

    `may_pass(index)` says whether new records may go before what an empty topic may have. With `due_only` new ones
    stay where they are.
    """
    begun: Taken | None = None
    for _ in range(max_records):
        index = find_first(buffers, may_pass, due_only=due_only)
        if index is None or (begun is not None and buffers[index].suspicion is not begun.suspicion):
            return  # what is suspected together runs with nothing else
        begun = Taken(index, *buffers[index].take())
        yield begun


def find_first(buffers: Sequence[TopicBuffer], may_pass: Callable[[int], bool], *, due_only: bool) -> int | None:
    """Return the index of the topic whose first record comes next, None where none does by now."""
    first, first_ms = None, 0
    for index, buffer in enumerate(buffers):
        head_ms = buffer.head_ms
        if head_ms is None or (due_only and not _is_due(head_ms)):
            continue
        if first is None or head_ms < first_ms:
            first, first_ms = index, head_ms
    if first is None or _is_due(first_ms):
        return first
    if all(buffer.head_ms is not None or may_pass(index) for index, buffer in enumerate(buffers)):
        return first
    return None


def _is_due(time_ms: int | None) -> bool:
    return time_ms is not None and time_ms < _DUE // 2
