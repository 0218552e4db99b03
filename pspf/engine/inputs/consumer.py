"""Merged consumer: the cursors of a handler of several topics, as one cursor of one loop.

    polls of each topic --chunks--> buffers --the earliest first, numbered--> batches of places
    a commit of places  --split by topic, with each topic's position--> one joint commit

A topic whose buffer is empty is asked before any record of another goes on. What it has is known as far as it is
stored; where the handler asks for it, its next record is waited for.
"""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from pspf.clock import Clock
from pspf.connectors.contract.cursors import Consumer
from pspf.connectors.contract.values import Lease
from pspf.engine.inputs.merge import ReadTime, Suspected, TopicBuffer, find_first, merge
from pspf.engine.inputs.places import as_stored, first_place, input_of, make_place, number_of, offset_in
from pspf.records import Batch, Commit, Cursor, EntryPlace, Record, Retry

_BESIDE_MS: Final = 5_000
"""How long a read of an empty topic waits beside the records of others."""
_DUE_MS: Final = 200
"""How long a read waits that gives retries alone: nothing new is known of its topic meanwhile."""
_CANCEL_S: Final = 0.1
_DONE: Final = -1
"""Stands for a record from before the cursors were taken that does not wait."""


@dataclass(slots=True)
class Input:
    """One topic: its cursor, what was read of it, and the read that is under way."""

    consumer: Consumer
    buffer: TopicBuffer
    places: dict[int, int] = field(default_factory=dict)
    """The places of the records that were read and are not done, by offset."""
    passed: deque[tuple[int, int]] = field(default_factory=deque)
    """The number of each new record that is not before the committed position, and its position behind it."""
    reading: asyncio.Task[Batch] | None = None
    is_due_only: bool = False
    """Whether that read gives retries alone."""
    is_from_end: bool = False
    """Whether nothing more of it was stored when that read began, and what it gives is new since."""
    waiting: set[int] = field(default_factory=set)
    """The offsets of those that are stored as waiting: held back, or for a retry."""
    is_at_end: bool = False
    """Whether nothing more of it is stored, as far as the last read could tell."""
    is_asked: bool = False
    """Whether it is not asked again for this batch: retries come as long as they are due."""
    empty_since_ms: int | None = None
    """Since when there was nothing new, None where there was something."""

    def find_number(self, offset: int) -> int | None:
        """Return the number of a record that was read and is not done; None for another one."""
        place = self.places.get(offset)
        return None if place is None else number_of(place)

    def position_before(self, number: int) -> int | None:
        """Return its position once all records before a number are passed, None where that moves nothing."""
        found = None
        for at, position in self.passed:
            if at >= number:
                break
            found = position
        return found


@dataclass(slots=True)
class BegunBatch:
    """What was taken for the next batch, by place: it outlives a read that fails, as its records are not read again."""

    records: dict[int, Record] = field(default_factory=dict)
    suspicion: Suspected | None = None

    def as_batch(self, end: int) -> Batch:
        """Return it as a batch of the loop."""
        records = list(self.records.values())
        if self.suspicion is None or not records:
            return Batch(records, end)
        return Batch(records, end, suspect=True, crashes=self.suspicion.crashes if len(records) == 1 else 0)


