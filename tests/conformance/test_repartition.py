"""A topic copied into another number of partitions."""

import pytest

from pspf.clock import ManualClock
from pspf.connectors.contract.broker import Broker
from pspf.errors import ConfigurationError, NotFound, Refused, TopicMismatch
from pspf.records import NewRecord, Record, encode_headers, partition_of
from tests.support.brokers import needs
from tests.support.workers import (
    GROUP,
    HANDLER,
    TOPIC,
    letter,
    new,
    numbered,
    own,
    read_all,
    settle,
    share,
    take_all,
    take_batch,
    values,
)

pytestmark = needs("repartition")

KEYS = [f"k{n}" for n in range(20)]


async def fill(broker: Broker, clock: ManualClock, count: int = 60, *, partitions: int = 1) -> None:
    """Append `count` records of 20 keys, one a millisecond."""
    await broker.create_topic(TOPIC, partitions=partitions, retention_ms=3_600_000)
    for record in numbered(count, keys=KEYS):
        clock.advance(1)
        await broker.append(TOPIC, [record])


async def finish(broker: Broker, partitions: int, *, group: str = GROUP, handler: str | None = None) -> None:
    """Let a group handle all there is, and leave."""
    for partition in range(partitions):
        if handler:
            member = await own(broker, group=group, handler=handler, partition=partition)
        else:
            member = await share(broker, group=group, partition=partition)
        batch = await take_batch(member.consumer)
        await member.consumer.commit(settle(batch.records, position=batch.end if handler else None))
        await member.session.close()


async def read_whole(broker: Broker, topic: str = TOPIC) -> list[list[Record]]:
    """Return the topic's records by partition."""
    info, _ = await broker.read_topic(topic)
    return [await read_all(broker, topic, partition) for partition in range(info.partitions)]


@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 1), (3, 5)])
async def test_every_record_goes_to_the_partition_of_its_key(
    broker: Broker, clock: ManualClock, before: int, after: int
) -> None:
    await fill(broker, clock, partitions=before)
    assert await broker.operations.repartition(TOPIC, after) == 60
    partitions = await read_whole(broker)
    assert len(partitions) == after
    assert sorted(int(r.value) for records in partitions for r in records) == list(range(60))
    for number, records in enumerate(partitions):
        assert all(partition_of(r.raw_key or b"", after) == number for r in records)
        assert [int(r.value) for r in records] == sorted(int(r.value) for r in records)
    info, bounds = await broker.read_topic(TOPIC)
    assert (info.records, info.partitions, info.retention_ms) == (60, after, 3_600_000)
    assert [bound.records for bound in bounds] == [len(records) for records in partitions]


async def test_a_record_stays_as_it_is(broker: Broker, clock: ManualClock) -> None:
    await broker.create_topic(TOPIC)
    headers = encode_headers({"trace": "00-ab"})
    await broker.append(TOPIC, [NewRecord(b"k", b"\x00\xff", headers, 1_234), new("none")])
    await broker.operations.repartition(TOPIC, 2)
    records = [record for partition in await read_whole(broker) for record in partition]
    kept = {(r.raw_key, r.value, r.raw_headers) for r in records}
    assert kept == {(b"k", b"\x00\xff", headers), (None, b"none", None)}
    assert {r.timestamp_ms for r in records} == {1_234, clock.now_ms()}


async def test_records_without_a_key_are_dealt_out(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(9))
    await broker.operations.repartition(TOPIC, 3)
    assert [len(records) for records in await read_whole(broker)] == [3, 3, 3]


async def test_no_id_is_used_twice(broker: Broker, clock: ManualClock) -> None:
    await fill(broker, clock)
    before = {record.offset for record in await read_all(broker, TOPIC)}
    await broker.operations.repartition(TOPIC, 2)
    assert before.isdisjoint(record.offset for partition in await read_whole(broker) for record in partition)


@pytest.mark.parametrize("handler", [None, HANDLER], ids=["shared", "ordered"])
async def test_a_group_has_finished_the_copies_and_goes_on_with_new_records(
    broker: Broker, clock: ManualClock, handler: str | None
) -> None:
    await fill(broker, clock)
    await finish(broker, 1, handler=handler)
    await broker.operations.repartition(TOPIC, 3)
    cursors = await broker.list_cursors(group=GROUP)
    assert [(info.cursor.partition, info.cursor.handler, info.lag) for info in cursors] == [
        (partition, handler, 0) for partition in range(3)
    ]
    await broker.append(TOPIC, numbered(20, keys=KEYS, start=60))
    found: list[str] = []
    for partition in range(3):
        if handler:
            member = await own(broker, handler=handler, partition=partition)
        else:
            member = await share(broker, partition=partition)
        found += values(await take_all(member.consumer))
    assert sorted(map(int, found)) == list(range(60, 80))


