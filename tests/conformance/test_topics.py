"""Topics: names, partitions, and what they may be used with."""

import pytest

from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.values import FOREVER
from pspf.errors import ConfigurationError, NotFound, TopicMismatch
from pspf.records import partition_of
from tests.support.brokers import World, needs
from tests.support.workers import TOPIC, new, numbered, own, read_all, settle, share, values


async def test_a_topic_is_made_once(broker: Broker) -> None:
    assert await broker.create_topic(TOPIC, partitions=3)
    assert not await broker.create_topic(TOPIC, partitions=3)
    assert [(info.topic, info.partitions) for info in await broker.list_topics()] == [(TOPIC, 3)]


async def test_a_topic_has_one_partition_unless_told(broker: Broker) -> None:
    await broker.create_topic(TOPIC)
    info, partitions = await broker.read_topic(TOPIC)
    assert info.partitions == 1
    assert [partition.partition for partition in partitions] == [0]


async def test_no_number_of_partitions_takes_a_topic_as_it_is(broker: Broker) -> None:
    await broker.create_topic(TOPIC, partitions=4)
    assert not await broker.create_topic(TOPIC)
    assert (await broker.read_topic(TOPIC))[0].partitions == 4


async def test_another_number_of_partitions_is_refused(broker: Broker) -> None:
    await broker.create_topic(TOPIC, partitions=4)
    with pytest.raises(TopicMismatch, match=r"orders.*4"):
        await broker.create_topic(TOPIC, partitions=8)
    assert (await broker.read_topic(TOPIC))[0].partitions == 4


async def test_the_refusal_of_another_number_of_partitions_names_the_ways_out(broker: Broker) -> None:
    await broker.create_topic(TOPIC)
    with pytest.raises(TopicMismatch, match="has 1 partition, not 4") as refused:
        await broker.create_topic(TOPIC, partitions=4)
    assert "leave the number out" in str(refused.value)
    assert f"pspf topics repartition {TOPIC} --partitions 4 --execute" in str(refused.value)


@pytest.mark.parametrize("partitions", [0, -1])
async def test_a_topic_without_partitions_is_refused(broker: Broker, partitions: int) -> None:
    with pytest.raises(ConfigurationError):
        await broker.create_topic(TOPIC, partitions=partitions)


@pytest.mark.parametrize("name", ["", "a b", "{a}", "a/b", "ordres\n", "ünder", "a" * 201, "a\x00b", "'; DROP TABLE"])
async def test_a_topic_of_a_bad_name_is_refused(broker: Broker, name: str) -> None:
    with pytest.raises(ConfigurationError):
        await broker.create_topic(name)
    with pytest.raises(ConfigurationError):
        await broker.append(name, [new("1")])
    assert await broker.list_topics() == []


