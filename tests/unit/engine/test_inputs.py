"""The merge of several topics: places, the order of event time, what waits for a slower topic."""

import asyncio
import random
from collections.abc import Sequence

import pytest

from pspf.clock import ManualClock
from pspf.connectors.contract.cursors import Beside
from pspf.connectors.contract.values import Lease
from pspf.engine.inputs.consumer import MergedConsumer
from pspf.engine.inputs.merge import TopicBuffer, merge
from pspf.engine.inputs.places import as_stored, first_place, input_of, make_place, number_of, offset_in
from pspf.engine.inputs.times import make_read_time
from pspf.errors import BackendUnavailable
from pspf.records import Batch, Commit, Record, format_id
from tests.unit.engine.scripted import ScriptedConsumer, let_run

BEGIN_MS = 1_700_000_000_000


def record(topic: str, offset: int, time_ms: int) -> Record:
    return Record(topic, 0, offset, b"k", b"{}", None, time_ms)


def buffer_of(topic: str, *times: int) -> TopicBuffer:
    buffer = TopicBuffer(1, lambda each: each.timestamp_ms)
    buffer.add(Batch([record(topic, at, ms) for at, ms in enumerate(times, 1)], len(times) + 1), lambda offset: None)
    return buffer


def merged(*buffers: TopicBuffer, is_at_end: bool = True, most: int = 100) -> list[tuple[str, int]]:
    taken = merge(buffers, most, lambda index: is_at_end, due_only=False)
    return [(each.record.topic, each.record.timestamp_ms) for each in taken]


def test_a_place_keeps_its_parts_and_formats_as_the_offset() -> None:
    rng = random.Random(1)
    for _ in range(1_000):
        number, index, offset = rng.randrange(1 << 40), rng.randrange(64), rng.randrange(1 << 128)
        place = make_place(number, index, offset)
        assert (number_of(place), input_of(place), offset_in(place)) == (number, index, offset)
        assert first_place(number) <= place < first_place(number + 1)
        assert format_id(3, place) == format_id(3, offset)
        assert as_stored(record("a", place, 0)) == record("a", offset, 0)


def test_the_earliest_comes_first_and_each_topic_keeps_its_own_order() -> None:
    found = merged(buffer_of("a", 1, 5, 3, 9), buffer_of("b", 2, 4, 6))
    assert found == [("a", 1), ("b", 2), ("b", 4), ("a", 5), ("a", 3), ("b", 6), ("a", 9)]


def test_nothing_goes_before_what_a_topic_may_have_that_was_not_asked() -> None:
    assert merged(buffer_of("a", 1, 5), buffer_of("b", 2), is_at_end=False) == [("a", 1), ("b", 2)]
    assert merged(buffer_of("a", 1, 5), buffer_of("b", 2)) == [("a", 1), ("b", 2), ("a", 5)]


def test_retries_come_first_by_their_numbers() -> None:
    first, second = buffer_of("a", 7, 8), buffer_of("b", 1, 2)
    merged(first, second, most=4)
    for buffer, numbers in ((first, {1: 3, 2: 9}), (second, {1: 5})):
        old = [record("old", offset, 100) for offset in numbers]
        assert buffer.add(Batch(old, 3), numbers.get)
    taken = list(merge([first, second], 9, lambda index: False, due_only=True))
    assert [(each.input, each.record.offset, each.position) for each in taken] == [
        (0, 1, None),
        (1, 1, None),
        (0, 2, None),
    ]


def test_what_is_suspected_together_is_given_alone() -> None:
    buffer = buffer_of("a", 1, 9)
    other = TopicBuffer(1, lambda each: each.timestamp_ms)
    other.add(Batch([record("b", 1, 2), record("b", 2, 3)], 3, suspect=True), lambda offset: None)
    assert merged(buffer, other) == [("a", 1)]
    assert merged(buffer, other) == [("b", 2), ("b", 3)]
    assert merged(buffer, other) == [("a", 9)]


