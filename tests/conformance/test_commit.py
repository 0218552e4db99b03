"""What a commit carries: emits, state, and records held back; and that a refused one leaves nothing."""

import asyncio
from collections.abc import Callable

import pytest

from pspf.clock import ManualClock
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.cursors import Consumer
from pspf.connectors.contract.limits import Limits
from pspf.errors import ConfigurationError, EventRejected
from pspf.records import Cursor, Emit, NewRecord, encode_headers, partition_of
from tests.support.brokers import World, needs
from tests.support.workers import (
    GROUP,
    HANDLER,
    TOPIC,
    emit,
    key_in,
    letter,
    new,
    numbered,
    own,
    read_all,
    read_cursor,
    retry,
    settle,
    share,
    take,
    take_batch,
    values,
)
from tests.support.workers import read_state as read_state_of

CURSOR = Cursor(TOPIC, GROUP, HANDLER, 0)


@needs("ordered")
async def test_emits_are_stored_in_order_with_all_they_carry(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(1))
    member = await own(broker)
    batch = await take_batch(member.consumer)
    source = batch.records[0]
    given = NewRecord(b"\xffk", b"\x00raw", encode_headers({"a": "b"}), 1_234)
    emits = [emit(source, "first"), Emit(source.offset, "alerts", given), emit(source, "last")]
    await member.consumer.commit(settle(batch.records, position=batch.end, emits=emits))
    records = await read_all(broker, "alerts")
    assert [record.value for record in records] == [b"first", b"\x00raw", b"last"]
    assert (records[1].raw_key, records[1].raw_headers, records[1].timestamp_ms) == (b"\xffk", given.raw_headers, 1_234)


@needs("shared")
async def test_an_emit_goes_to_the_partition_of_its_key(broker: Broker) -> None:
    await broker.create_topic("alerts", partitions=4)
    await broker.append(TOPIC, numbered(1))
    member = await share(broker)
    source = (await take(member.consumer))[0]
    keys = [f"k{n}" for n in range(20)]
    await member.consumer.commit(settle([source], emits=[emit(source, key, key=key) for key in keys]))
    for partition in range(4):
        expected = [key for key in keys if partition_of(key.encode(), 4) == partition]
        assert values(await read_all(broker, "alerts", partition)) == expected


@needs("shared")
async def test_emits_of_a_commit_are_not_deduplicated(broker: Broker) -> None:
    await broker.append("alerts", [new("outside", event_id="e1")])
    await broker.append(TOPIC, numbered(2))
    member = await share(broker)
    records = await take(member.consumer)
    emits = [Emit(record.offset, "alerts", new("inside", event_id="e1")) for record in records]
    await member.consumer.commit(settle(records, emits=emits))
    assert values(await read_all(broker, "alerts")) == ["outside", "inside", "inside"]


@needs("ordered")
async def test_a_handler_may_emit_to_the_topic_it_reads(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(1))
    member = await own(broker)
    batch = await take_batch(member.consumer)
    emits = [emit(batch.records[0], "again", topic=TOPIC)]
    await member.consumer.commit(settle(batch.records, position=batch.end, emits=emits))
    assert values(await take(member.consumer)) == ["again"]


@needs("shared", "ordered")
async def test_a_waiting_group_gets_what_a_commit_emits(live_world: World) -> None:
    broker = live_world.broker
    await broker.append(TOPIC, numbered(1))
    member, reader = await own(broker), await share(await live_world.open_other(), topic="alerts", group="ops")
    batch = await take_batch(member.consumer)
    polling = asyncio.create_task(reader.consumer.poll(max_records=10, timeout_ms=20_000))
    await asyncio.sleep(0.05)
    await member.consumer.commit(settle(batch.records, position=batch.end, emits=[emit(batch.records[0], "alert")]))
    async with asyncio.timeout(10):
        assert values((await polling).records) == ["alert"]