class MergedConsumer(Consumer):
    """The cursors of one partition of several topics; the first one is the home, with the entries.

    `held` are the records that are not done, with the index of their topic, in the order in which they run.
    An empty topic's next record is waited for, for `wait_ms`.
    """

    def __init__(
        self,
        consumers: Sequence[Consumer],
        held: Sequence[tuple[int, Retry]],
        *,
        read_time: ReadTime,
        clock: Clock,
        wait_ms: int,
    ) -> None:
        self._home = home = consumers[0]
        self.cursor = home.cursor
        self.is_remote = home.is_remote
        self._clock = clock
        self._wait_ms = wait_ms
        self._inputs = [Input(each, TopicBuffer(_lease_of(each).position, read_time)) for each in consumers]
        self._buffers = [each.buffer for each in self._inputs]
        self._begun = BegunBatch()
        self._wake = asyncio.Event()
        self._is_held_up = False
        """Whether a poll waits, although records were read, for those of a slower topic."""
        rows = []
        for number, (index, row) in enumerate(held):
            place = self._inputs[index].places[row.offset] = make_place(number, index, row.offset)
            self._inputs[index].waiting.add(row.offset)
            rows.append(replace(row, offset=place))
        self._next_number = len(rows)
        self.lease: Lease | None = Lease(_lease_of(home).epoch, first_place(self._next_number), tuple(rows))

    # Reading

    @property
    def waiting_cursors(self) -> Sequence[Cursor]:
        if not self._is_held_up:
            return []
        return [each.consumer.cursor for each in self._inputs if each.buffer.head_ms is not None]

    def place_of(self, topic: str, offset: int) -> int:
        each = next(each for each in self._inputs if each.consumer.cursor.topic == topic)
        known = each.places.get(offset)
        if known is not None:
            return known
        is_to_come = offset >= _lease_of(each.consumer).position
        return first_place(self._next_number) if is_to_come else _DONE

    async def poll(self, *, max_records: int, timeout_ms: int, retries_only: bool = False) -> Batch:
        has_waited = False
        while True:
            self._wake.clear()
            batch = await self._read_now(max_records, due_only=retries_only)
            is_held_up = not retries_only and any(buffer.head_ms is not None for buffer in self._buffers)
            if batch.records or (not is_held_up and (has_waited or not timeout_ms)):
                return batch
            self._is_held_up = is_held_up
            try:
                await self._wait(max_records, timeout_ms or _BESIDE_MS, due_only=retries_only)
            finally:
                self._is_held_up = False
            has_waited = True

    async def _read_now(self, max_records: int, *, due_only: bool) -> Batch:
        """Return what comes next, as far as it is stored and may go on."""
        for each in self._inputs:
            each.is_at_end = each.is_asked = False
            each.buffer.drop_due()
        begun = self._begun
        while len(begun.records) < max_records:
            await self._fill(max_records, due_only=due_only)
            first = find_first(self._buffers, self._may_pass, due_only=due_only)
            if first is None:
                break
            buffer = self._buffers[first]
            if begun.records and (buffer.suspicion is not begun.suspicion or buffer.is_due):
                break  # what is suspected together runs with nothing else, and retries come first in a batch
            begun.suspicion = buffer.suspicion
            for taken in merge(self._buffers, max_records - len(begun.records), self._may_pass, due_only=due_only):
                self._add(begun.records, *taken[:3])
        if begun.records and not due_only:
            for each in self._inputs:
                if each.is_at_end and each.reading is None:
                    self._start(each, max_records, _BESIDE_MS)
        self._begun = BegunBatch()
        return begun.as_batch(first_place(self._next_number))

    def _add(self, records: dict[int, Record], index: int, record: Record, position: int | None) -> None:
        """Add a record to a batch by its place; one that was read twice, or is done since, is left out."""
        each = self._inputs[index]
        if position is None:
            known = each.places.get(record.offset)
            if known is not None:
                records.setdefault(known, record._replace(offset=known))
            return
        place = make_place(self._next_number, index, record.offset)
        each.places[record.offset] = place
        each.passed.append((self._next_number, position))
        self._next_number += 1
        records[place] = record._replace(offset=place)

    def _may_pass(self, index: int) -> bool:
        """Return whether records of others may go before what a topic may have that has nothing to give by now."""
        each = self._inputs[index]
        if not (each.is_at_end or (each.reading is not None and each.is_from_end)):
            return False
        return not self._wait_left_ms(each)

    def _wait_left_ms(self, each: Input) -> int:
        """Return how long the next record of an empty topic is still waited for."""
        if not self._wait_ms or each.empty_since_ms is None:
            return 0
        return max(0, each.empty_since_ms + self._wait_ms - self._clock.monotonic_ms())

    async def _fill(self, max_records: int, *, due_only: bool) -> None:
        """Ask each topic that has nothing to give by now; return when all have answered."""
        asked = []
        for each in self._inputs:
            if each.reading is not None and each.reading.done():
                self._take_in(each)
            if each.reading is not None or each.is_asked or each.buffer.is_due:
                continue
            if each.buffer.head_ms is None:
                asked.append(self._start(each, max_records, 0, due_only=due_only))
            elif each.waiting:
                asked.append(self._start(each, max_records, 0, due_only=True))
        if asked:
            await asyncio.wait(asked)
            for each in self._inputs:
                if each.reading in asked:
                    self._take_in(each)

    def _take_in(self, each: Input) -> None:
        """Take over what a read gave. Errors as in `poll`."""
        reading, each.reading = each.reading, None
        assert reading is not None
        batch = reading.result()
        has_retries = each.buffer.add(batch, each.find_number)
        is_empty = each.buffer.head_ms is None
        # One that gave records again that are done since may have had no room for new ones.
        each.is_at_end = not batch.records and is_empty and not each.is_due_only
        each.is_asked = is_empty or has_retries or each.is_due_only
        if each.buffer.head_ms is not None:
            each.empty_since_ms = None
        elif each.empty_since_ms is None:
            each.empty_since_ms = self._clock.monotonic_ms()

    def _start(
        self, each: Input, max_records: int, timeout_ms: int, *, due_only: bool = False
    ) -> "asyncio.Task[Batch]":
        read = each.consumer.poll(max_records=max_records, timeout_ms=timeout_ms, retries_only=due_only)
        each.is_due_only = due_only
        each.is_from_end = each.is_at_end and not due_only
        each.reading = task = asyncio.create_task(read, name=f"poll {each.consumer.cursor}")
        task.add_done_callback(self._on_read)
        return task

    def _on_read(self, task: "asyncio.Task[Batch]") -> None:
        if not task.cancelled():
            task.exception()  # retrieved, in case no poll asks for the result
        self._wake.set()

    async def _wait(self, max_records: int, timeout_ms: int, *, due_only: bool) -> None:
        """Return when one of the topics has answered, or is waited for no more."""
        if due_only:
            timeout_ms = min(timeout_ms, _DUE_MS)
        for each in self._inputs:
            if each.reading is None and (due_only or each.buffer.head_ms is None):
                self._start(each, max_records, timeout_ms, due_only=due_only)
        left_ms = min((left for each in self._inputs if (left := self._wait_left_ms(each))), default=None)
        timer = None if left_ms is None else self._clock.call_later(left_ms, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            if timer is not None:
                timer.cancel()

    # Committing

    async def commit(self, commit: Commit) -> Sequence[int]:
        home, *beside = [self._part_of(commit, index) for index in range(len(self._inputs))]
        dead = [replace(letter, record=as_stored(letter.record)) for letter in commit.dead]
        own = replace(commit, done=home.done, retries=home.retries, position=home.position, dead=dead)
        others = zip(self._inputs[1:], beside, strict=True)
        await self._home.commit_jointly(own, [(each.consumer, part) for each, part in others])
        for row in commit.retries:
            self._inputs[input_of(row.offset)].waiting.add(offset_in(row.offset))
        for place in commit.done:
            each = self._inputs[input_of(place)]
            each.places.pop(offset_in(place), None)
            each.waiting.discard(offset_in(place))
        if commit.position is not None:
            number = number_of(commit.position)
            for each in self._inputs:
                while each.passed and each.passed[0][0] < number:
                    each.passed.popleft()
        return ()

    def _part_of(self, commit: Commit, index: int) -> Commit:
        """Return what becomes of the records of one topic."""
        each = self._inputs[index]
        return Commit(
            commit.commit_id,
            done=[offset_in(place) for place in commit.done if input_of(place) == index],
            retries=[
                replace(row, offset=offset_in(row.offset)) for row in commit.retries if input_of(row.offset) == index
            ],
            position=None if commit.position is None else each.position_before(number_of(commit.position)),
        )

    async def intend(self, offsets: Sequence[int], *, is_alone: bool = True) -> None:
        by_topic: dict[int, list[int]] = {}
        for place in offsets:
            by_topic.setdefault(input_of(place), []).append(offset_in(place))
        for index, some in by_topic.items():
            await self._inputs[index].consumer.intend(some, is_alone=is_alone)

    # Entries: the home has them

    async def read_progress(self) -> bytes | None:
        return await self._home.read_progress()

    async def list_namespaces(self) -> Sequence[int]:
        return await self._home.list_namespaces()

    async def read_entries(self, places: Sequence[EntryPlace]) -> Mapping[EntryPlace, bytes]:
        return await self._home.read_entries(places)

    async def scan_entries(
        self, namespace: int, *, after: bytes | None = None, max_entries: int = 1_000
    ) -> Sequence[tuple[bytes, bytes]]:
        return await self._home.scan_entries(namespace, after=after, max_entries=max_entries)

    # Ending

    async def end_reads(self) -> None:
        under_way = [each.reading for each in self._inputs if each.reading is not None]
        while any(not task.done() for task in under_way):
            for task in under_way:
                task.cancel()
            await asyncio.wait(under_way, timeout=_CANCEL_S)  # again, should a cancellation have been lost

    async def release(self) -> None:
        await self.end_reads()
        for each in reversed(self._inputs):  # the home last: who takes it then finds the others free
            await each.consumer.release()


def _lease_of(consumer: Consumer) -> Lease:
    assert consumer.lease is not None, "the cursors of a handler of several topics are ordered ones"
    return consumer.lease