def test_a_time_is_the_events_own_else_its_records_and_one_of_the_far_future_counts_as_now() -> None:
    clock = ManualClock(BEGIN_MS)
    read_time = make_read_time(clock)

    def time_of(value: bytes) -> int:
        return read_time(Record("a", 0, 1, None, value, None, 77))

    assert time_of(b'{"timestamp": "2023-11-14T22:13:20Z"}') == BEGIN_MS
    assert time_of(b'{"timestamp": 1700000000.5}') == BEGIN_MS + 500
    for value in (b"{}", b"no json", b'{"timestamp": "soon"}', b'["timestamp"]', b'{"timestamp": null}'):
        assert time_of(value) == 77
    assert time_of(b'{"timestamp": "9999-01-01T00:00:00Z"}') < BEGIN_MS * 2


class PromptConsumer(ScriptedConsumer):
    """Answers at once where a read does not wait; fails once, after so many reads."""

    fails_after = -2

    async def poll(self, *, max_records: int, timeout_ms: int, retries_only: bool = False) -> Batch:
        self.fails_after -= 1
        if self.fails_after == -1:
            raise BackendUnavailable("away for a moment")
        if not self.batches and not timeout_ms:
            return Batch((), 1)
        return await super().poll(max_records=max_records, timeout_ms=timeout_ms, retries_only=retries_only)

    async def commit_jointly(self, commit: Commit, beside: Sequence[Beside]) -> None:
        self.commits.append(commit)


def make_merged(clock: ManualClock, wait_ms: int) -> tuple[MergedConsumer, PromptConsumer, PromptConsumer]:
    first, second = PromptConsumer(lease=Lease(1, 1)), PromptConsumer(lease=Lease(1, 1))
    both = MergedConsumer(
        [first, second],  # type: ignore[list-item]  # as much of consumers as is called
        [],
        read_time=lambda each: each.timestamp_ms,
        clock=clock,
        wait_ms=wait_ms,
    )
    return both, first, second


async def test_a_slower_topic_is_waited_for_and_no_longer_than_asked_for() -> None:
    clock = ManualClock()
    both, first, _ = make_merged(clock, 500)
    first.give(Batch([record("a", 1, 10)], 2))
    poll = asyncio.create_task(both.poll(max_records=10, timeout_ms=100))
    await let_run()
    clock.advance(499)
    await let_run()
    assert not poll.done()
    assert both.waiting_cursors == [first.cursor]
    clock.advance(1)
    assert [each.topic for each in (await poll).records] == ["a"]
    assert both.waiting_cursors == []
    await both.end_reads()


async def test_what_a_slower_topic_brings_in_time_goes_first() -> None:
    both, first, second = make_merged(ManualClock(), 500)
    first.give(Batch([record("a", 1, 10)], 2))
    poll = asyncio.create_task(both.poll(max_records=2, timeout_ms=100))
    await let_run()
    second.give(Batch([record("b", 1, 5)], 2))
    await let_run()
    assert [each.topic for each in (await poll).records] == ["b"]
    await both.end_reads()


async def test_a_read_that_fails_loses_nothing_that_another_topic_gave() -> None:
    both, first, second = make_merged(ManualClock(), 0)
    first.give(Batch([record("a", 1, 10), record("a", 2, 30)], 3))
    second.give(Batch([record("b", 1, 20)], 2))
    second.fails_after = 1
    with pytest.raises(BackendUnavailable):
        await both.poll(max_records=10, timeout_ms=0)
    batch = await both.poll(max_records=10, timeout_ms=0)
    assert [(each.topic, offset_in(each.offset)) for each in batch.records] == [("a", 1), ("b", 1), ("a", 2)]
    await both.end_reads()


async def test_a_read_that_gave_only_what_is_done_since_does_not_say_that_nothing_more_is_stored() -> None:
    """One record fills a read of one: a retry that is read again while it is being committed hides the new ones."""
    both, first, second = make_merged(ManualClock(), 0)
    first.give(Batch([record("a", 1, 10)], 2))
    second.give(Batch([record("b", 1, 20)], 2))
    batch = await both.poll(max_records=1, timeout_ms=0)
    assert [each.topic for each in batch.records] == ["a"]
    await both.commit(Commit(b"1", done=[batch.records[0].offset], position=batch.end))
    first.give(Batch([record("a", 1, 10)], 2))
    poll = asyncio.create_task(both.poll(max_records=1, timeout_ms=100))
    await let_run()
    first.give(Batch([record("a", 2, 15)], 3))
    assert [(each.topic, offset_in(each.offset)) for each in (await poll).records] == [("a", 2)]
    await both.end_reads()
