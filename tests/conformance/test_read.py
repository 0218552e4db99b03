"""Reading the log without a group, and waiting for it to grow."""

import asyncio
import time

import pytest

from pspf.cli.parsing import TopicPosition
from pspf.cli.services.start_positions import find_offsets
from pspf.clock import ManualClock
from pspf.connectors.contract.broker import Broker
from pspf.errors import NotFound
from pspf.records import Appended, Cursor
from tests.support.brokers import World, needs
from tests.support.workers import GROUP, TOPIC, new, numbered, retry, settle, share, take, values


async def test_read_starts_at_the_offset_and_stops_at_the_count(broker: Broker) -> None:
    placed = await broker.append(TOPIC, numbered(10))
    records = await broker.read(TOPIC, 0, offset=placed[4].offset, max_records=3)
    assert values(records) == ["4", "5", "6"]


async def test_read_behind_the_end_is_empty(broker: Broker) -> None:
    placed = await broker.append(TOPIC, numbered(2))
    assert list(await broker.read(TOPIC, 0, offset=placed[-1].offset + 1, max_records=10)) == []


async def test_an_offset_larger_than_any_that_there_is_reads_nothing(broker: Broker) -> None:
    await broker.create_topic(TOPIC, partitions=2)
    placed = await broker.append(TOPIC, numbered(4))
    for beyond in (1 << 39, 1 << 40, 1 << 41, 1 << 62, 1 << 63):
        for partition in (0, 1):
            assert list(await broker.read(TOPIC, partition, offset=placed[-1].offset + beyond, max_records=10)) == []


async def test_read_before_the_first_record_starts_at_it(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(2))
    assert values(await broker.read(TOPIC, 0, offset=0, max_records=10)) == ["0", "1"]


@needs("shared")
async def test_reading_takes_nothing_from_a_group(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(3))
    member = await share(broker)
    await broker.read(TOPIC, 0, offset=0, max_records=10)
    batch = await member.consumer.poll(max_records=10, timeout_ms=0)
    assert values(batch.records) == ["0", "1", "2"]


async def test_find_offset_is_the_first_record_stored_at_or_after_a_time(broker: Broker, clock: ManualClock) -> None:
    start_ms = clock.now_ms()
    placed: list[Appended] = []
    for n in range(5):
        placed += await broker.append(TOPIC, [new(str(n))])
        clock.advance(1_000)
    assert await broker.find_offset(TOPIC, 0, at_ms=start_ms - 5_000) <= placed[0].offset
    assert await broker.find_offset(TOPIC, 0, at_ms=start_ms + 2_000) == placed[2].offset
    assert await broker.find_offset(TOPIC, 0, at_ms=start_ms + 2_001) == placed[3].offset


async def test_find_offset_of_what_is_not_there_is_not_found(broker: Broker) -> None:
    await broker.create_topic(TOPIC, partitions=1)
    for topic, partition in (("nowhere", 0), (TOPIC, 1)):
        with pytest.raises(NotFound):
            await broker.find_offset(topic, partition, at_ms=0)
    assert [info.topic for info in await broker.list_topics()] == [TOPIC]


@needs("shared")
async def test_a_shared_cursor_that_was_not_registered_is_not_found(broker: Broker) -> None:
    await broker.create_topic(TOPIC, partitions=1)
    session = await broker.open_session()
    for topic in ("nowhere", TOPIC):
        with pytest.raises(NotFound):
            await session.share(Cursor(topic, GROUP, None, 0))
    await session.close()
    assert [info.topic for info in await broker.list_topics()] == [TOPIC]


async def test_find_offset_behind_the_last_record_is_the_end(broker: Broker, clock: ManualClock) -> None:
    placed = await broker.append(TOPIC, numbered(3))
    end = await broker.find_offset(TOPIC, 0, at_ms=clock.now_ms() + 1)
    assert end > placed[-1].offset
    assert (await broker.append(TOPIC, [new("next")]))[0].offset >= end


async def test_wait_returns_when_a_record_is_appended(live_world: World) -> None:
    broker = await live_world.open_other()
    await broker.create_topic(TOPIC)
    started = time.monotonic()
    waiting = asyncio.create_task(live_world.broker.wait(TOPIC, timeout_ms=20_000))
    await asyncio.sleep(0.05)
    await broker.append(TOPIC, [new("1")])
    await waiting
    assert time.monotonic() - started < 10


async def test_wait_returns_after_its_timeout(live_world: World) -> None:
    await live_world.broker.create_topic(TOPIC)
    started = time.monotonic()
    await live_world.broker.wait(TOPIC, timeout_ms=100)
    assert time.monotonic() - started < 5


@needs("shared")
async def test_a_waiting_poll_returns_when_a_record_is_appended(live_world: World) -> None:
    other = await live_world.open_other()
    member = await share(live_world.broker)
    started = time.monotonic()
    polling = asyncio.create_task(member.consumer.poll(max_records=10, timeout_ms=20_000))
    await asyncio.sleep(0.05)
    await other.append(TOPIC, [new("1")])
    assert values((await polling).records) == ["1"]
    assert time.monotonic() - started < 10


@needs("shared")
async def test_a_poll_without_records_is_empty_after_its_timeout(live_world: World) -> None:
    member = await share(live_world.broker)
    started = time.monotonic()
    assert list((await member.consumer.poll(max_records=10, timeout_ms=150)).records) == []
    assert 0.1 < time.monotonic() - started < 5


@needs("shared", "retries")
async def test_a_waiting_poll_returns_when_a_retry_becomes_due(live_world: World) -> None:
    broker = live_world.broker
    await broker.append(TOPIC, numbered(1))
    member = await share(broker)
    record = (await take(member.consumer))[0]
    due_ms = int(time.time() * 1_000) + 300
    await member.consumer.commit(settle(retries=[retry(record, due_ms=due_ms)]))
    batch = await member.consumer.poll(max_records=10, timeout_ms=20_000)
    assert values(batch.records) == ["0"]
    assert 0 <= time.time() * 1_000 - due_ms < 5_000


async def test_the_last_so_many_are_found_where_offsets_are_sparse(broker: Broker, clock: ManualClock) -> None:
    """On a server an offset is a time: the guess of where the last ten begin is far off behind a burst."""
    for count, pause_ms in ((500, 1), *[(1, 3_600_000)] * 12):
        clock.advance(pause_ms)
        await broker.append(TOPIC, numbered(count))
    offsets = await find_offsets(broker, TOPIC, TopicPosition(last=10))
    assert len(await broker.read(TOPIC, 0, offset=offsets[0], max_records=100)) == 10
