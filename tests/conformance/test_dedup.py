"""De-duplication of appends by the caller's `event_id`, within its window."""

import pytest

from pspf.clock import ManualClock
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.limits import Limits
from tests.support.brokers import World, needs
from tests.support.workers import TOPIC, key_in, new, read_all, values

pytestmark = needs("dedup")


@pytest.fixture
def limits() -> Limits:
    """A small window of ids, so that its end can be reached."""
    return Limits(synchronous="NORMAL", dedup_max_ids=1_000)


async def test_an_event_id_is_stored_once(broker: Broker) -> None:
    first = (await broker.append(TOPIC, [new("first", event_id="e1")]))[0]
    again = (await broker.append(TOPIC, [new("again", event_id="e1")]))[0]
    assert (again.partition, again.offset, again.duplicate) == (first.partition, first.offset, True)
    assert values(await read_all(broker, TOPIC)) == ["first"]


async def test_an_event_id_twice_in_one_call_is_stored_once(broker: Broker) -> None:
    records = [new("a", event_id="e1"), new("b"), new("c", event_id="e1"), new("d", event_id="e2")]
    placed = await broker.append(TOPIC, records)
    assert [place.duplicate for place in placed] == [False, False, True, False]
    assert placed[2].offset == placed[0].offset
    assert values(await read_all(broker, TOPIC)) == ["a", "b", "d"]


async def test_only_the_new_ones_of_a_call_are_stored(broker: Broker) -> None:
    await broker.append(TOPIC, [new(str(n), event_id=str(n)) for n in range(0, 10, 2)])
    placed = await broker.append(TOPIC, [new(str(n), event_id=str(n)) for n in range(10)])
    assert [place.duplicate for place in placed] == [n % 2 == 0 for n in range(10)]
    records = await read_all(broker, TOPIC)
    assert values(records) == ["0", "2", "4", "6", "8", "1", "3", "5", "7", "9"]
    by_offset = {record.offset: record.value.decode() for record in records}
    assert [by_offset[place.offset] for place in placed] == [str(n) for n in range(10)]


async def test_records_without_an_event_id_are_all_stored(broker: Broker) -> None:
    await broker.append(TOPIC, [new("same"), new("same")])
    await broker.append(TOPIC, [new("same")])
    assert values(await read_all(broker, TOPIC)) == ["same"] * 3


async def test_event_ids_count_per_topic(broker: Broker) -> None:
    await broker.append(TOPIC, [new("x", event_id="e1")])
    assert not (await broker.append("other", [new("x", event_id="e1")]))[0].duplicate


async def test_event_ids_count_per_partition(broker: Broker) -> None:
    await broker.create_topic(TOPIC, partitions=2)
    for partition in range(2):
        placed = await broker.append(TOPIC, [new("x", key_in(partition, 2), event_id="e1")])
        assert not placed[0].duplicate


async def test_an_event_id_without_a_key_is_stored_once_in_many_partitions(broker: Broker) -> None:
    await broker.create_topic(TOPIC, partitions=4)
    records = [new(str(n), event_id=f"e{n}") for n in range(10)]
    first = await broker.append(TOPIC, records)
    again = [*await broker.append(TOPIC, records[3:]), *await broker.append(TOPIC, records[:3])]
    assert all(place.duplicate for place in again)
    assert sorted(place.id for place in again) == sorted(place.id for place in first)


async def test_an_event_id_is_remembered_for_the_whole_window(
    broker: Broker, clock: ManualClock, limits: Limits
) -> None:
    await broker.append(TOPIC, [new("first", event_id="e1")])
    for n in range(10):
        clock.advance(limits.dedup_window_ms // 10 - 1)
        await broker.append(TOPIC, [new("other", event_id=f"other-{n}")])
    assert (await broker.append(TOPIC, [new("again", event_id="e1")]))[0].duplicate


async def test_an_event_id_is_new_after_the_window(broker: Broker, clock: ManualClock, limits: Limits) -> None:
    await broker.append(TOPIC, [new("first", event_id="e1")])
    for _ in range(5):
        clock.advance(limits.dedup_window_ms)
        await broker.append(TOPIC, [new("other", event_id=f"other-{clock.now_ms()}")])
    assert not (await broker.append(TOPIC, [new("again", event_id="e1")]))[0].duplicate


async def test_the_newest_event_ids_are_remembered_and_old_ones_make_room(broker: Broker, limits: Limits) -> None:
    ids = [f"e{n}" for n in range(4 * limits.dedup_max_ids)]
    for start in range(0, len(ids), 50):
        await broker.append(TOPIC, [new("x", event_id=name) for name in ids[start : start + 50]])
    recent = ids[-limits.dedup_max_ids // 2 :]
    assert all(place.duplicate for place in await broker.append(TOPIC, [new("x", event_id=name) for name in recent]))
    assert not (await broker.append(TOPIC, [new("x", event_id=ids[0])]))[0].duplicate


async def test_event_ids_are_remembered_over_reopening(world: World) -> None:
    first = (await world.broker.append(TOPIC, [new("first", event_id="e1")]))[0]
    broker = await world.reopen()
    again = (await broker.append(TOPIC, [new("again", event_id="e1")]))[0]
    assert again.duplicate
    assert again.offset == first.offset


@pytest.mark.parametrize("event_id", ["", "x" * 5_000, "naïve-☃", "a\x00b", "1e3"])
async def test_any_text_is_an_event_id(broker: Broker, event_id: str) -> None:
    first = (await broker.append(TOPIC, [new("first", event_id=event_id)]))[0]
    again = (await broker.append(TOPIC, [new("again", event_id=event_id)]))[0]
    assert (first.duplicate, again.duplicate, again.offset) == (False, True, first.offset)


async def test_as_many_event_ids_are_remembered_as_are_promised(broker: Broker, limits: Limits) -> None:
    ids = [f"e{n}" for n in range(2 * limits.dedup_max_ids)]
    for start in range(0, len(ids), 50):
        await broker.append(TOPIC, [new("x", event_id=name) for name in ids[start : start + 50]])
    promised = ids[-limits.dedup_max_ids :]
    again = await broker.append(TOPIC, [new("x", event_id=name) for name in promised])
    assert [place.duplicate for place in again].count(False) == 0


async def test_an_event_id_is_new_soon_after_the_window(broker: Broker, clock: ManualClock, limits: Limits) -> None:
    """Ids are dropped by buckets of time: a quarter of the window later at the most, however many come meanwhile."""
    await broker.append(TOPIC, [new("first", event_id="e1")])
    for n in range(1, 27):
        clock.advance(limits.dedup_window_ms // 20)
        await broker.append(TOPIC, [new("other", event_id=f"other-{n}")])
    assert not (await broker.append(TOPIC, [new("again", event_id="e1")]))[0].duplicate
