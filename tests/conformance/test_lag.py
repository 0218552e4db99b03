"""Lag is exact after every step, in both modes."""

import pytest

from pspf.clock import ManualClock
from pspf.connectors.contract.broker import Broker
from pspf.records import Cursor
from tests.support.brokers import World, needs
from tests.support.workers import (
    GROUP,
    HANDLER,
    TOPIC,
    letter,
    numbered,
    own,
    read_cursor,
    retry,
    settle,
    share,
    take_batch,
)


async def counts(broker: Broker, handler: str | None) -> tuple[int | None, int | None, int, int, int]:
    """Return (lag, unread, pending, held back, retries)."""
    info = await read_cursor(broker, Cursor(TOPIC, GROUP, handler, 0))
    return info.lag, info.unread, info.pending, info.held_back, info.retries


@needs("shared", "retries")
async def test_the_lag_of_a_shared_cursor_step_by_step(world: World, clock: ManualClock) -> None:
    broker = world.broker
    member = await share(broker)
    assert await counts(broker, None) == (0, 0, 0, 0, 0)
    await broker.append(TOPIC, numbered(10))
    assert await counts(broker, None) == (10, 10, 0, 0, 0)
    batch = await take_batch(member.consumer, 6)
    assert await counts(broker, None) == (10, 4, 6, 0, 0)
    await member.consumer.commit(settle(batch.records[1:4]))
    assert (await counts(broker, None))[0] == 7
    await member.consumer.commit(settle(retries=[retry(batch.records[0], due_ms=clock.now_ms() + 1_000)]))
    lag, _, _, held_back, retries = await counts(broker, None)
    assert (lag, held_back, retries) == (7, 0, 1)
    await member.consumer.commit(settle(dead=[letter(batch.records[4])]))
    assert (await counts(broker, None))[0] == 6
    await member.session.close()
    assert (await counts(broker, None))[0] == 6
    clock.advance(1_000)
    member = await share(await world.reopen())
    assert (await counts(world.broker, None))[0] == 6
    left = 6
    while (batch := await take_batch(member.consumer, 2)).records:
        await member.consumer.commit(settle(batch.records))
        left -= len(batch.records)
        assert (await counts(world.broker, None))[0] == left
    assert await counts(world.broker, None) == (0, 0, 0, 0, 0)


@needs("ordered", "retries")
async def test_the_lag_of_an_ordered_cursor_step_by_step(world: World, clock: ManualClock) -> None:
    broker = world.broker
    member = await own(broker)
    assert await counts(broker, HANDLER) == (0, 0, 0, 0, 0)
    await broker.append(TOPIC, numbered(10, keys=["a", "b"]))
    assert (await counts(broker, HANDLER))[0] == 10
    batch = await take_batch(member.consumer, 6)
    assert (await counts(broker, HANDLER))[0] == 10
    failed, one, held, two, dead, three = batch.records
    rows = [retry(failed, due_ms=clock.now_ms() + 1_000), retry(held, due_ms=None, attempts=0)]
    await member.consumer.commit(settle([one, two, three], dead=[letter(dead)], retries=rows, position=batch.end))
    assert await counts(broker, HANDLER) == (6, 4, 0, 1, 1)
    await member.session.close()
    assert await counts(broker, HANDLER) == (6, 4, 0, 1, 1)
    clock.advance(1_000)
    member = await own(await world.reopen())
    batch = await take_batch(member.consumer)
    assert (await counts(world.broker, HANDLER))[0] == 6
    freed = [retry(held, due_ms=clock.now_ms(), attempts=0)]
    await member.consumer.commit(settle(batch.records, retries=freed, position=batch.end))
    assert await counts(world.broker, HANDLER) == (1, 0, 0, 0, 1)
    batch = await take_batch(member.consumer)
    await member.consumer.commit(settle(batch.records, position=batch.end))
    assert await counts(world.broker, HANDLER) == (0, 0, 0, 0, 0)


@pytest.mark.parametrize("handler", [None, HANDLER], ids=["shared", "ordered"])
async def test_committed_is_the_last_record_of_a_group_that_is_done(broker: Broker, handler: str | None) -> None:
    member = await own(broker, handler=handler) if handler else await share(broker)
    cursor = Cursor(TOPIC, GROUP, handler, 0)
    info = await read_cursor(broker, cursor)
    assert (info.committed, info.end) == (None, None)
    placed = await broker.append(TOPIC, numbered(5))
    info = await read_cursor(broker, cursor)
    assert (info.committed, info.end) == (None, placed[-1].offset)
    batch = await take_batch(member.consumer)
    await member.consumer.commit(settle(batch.records, position=batch.end if handler else None))
    info = await read_cursor(broker, cursor)
    assert (info.committed, info.end) == (placed[-1].offset, placed[-1].offset)


@needs("shared")
async def test_committed_of_a_shared_cursor_is_before_what_is_pending(broker: Broker) -> None:
    member = await share(broker)
    placed = await broker.append(TOPIC, numbered(5))
    batch = await take_batch(member.consumer)
    await member.consumer.commit(settle([batch.records[0], batch.records[2], batch.records[4]]))
    info = await read_cursor(broker, Cursor(TOPIC, GROUP, None, 0))
    assert (info.committed, info.end, info.pending) == (placed[0].offset, placed[-1].offset, 2)


@needs("shared")
async def test_the_age_of_what_is_pending(broker: Broker, clock: ManualClock) -> None:
    member = await share(broker)
    await broker.append(TOPIC, numbered(2))
    assert (await read_cursor(broker, Cursor(TOPIC, GROUP, None, 0))).oldest_pending_ms is None
    batch = await take_batch(member.consumer)
    clock.advance(812)
    age_ms = (await read_cursor(broker, Cursor(TOPIC, GROUP, None, 0))).oldest_pending_ms
    assert age_ms in (810, 811, 812, 813)  # a server says its time and the age in two words: a ms may pass in between
    await member.consumer.commit(settle(batch.records))
    assert (await read_cursor(broker, Cursor(TOPIC, GROUP, None, 0))).oldest_pending_ms is None


@needs("shared", "ordered")
async def test_cursors_are_listed_by_group_topic_handler_and_partition(broker: Broker) -> None:
    await broker.create_topic("b", partitions=2)
    joined = [("h", "a", None), ("g", "b", "z"), ("g", "b", None), ("g", "a", "y"), ("g", "b", "x")]
    session = await broker.open_session()
    for group, topic, handler in joined:
        await session.register(topic, group, handler)
    cursors = [info.cursor for info in await broker.list_cursors()]
    listed = [(cursor.group, cursor.topic, cursor.handler, cursor.partition) for cursor in cursors]
    assert listed == [
        ("g", "a", "y", 0),
        ("g", "b", None, 0),
        ("g", "b", None, 1),
        ("g", "b", "x", 0),
        ("g", "b", "x", 1),
        ("g", "b", "z", 0),
        ("g", "b", "z", 1),
        ("h", "a", None, 0),
    ]
    assert len(await broker.list_cursors(group="g", topic="b")) == 6
    assert len(await broker.list_cursors(topic="a")) == 2
    assert list(await broker.list_cursors(group="nobody")) == []


@needs("shared")
async def test_the_lag_is_of_each_partition(broker: Broker) -> None:
    await broker.create_topic(TOPIC, partitions=3)
    await broker.append(TOPIC, numbered(9))
    member = await share(broker, partition=1)
    batch = await take_batch(member.consumer)
    await member.consumer.commit(settle(batch.records))
    assert [info.lag for info in await broker.list_cursors()] == [3, 0, 3]