@pytest.mark.parametrize("name", ["orders-dlq", "orders-late"])
async def test_the_endings_of_companions_are_reserved(broker: Broker, name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        await broker.create_topic(name)
    with pytest.raises(ConfigurationError, match=name):
        await broker.append(name, [new("1")])
    assert await broker.list_topics() == []


async def test_an_unknown_topic_is_not_found(broker: Broker) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        await broker.read_topic("nowhere")
    with pytest.raises(NotFound, match="nowhere"):
        await broker.read("nowhere", 0, offset=0, max_records=1)


async def test_an_unknown_partition_is_not_found(broker: Broker) -> None:
    await broker.create_topic(TOPIC, partitions=2)
    with pytest.raises(NotFound):
        await broker.read(TOPIC, 2, offset=0, max_records=1)


async def test_the_first_append_makes_a_topic_of_one_partition(broker: Broker) -> None:
    await broker.append(TOPIC, [new("1", "k")])
    assert (await broker.read_topic(TOPIC))[0].partitions == 1


@needs("shared")
async def test_registering_makes_the_topic(broker: Broker) -> None:
    session = await broker.open_session()
    assert await session.register(TOPIC, "g", None) == 1
    assert [info.topic for info in await broker.list_topics()] == [TOPIC]


@needs("ordered")
async def test_registering_returns_the_number_of_partitions(broker: Broker) -> None:
    await broker.create_topic(TOPIC, partitions=5)
    session = await broker.open_session()
    assert await session.register(TOPIC, "g", "h") == 5


async def test_a_key_always_goes_to_the_partition_of_its_crc(broker: Broker) -> None:
    await broker.create_topic(TOPIC, partitions=4)
    keys = [f"customer-{n}" for n in range(40)] + ["", "ключ", "🙂"]
    placed = await broker.append(TOPIC, [new(key, key) for key in keys])
    assert [place.partition for place in placed] == [partition_of(key.encode(), 4) for key in keys]
    for partition in range(4):
        records = await read_all(broker, TOPIC, partition)
        assert values(records) == [key for key in keys if partition_of(key.encode(), 4) == partition]


async def test_records_without_a_key_go_round_robin(broker: Broker) -> None:
    await broker.create_topic(TOPIC, partitions=4)
    for _ in range(20):
        await broker.append(TOPIC, [new("one")])
    await broker.append(TOPIC, [new("many") for _ in range(20)])
    counts = [len(await read_all(broker, TOPIC, partition)) for partition in range(4)]
    assert counts == [10, 10, 10, 10]


async def test_a_topic_counts_its_records_and_bytes(broker: Broker) -> None:
    await broker.create_topic(TOPIC, partitions=2)
    await broker.append(TOPIC, [new("12345") for _ in range(6)])
    info, partitions = await broker.read_topic(TOPIC)
    assert (info.records, [partition.records for partition in partitions]) == (6, [3, 3])
    assert info.size_bytes is not None
    assert info.size_bytes >= 30
    assert [partition.next - partition.first for partition in partitions] == [3, 3]


async def test_a_topics_size_grows_with_its_records_and_is_0_without(broker: Broker) -> None:
    await broker.create_topic(TOPIC, partitions=2)
    assert (await broker.read_topic(TOPIC))[0].size_bytes == 0
    sizes = []
    for _ in range(2):
        await broker.append(TOPIC, [new("x" * 10_000) for _ in range(50)])
        sizes += [info.size_bytes for info in await broker.list_topics() if info.topic == TOPIC]
    first, second = sizes
    assert first is not None
    assert second is not None
    assert 0.8 < first / 500_000 < 1.5
    assert 0.8 < second / 1_000_000 < 1.5


async def test_a_topic_keeps_the_retention_it_was_made_with(world: World) -> None:
    await world.broker.create_topic("a", retention_ms=FOREVER)
    await world.broker.create_topic("b", retention_ms=0)
    await world.broker.create_topic("c", retention_ms=60_000)
    await world.broker.create_topic("d")
    broker = await world.reopen()
    kept = [info.retention_ms for info in await broker.list_topics()]
    assert kept == [FOREVER, 0, 60_000, world.limits.retention_ms]


@needs("shared")
async def test_companions_have_the_partitions_of_their_source(broker: Broker) -> None:
    await broker.create_topic(TOPIC, partitions=3)
    session = await broker.open_session()
    assert await session.register(f"{TOPIC}-dlq", "g", None) == 3


async def test_topics_and_their_records_survive_reopening(world: World) -> None:
    await world.broker.create_topic(TOPIC, partitions=2)
    await world.broker.append(TOPIC, numbered(10))
    broker = await world.reopen()
    assert (await broker.read_topic(TOPIC))[0].records == 10
    assert sorted(values(await read_all(broker, TOPIC, 0)) + values(await read_all(broker, TOPIC, 1))) == [
        str(n) for n in range(10)
    ]


@needs("shared", "ordered")
async def test_shared_and_ordered_groups_of_one_topic_do_not_disturb_each_other(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(6, keys=["a", "b"]))
    first = await own(broker, handler="app.first")
    second = await own(broker, handler="app.second")
    other_group = await own(broker, group="other", handler="app.first")
    shared = await share(broker)
    for consumer in (first.consumer, second.consumer, other_group.consumer, shared.consumer):
        batch = await consumer.poll(max_records=100, timeout_ms=0)
        assert values(batch.records) == ["0", "1", "2", "3", "4", "5"]
        position = batch.end if consumer.lease else None
        assert not await consumer.commit(settle(batch.records, position=position))
    assert [info.lag for info in await broker.list_cursors()] == [0, 0, 0, 0]


@needs("shared")
async def test_a_name_that_leaves_no_room_for_its_companions_is_refused(world: World) -> None:
    broker, name = world.broker, "a" * 196
    session = await broker.open_session()
    for act in (broker.create_topic(name), broker.append(name, [new("v")]), session.register(name, "g", None)):
        with pytest.raises(ConfigurationError, match="196 characters: use 1 to 195"):
            await act
    assert await broker.list_topics() == []
    assert await broker.create_topic("a" * 195)


@needs("trim")
@pytest.mark.parametrize("retention_ms", [0, 5_000, FOREVER, None])
async def test_a_topics_retention_is_changed(world: World, retention_ms: int | None) -> None:
    broker = world.broker
    await broker.create_topic(TOPIC, partitions=3, retention_ms=1_000)
    assert await broker.operations.set_retention(TOPIC, retention_ms, dry_run=True) == 1_000
    assert (await broker.read_topic(TOPIC))[0].retention_ms == 1_000
    assert await broker.operations.set_retention(TOPIC, retention_ms) == 1_000
    expected = broker.limits.retention_ms if retention_ms is None else retention_ms
    assert (await broker.read_topic(TOPIC))[0].retention_ms == expected
    assert not await broker.create_topic(TOPIC, partitions=3, retention_ms=9_000)
    other = await world.open_other()
    info, partitions = await other.read_topic(TOPIC)
    assert (info.retention_ms, len(partitions)) == (expected, 3)


@needs("trim")
async def test_no_topic_has_no_retention(broker: Broker) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        await broker.operations.set_retention("nowhere", 1_000)
    assert await broker.list_topics() == []