@needs("shared")
async def test_a_new_group_reads_all_copies(broker: Broker, clock: ManualClock) -> None:
    await fill(broker, clock)
    await broker.operations.repartition(TOPIC, 2)
    found = [r for p in range(2) for r in await take_all((await share(broker, partition=p)).consumer)]
    assert sorted(int(record.value) for record in found) == list(range(60))


async def test_a_duplicate_is_known_after_it(broker: Broker) -> None:
    records = [record._replace(event_id=f"e{n}") for n, record in enumerate(numbered(30, keys=KEYS))]
    await broker.append(TOPIC, records)
    await broker.operations.repartition(TOPIC, 3)
    again = await broker.append(TOPIC, records)
    assert all(place.duplicate for place in again)
    found = {(r.partition, r.offset): r.value for partition in await read_whole(broker) for r in partition}
    assert [found[place.partition, place.offset] for place in again] == [record.value for record in records]


@needs("shared", "replay")
async def test_dead_letters_go_with_their_topic(broker: Broker, clock: ManualClock) -> None:
    await fill(broker, clock, 4)
    member = await share(broker)
    batch = await take_batch(member.consumer)
    await member.consumer.commit(settle(dead=[letter(record) for record in batch.records]))
    await member.session.close()
    await broker.operations.repartition(TOPIC, 3)
    assert (await broker.read_topic(f"{TOPIC}-dlq"))[0].partitions == 3
    letters = await broker.list_dead_letters()
    assert sorted(found.record.value for found in letters) == [b"0", b"1", b"2", b"3"]
    assert await broker.replay_dead_letters(letters, to="mended") == 4
    with pytest.raises(ConfigurationError):
        await broker.operations.repartition(f"{TOPIC}-dlq", 2)


@needs("shared")
async def test_a_topic_in_use_is_left_as_it_is(broker: Broker, clock: ManualClock) -> None:
    await fill(broker, clock)
    member = await share(broker)
    with pytest.raises(Refused, match=member.session.id):
        await broker.operations.repartition(TOPIC, 2)
    assert len(await read_whole(broker)) == 1


@pytest.mark.parametrize("handler", [None, HANDLER], ids=["shared", "ordered"])
async def test_a_topic_that_a_group_has_not_finished_is_left_as_it_is(
    broker: Broker, clock: ManualClock, handler: str | None
) -> None:
    await fill(broker, clock)
    await finish(broker, 1, handler=handler)
    await broker.append(TOPIC, numbered(1))
    with pytest.raises(Refused, match=GROUP):
        await broker.operations.repartition(TOPIC, 2)
    assert len(await read_whole(broker)) == 1


@needs("ordered", "entries")
async def test_state_is_not_forgotten_unless_told(broker: Broker, clock: ManualClock) -> None:
    await fill(broker, clock)
    member = await own(broker)
    batch = await take_batch(member.consumer)
    await member.consumer.commit(settle(batch.records, position=batch.end, state={(b"k1", "n"): b"1"}))
    await member.session.close()
    with pytest.raises(Refused, match=HANDLER):
        await broker.operations.repartition(TOPIC, 2)
    assert len(await broker.list_state()) == 1
    await broker.operations.repartition(TOPIC, 2, reset_state=True)
    assert await broker.list_state() == []


async def test_the_same_number_changes_nothing(broker: Broker, clock: ManualClock) -> None:
    await fill(broker, clock, 5, partitions=2)
    before = await read_whole(broker)
    assert await broker.operations.repartition(TOPIC, 2) == 5
    assert await read_whole(broker) == before


async def test_a_number_that_is_none_is_refused(broker: Broker, clock: ManualClock) -> None:
    await fill(broker, clock, 5)
    with pytest.raises(ConfigurationError):
        await broker.operations.repartition(TOPIC, 0)
    with pytest.raises(NotFound):
        await broker.operations.repartition("nowhere", 2)


async def test_the_new_number_is_the_topics_number(broker: Broker, clock: ManualClock) -> None:
    await fill(broker, clock, 5)
    await broker.operations.repartition(TOPIC, 4)
    assert not await broker.create_topic(TOPIC, partitions=4)
    with pytest.raises(TopicMismatch):
        await broker.create_topic(TOPIC, partitions=1)


@needs("shared", "pending", "trim")
async def test_what_was_lost_and_dropped_stays_counted(broker: Broker, clock: ManualClock) -> None:
    await fill(broker, clock, 6)
    member = await share(broker)
    await take_batch(member.consumer, 2)
    await broker.operations.drop_pending((await broker.operations.list_pending(GROUP))[:1])
    await member.session.close()
    await broker.operations.trim(TOPIC, 0, max_records=0, drop_unread=True)
    await broker.operations.repartition(TOPIC, 2)
    info = await broker.operations.read_info()
    assert (info.lost, info.dropped) == (5, 1)