BAD_EMITS: dict[str, Callable[[Limits], Emit]] = {
    "value": lambda limits: Emit(0, "alerts", new(b"x" * (limits.max_record_bytes + 1))),
    "key": lambda limits: Emit(0, "alerts", new("x", b"k" * (limits.max_key_bytes + 1))),
    "headers": lambda limits: Emit(0, "alerts", new("x", raw_headers=b"h" * (limits.max_headers_bytes + 1))),
    "topic": lambda limits: Emit(0, "not a topic", new("x")),
}


@needs("retries", "entries")
@pytest.mark.parametrize("handler", [None, HANDLER], ids=["shared", "ordered"])
@pytest.mark.parametrize("bad", BAD_EMITS)
async def test_a_commit_with_one_bad_emit_leaves_nothing(
    broker: Broker, limits: Limits, handler: str | None, bad: str
) -> None:
    await broker.append(TOPIC, numbered(3))
    member = await own(broker) if handler else await share(broker)
    batch = await take_batch(member.consumer)
    first, second, last = batch.records
    commit = settle(
        [first],
        position=batch.end if handler else None,
        dead=[letter(second)],
        retries=[retry(last, due_ms=0)],
        emits=[emit(first, "good"), BAD_EMITS[bad](limits)._replace(source=first.offset)],
        state={(b"k", "n"): b"1"} if handler else None,
    )
    with pytest.raises((EventRejected, ConfigurationError)):
        await member.consumer.commit(commit)
    assert await read_all(broker, "alerts") == []
    assert list(await broker.list_dead_letters()) == []
    assert list(await broker.list_state()) == []
    info = await read_cursor(broker, Cursor(TOPIC, GROUP, handler, 0))
    assert (info.lag, info.retries) == (3, 0)
    good = settle(batch.records, position=batch.end if handler else None)
    assert list(await member.consumer.commit(good)) == []
    assert (await read_cursor(broker, Cursor(TOPIC, GROUP, handler, 0))).lag == 0


@needs("ordered", "entries")
async def test_state_is_read_back_by_key_and_name(world: World) -> None:
    await world.broker.append(TOPIC, numbered(2))
    member = await own(world.broker)
    batch = await take_batch(member.consumer, 1)
    state = {(b"a", "count"): b"1", (b"a", "sum"): b"[2]", (b"b", "count"): b"3", (b"\xff\x00", "ü"): b"{}"}
    await member.consumer.commit(settle(batch.records, position=batch.end, state=state))
    expected = {b"a": {"count": b"1", "sum": b"[2]"}, b"b": {"count": b"3"}}
    assert await read_state(member.consumer, b"a", b"b", b"c") == expected
    again = await own(await world.reopen())
    assert await read_state(again.consumer, b"a", b"b", b"c") == expected
    assert await read_state(again.consumer, b"\xff\x00") == {b"\xff\x00": {"ü": b"{}"}}


async def read_state(consumer: Consumer, *keys: bytes) -> dict[bytes, dict[str, bytes]]:
    """Return the state of the keys that have some."""
    return await read_state_of(consumer, keys)


@needs("ordered", "entries")
async def test_a_state_value_of_none_is_deleted(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(2))
    member = await own(broker)
    first = await take_batch(member.consumer, 1)
    await member.consumer.commit(
        settle(first.records, position=first.end, state={(b"k", "a"): b"1", (b"k", "b"): b"2"})
    )
    second = await take_batch(member.consumer, 1)
    await member.consumer.commit(
        settle(second.records, position=second.end, state={(b"k", "a"): None, (b"k", "never"): None})
    )
    assert await read_state(member.consumer, b"k") == {b"k": {"b": b"2"}}


@needs("ordered", "entries")
async def test_state_belongs_to_the_handler_and_partition(broker: Broker) -> None:
    await broker.create_topic(TOPIC, partitions=2)
    await broker.append(TOPIC, [new("0", key_in(0, 2)), new("1", key_in(1, 2))])
    for handler in ("app.one", "app.two"):
        for partition in (0, 1):
            member = await own(broker, handler=handler, partition=partition)
            batch = await take_batch(member.consumer)
            assert await read_state(member.consumer, b"k") == {}
            value = f'"{handler} {partition}"'.encode()
            await member.consumer.commit(settle(batch.records, position=batch.end, state={(b"k", "n"): value}))
    entries = [(entry.handler, entry.partition, entry.value) for entry in await broker.list_state(handler="app.two")]
    assert entries == [("app.two", 0, b'"app.two 0"'), ("app.two", 1, b'"app.two 1"')]


