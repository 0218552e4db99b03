"""Records that are not done, in an operator's hands."""

from typing import Any

import pytest

from pspf.clock import ManualClock
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.operations import PendingRecord, Waiting
from pspf.errors import CommitStale
from pspf.records import Cursor
from tests.support.brokers import World, needs
from tests.support.workers import (
    GROUP,
    HANDLER,
    TOPIC,
    Member,
    numbered,
    offsets,
    own,
    read_cursor,
    read_lag,
    retry,
    settle,
    share,
    take,
    take_all,
    take_batch,
    values,
)

pytestmark = needs("pending")

SHARED = Cursor(TOPIC, GROUP, None, 0)
ORDERED = Cursor(TOPIC, GROUP, HANDLER, 0)


async def pending(broker: Broker, **which: Any) -> list[PendingRecord]:
    """Return what the group has not done."""
    return list(await broker.operations.list_pending(GROUP, **which))


async def fail_one(broker: Broker, clock: ManualClock, *, held: int = 2) -> Member:
    """Own a cursor of four records of one key and one of another: one fails, `held` wait behind it."""
    await broker.append(TOPIC, numbered(held + 1, keys=["a"]))
    await broker.append(TOPIC, numbered(1, keys=["b"], start=held + 1))
    member = await own(broker)
    batch = await take_batch(member.consumer)
    failed, *behind, done = batch.records
    rows = [retry(failed, due_ms=clock.now_ms() + 60_000, attempts=2, error="ValueError: bad")]
    rows += [retry(record, due_ms=None, attempts=0, error="") for record in behind]
    await member.consumer.commit(settle([done], retries=rows, position=batch.end))
    return member


@needs("shared")
async def test_what_a_shared_worker_has_is_listed(broker: Broker, clock: ManualClock) -> None:
    await broker.append(TOPIC, numbered(4, keys=["k"]))
    member = await share(broker)
    batch = await take_batch(member.consumer, 3)
    clock.advance(5_000)
    listed = await pending(broker)
    assert [record.offset for record in listed] == offsets(batch.records)
    first = listed[0]
    assert (first.cursor, first.key, first.waiting, first.attempts) == (SHARED, b"k", Waiting.IN_HAND, 0)
    assert (first.consumer, first.due_ms, first.error) == (member.session.id, None, "")
    assert first.age_ms is not None
    assert 5_000 <= first.age_ms < 6_000  # a server's own clock goes on meanwhile
    assert first.id == batch.records[0].id
    await member.consumer.commit(settle(batch.records))
    assert await pending(broker) == []


@needs("shared")
async def test_what_was_given_back_is_nobodys(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(2))
    member = await share(broker)
    await take(member.consumer)
    await member.session.close()
    assert [(record.waiting, record.consumer) for record in await pending(broker)] == [(Waiting.GIVEN_BACK, None)] * 2


@needs("shared", "retries")
async def test_a_retry_is_listed_with_its_reason(broker: Broker, clock: ManualClock) -> None:
    await broker.append(TOPIC, numbered(2))
    member = await share(broker)
    failed, done = await take(member.consumer)
    due_ms = clock.now_ms() + 60_000
    await member.consumer.commit(
        settle([done], retries=[retry(failed, due_ms=due_ms, attempts=3, error="KeyError: 'x'")])
    )
    (listed,) = await pending(broker)
    assert (listed.offset, listed.waiting, listed.attempts) == (failed.offset, Waiting.RETRY, 3)
    assert (listed.error, listed.due_ms) == ("KeyError: 'x'", due_ms)


@needs("ordered", "retries")
async def test_what_is_held_back_is_listed_behind_what_failed(broker: Broker, clock: ManualClock) -> None:
    await fail_one(broker, clock)
    listed = await pending(broker)
    assert [(record.waiting, record.key) for record in listed] == [
        (Waiting.RETRY, b"a"),
        (Waiting.HELD_BACK, b"a"),
        (Waiting.HELD_BACK, b"a"),
    ]
    assert [record.error for record in listed] == ["ValueError: bad", "", ""]


@needs("shared")
async def test_only_so_many_of_each_cursor_are_listed(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(50))
    member = await share(broker)
    records = await take(member.consumer)
    listed = await broker.operations.list_pending(GROUP, max_records=7)
    assert [record.offset for record in listed] == offsets(records)[:7]


@needs("shared")
async def test_one_topic_or_group_is_listed_alone(broker: Broker) -> None:
    for topic, group in ((TOPIC, GROUP), ("other", GROUP), (TOPIC, "g2")):
        await broker.append(topic, numbered(1))
        await take((await share(broker, topic=topic, group=group)).consumer)
    assert sorted(record.cursor.topic for record in await pending(broker)) == [TOPIC, "other"]
    assert [record.cursor for record in await pending(broker, topic=TOPIC)] == [SHARED]
    assert list(await broker.operations.list_pending("nobody")) == []


