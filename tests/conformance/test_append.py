"""Appending: order, places, limits, and all or none."""

from collections.abc import Callable

import pytest

from pspf.clock import ManualClock
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.limits import Limits
from pspf.errors import EventRejected
from pspf.records import NewRecord, encode_headers, parse_id
from tests.support.brokers import World
from tests.support.workers import TOPIC, new, numbered, offsets, read_all, values


async def test_records_are_stored_in_the_order_they_were_given(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(500))
    await broker.append(TOPIC, numbered(500, start=500))
    assert values(await read_all(broker, TOPIC)) == [str(n) for n in range(1_000)]


async def test_offsets_grow_and_are_returned_in_order(broker: Broker) -> None:
    placed = [*await broker.append(TOPIC, numbered(5)), *await broker.append(TOPIC, numbered(5))]
    assert [place.offset for place in placed] == sorted({place.offset for place in placed})
    assert offsets(await read_all(broker, TOPIC)) == [place.offset for place in placed]
    assert not any(place.duplicate for place in placed)


async def test_an_id_names_one_record_of_the_topic(broker: Broker) -> None:
    await broker.create_topic(TOPIC, partitions=3)
    placed = await broker.append(TOPIC, numbered(9))
    assert len({place.id for place in placed}) == 9
    for n, place in enumerate(placed):
        assert parse_id(place.id) == (place.partition, place.offset)
        record = (await broker.read(TOPIC, place.partition, offset=place.offset, max_records=1))[0]
        assert (record.id, record.value) == (place.id, str(n).encode())


async def test_a_record_comes_back_as_it_was_given(broker: Broker, clock: ManualClock) -> None:
    headers = encode_headers({"trace": "00-ab", "ü": "☃"})
    given = NewRecord(b"\xff\x00key", b"\x00\xff{not json", headers, 1_234)
    place = (await broker.append(TOPIC, [given]))[0]
    record = (await read_all(broker, TOPIC))[0]
    assert record == (TOPIC, 0, place.offset, given.raw_key, given.value, given.raw_headers, 1_234, 0)


async def test_a_record_without_a_time_gets_the_brokers(broker: Broker, clock: ManualClock) -> None:
    clock.advance(77)
    await broker.append(TOPIC, [new("1")])
    assert (await read_all(broker, TOPIC))[0].timestamp_ms == clock.now_ms()


async def test_no_key_and_an_empty_key_are_two_things(broker: Broker) -> None:
    await broker.append(TOPIC, [new("none"), new("empty", "")])
    assert [record.raw_key for record in await read_all(broker, TOPIC)] == [None, b""]


async def test_an_empty_value_is_a_value(broker: Broker) -> None:
    await broker.append(TOPIC, [new("")])
    assert values(await read_all(broker, TOPIC)) == [""]


async def test_appending_nothing_stores_nothing(broker: Broker) -> None:
    await broker.create_topic(TOPIC)
    assert list(await broker.append(TOPIC, [])) == []
    assert await read_all(broker, TOPIC) == []


TOO_LARGE: list[Callable[[Limits], NewRecord]] = [
    lambda limits: new(b"x" * (limits.max_record_bytes + 1)),
    lambda limits: new("x", b"k" * (limits.max_key_bytes + 1)),
    lambda limits: new("x", raw_headers=b"h" * (limits.max_headers_bytes + 1)),
]


@pytest.mark.parametrize("make", TOO_LARGE, ids=["value", "key", "headers"])
async def test_one_record_too_large_stores_none_of_the_call(
    broker: Broker, limits: Limits, make: Callable[[Limits], NewRecord]
) -> None:
    await broker.append(TOPIC, [new("before")])
    with pytest.raises(EventRejected):
        await broker.append(TOPIC, [new("first", event_id="a"), make(limits), new("last", event_id="b")])
    assert values(await read_all(broker, TOPIC)) == ["before"]
    placed = await broker.append(TOPIC, [new("first", event_id="a"), new("last", event_id="b")])
    assert not any(place.duplicate for place in placed)


async def test_records_of_the_largest_size_are_stored(broker: Broker, limits: Limits) -> None:
    given = NewRecord(b"k" * limits.max_key_bytes, b"x" * limits.max_record_bytes, b"h" * limits.max_headers_bytes)
    await broker.append(TOPIC, [given])
    record = (await read_all(broker, TOPIC))[0]
    assert (record.raw_key, record.value, record.raw_headers) == given[:3]


async def test_offsets_are_not_used_again_after_reopening(world: World) -> None:
    first = (await world.broker.append(TOPIC, numbered(3)))[-1].offset
    broker = await world.reopen()
    assert (await broker.append(TOPIC, [new("next")]))[0].offset > first