@needs("ordered", "entries")
async def test_state_is_listed_by_handler_group_key_and_name(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(1))
    for group, handler in (("g", "b"), ("g", "a"), ("h", "a")):
        member = await own(broker, group=group, handler=handler)
        batch = await take_batch(member.consumer)
        state = {(b"k2", "n"): b"1", (b"k1", "n"): b"1", (b"k1", "m"): b"2"}
        await member.consumer.commit(settle(batch.records, position=batch.end, state=state))
    one = await broker.list_state(handler="a", group="g")
    assert [(e.topic, e.group, e.handler, e.key, e.name, e.value) for e in one] == [
        (TOPIC, "g", "a", b"k1", "m", b"2"),
        (TOPIC, "g", "a", b"k1", "n", b"1"),
        (TOPIC, "g", "a", b"k2", "n", b"1"),
    ]
    assert list(await broker.list_state(handler="a", group="g", max_entries=2)) == list(one[:2])
    assert [entry.handler for entry in await broker.list_state(key=b"k2")] == ["a", "a", "b"]
    assert len(await broker.list_state(name="m", group="h")) == 1
    assert list(await broker.list_state(name="none")) == []


@needs("ordered", "retries")
async def test_records_held_back_are_kept_for_the_next_owner(world: World, clock: ManualClock) -> None:
    await world.broker.append(TOPIC, numbered(4, keys=["a", "b"]))
    member = await own(world.broker)
    batch = await take_batch(member.consumer)
    failed, done, held, also_done = batch.records
    due_ms = clock.now_ms() + 5_000
    rows = [
        retry(failed, due_ms=due_ms, attempts=2, error="ValueError: ü"),
        retry(held, due_ms=None, attempts=0, error=""),
    ]
    await member.consumer.commit(settle([done, also_done], position=batch.end, retries=rows))
    info = await read_cursor(world.broker, CURSOR)
    assert (info.lag, info.unread, info.retries, info.held_back) == (2, 0, 1, 1)
    again = await own(await world.reopen())
    assert again.consumer.lease is not None
    assert list(again.consumer.lease.held) == rows


@needs("ordered", "retries")
async def test_a_record_held_back_comes_once_it_is_due(broker: Broker, clock: ManualClock) -> None:
    await broker.append(TOPIC, numbered(3, keys=["a"]))
    member = await own(broker)
    batch = await take_batch(member.consumer)
    failed, *held = batch.records
    rows = [retry(failed, due_ms=clock.now_ms() + 1_000), *(retry(record, due_ms=None, attempts=0) for record in held)]
    await member.consumer.commit(settle(position=batch.end, retries=rows))
    clock.advance(1_000)
    assert values(await take(member.consumer)) == ["0"]
    freed = [retry(record, due_ms=clock.now_ms(), attempts=0) for record in held]
    await member.consumer.commit(settle([failed], retries=freed, position=batch.end))
    batch = await take_batch(member.consumer)
    assert [(record.value, record.attempts) for record in batch.records] == [(b"1", 0), (b"2", 0)]
    await member.consumer.commit(settle(batch.records, position=batch.end))
    info = await read_cursor(broker, CURSOR)
    assert (info.lag, info.retries, info.held_back) == (0, 0, 0)


@needs("ordered", "retries")
async def test_the_position_moves_on_while_a_record_waits(world: World, clock: ManualClock) -> None:
    await world.broker.append(TOPIC, numbered(2))
    member = await own(world.broker)
    batch = await take_batch(member.consumer)
    waiting = retry(batch.records[0], due_ms=clock.now_ms() + 60_000)
    await member.consumer.commit(settle(batch.records[1:], position=batch.end, retries=[waiting]))
    await world.broker.append(TOPIC, numbered(2, start=2))
    assert values(await take(member.consumer)) == ["2", "3"]
    again = await own(await world.reopen())
    assert values(await take(again.consumer)) == ["2", "3"]