@needs("shared", "retries")
async def test_a_retry_is_due_when_an_operator_says_so(broker: Broker, clock: ManualClock) -> None:
    await broker.append(TOPIC, numbered(2))
    member = await share(broker)
    failed, other = await take(member.consumer)
    rows = [retry(record, due_ms=clock.now_ms() + 60_000, attempts=2) for record in (failed, other)]
    await member.consumer.commit(settle(retries=rows))
    assert await broker.operations.retry_pending((await pending(broker))[:1]) == 1
    assert [(record.offset, record.attempts) for record in await take(member.consumer)] == [(failed.offset, 2)]
    assert await broker.operations.retry_pending(await pending(broker)) == 1


@needs("shared")
async def test_what_is_in_hand_is_not_retried(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(2))
    member = await share(broker)
    batch = await take_batch(member.consumer)
    assert await broker.operations.retry_pending(await pending(broker)) == 0
    assert not await member.consumer.commit(settle(batch.records))


@needs("ordered", "retries")
async def test_an_ordered_retry_is_due_and_its_owner_reads_it_again(broker: Broker, clock: ManualClock) -> None:
    member = await fail_one(broker, clock)
    listed = await pending(broker)
    assert await broker.operations.retry_pending(listed) == 1

    async def go_on() -> None:  # its read may say so, or its commit
        batch = await take_batch(member.consumer)
        assert values(batch.records) == ["0"]
        await member.consumer.commit(settle(batch.records, position=batch.end))

    with pytest.raises(CommitStale):
        await go_on()
    await member.session.close()
    again = await own(broker)
    assert again.consumer.lease is not None
    assert [row.due_ms is not None for row in again.consumer.lease.held] == [True, False, False]
    assert values(await take(again.consumer)) == ["0"]


@needs("shared", "retries")
async def test_a_dropped_record_is_finished_and_counted(broker: Broker, clock: ManualClock) -> None:
    await broker.append(TOPIC, numbered(3))
    member = await share(broker)
    failed, other, done = await take(member.consumer)
    rows = [retry(record, due_ms=clock.now_ms() + 1_000) for record in (failed, other)]
    await member.consumer.commit(settle([done], retries=rows))
    assert await broker.operations.drop_pending((await pending(broker))[:1]) == 1
    assert await read_lag(broker, SHARED) == 1
    assert (await broker.operations.read_info()).dropped == 1
    clock.advance(1_000)
    assert values(await take_all(member.consumer)) == ["1"]


@needs("ordered", "retries")
async def test_a_record_is_dropped_once(broker: Broker, clock: ManualClock) -> None:
    await fail_one(broker, clock)
    listed = await pending(broker)
    assert await broker.operations.drop_pending(listed) == 3
    assert await broker.operations.drop_pending(listed) == 0
    assert (await broker.operations.read_info()).dropped == 3


@needs("shared")
async def test_a_record_in_a_workers_hands_is_dropped_from_them(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(3))
    member = await share(broker)
    batch = await take_batch(member.consumer)
    assert await broker.operations.drop_pending((await pending(broker))[1:2]) == 1
    assert (await read_cursor(broker, SHARED)).pending == 2
    assert list(await member.consumer.commit(settle(batch.records))) == [batch.records[1].offset]
    assert await read_lag(broker, SHARED) == 0


@needs("ordered", "retries")
async def test_what_was_held_back_behind_a_dropped_record_goes_on(broker: Broker, clock: ManualClock) -> None:
    member = await fail_one(broker, clock)
    assert await broker.operations.drop_pending((await pending(broker))[:1]) == 1
    assert await read_lag(broker, ORDERED) == 2
    await member.session.close()
    again = await own(broker)
    batch = await take_batch(again.consumer)
    assert values(batch.records) == ["1"]


@needs("ordered", "retries")
async def test_a_dropped_record_in_the_middle_leaves_the_later_ones_waiting(broker: Broker, clock: ManualClock) -> None:
    member = await fail_one(broker, clock)
    assert await broker.operations.drop_pending((await pending(broker))[1:2]) == 1
    await member.session.close()
    again = await own(broker)
    assert values(await take(again.consumer)) == []
    info = await read_cursor(broker, ORDERED)
    assert (info.retries, info.held_back) == (1, 1)


@needs("ordered", "retries")
async def test_the_owner_of_a_dropped_record_reads_its_cursor_again(broker: Broker, clock: ManualClock) -> None:
    member = await fail_one(broker, clock)
    await broker.append(TOPIC, numbered(1, keys=["a"], start=9))
    batch = await take_batch(member.consumer)
    await broker.operations.drop_pending(await pending(broker))
    held = [retry(record, due_ms=None, attempts=0) for record in batch.records]
    with pytest.raises(CommitStale):
        await member.consumer.commit(settle(retries=held, position=batch.end))
    await member.session.close()
    again = await own(broker)
    assert values(await take_all(again.consumer)) == ["9"]


@needs("ordered", "retries")
async def test_what_is_pending_survives_reopening(world: World, clock: ManualClock) -> None:
    member = await fail_one(world.broker, clock)
    await member.session.close()
    before = [(r.offset, r.waiting, r.attempts, r.error, r.due_ms) for r in await pending(world.broker)]
    broker = await world.reopen()
    assert [(r.offset, r.waiting, r.attempts, r.error, r.due_ms) for r in await pending(broker)] == before
