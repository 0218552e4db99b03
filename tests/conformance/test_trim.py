"""Trimming by an operator: what goes, what a group keeps, what is lost and said to be."""

import pytest

from pspf.clock import ManualClock
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.operations import Trimmed
from pspf.errors import CommitFenced, NotFound
from pspf.records import Cursor
from tests.support.brokers import needs
from tests.support.workers import (
    GROUP,
    HANDLER,
    TOPIC,
    Member,
    key_in,
    new,
    numbered,
    own,
    read_all,
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

pytestmark = needs("trim")

MODES = pytest.mark.parametrize("handler", [None, HANDLER], ids=["shared", "ordered"])


async def join(broker: Broker, handler: str | None, group: str = GROUP) -> Member:
    """Join shared or ordered."""
    return await own(broker, handler=handler, group=group) if handler else await share(broker, group=group)


async def trim(broker: Broker, **how: object) -> Trimmed:
    """Trim the only partition of the topic."""
    return await broker.operations.trim(TOPIC, 0, **how)  # type: ignore[arg-type]  # the parameters of each test


async def kept(broker: Broker) -> list[str]:
    return values(await read_all(broker, TOPIC))


async def test_records_before_an_offset_are_trimmed(broker: Broker) -> None:
    places = await broker.append(TOPIC, numbered(6))
    trimmed = await trim(broker, before=places[2].offset)
    assert (trimmed.records, list(trimmed.lost)) == (2, [])
    assert trimmed.size_bytes in (2, None)
    assert await kept(broker) == ["2", "3", "4", "5"]
    info, partitions = await broker.read_topic(TOPIC)
    assert (info.records, partitions[0].first) == (4, places[2].offset)


async def test_the_last_so_many_stay(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(6))
    assert (await trim(broker, max_records=9)).records == 0
    assert (await trim(broker, max_records=2)).records == 4
    assert await kept(broker) == ["4", "5"]
    assert (await trim(broker, max_records=0)).records == 2
    assert await kept(broker) == []


async def test_so_many_bytes_of_the_last_stay(broker: Broker) -> None:
    await broker.append(TOPIC, [new("x" * 100) for _ in range(10)])
    assert (await trim(broker, max_bytes=5_000)).records == 0
    trimmed = await trim(broker, max_bytes=350)
    assert trimmed.records == 7
    assert trimmed.size_bytes in (700, None)
    assert (await broker.read_topic(TOPIC))[0].records == 3


@needs("shared")
async def test_new_records_come_behind_what_was_trimmed(broker: Broker) -> None:
    places = await broker.append(TOPIC, numbered(3))
    await trim(broker, max_records=0)
    (after,) = await broker.append(TOPIC, numbered(1, start=3))
    assert after.offset > places[-1].offset
    member = await share(broker)
    assert values(await take_all(member.consumer)) == ["3"]


@needs("retries")
@MODES
async def test_what_a_group_has_not_finished_stays(broker: Broker, clock: ManualClock, handler: str | None) -> None:
    places = await broker.append(TOPIC, numbered(6))
    member = await join(broker, handler)
    batch = await take_batch(member.consumer, 4)
    first, failed, *done = batch.records
    rows = [retry(failed, due_ms=clock.now_ms() + 1_000)]
    await member.consumer.commit(settle([first, *done], retries=rows, position=batch.end if handler else None))
    trimmed = await trim(broker, max_records=0)
    assert (trimmed.records, trimmed.after) == (1, places[1].offset)
    assert [cursor.group for cursor in trimmed.held_by] == [GROUP]
    assert (trimmed.wanted > trimmed.after, list(trimmed.lost)) == (True, [])
    assert await kept(broker) == ["1", "2", "3", "4", "5"]
    assert await read_lag(broker, Cursor(TOPIC, GROUP, handler, 0)) == 3


@needs("shared", "ordered")
async def test_the_slowest_of_all_groups_counts(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(4))
    slow, fast = await share(broker, group="slow"), await own(broker, group="fast")
    await slow.consumer.commit(settle((await take_batch(slow.consumer, 1)).records))
    batch = await take_batch(fast.consumer)
    await fast.consumer.commit(settle(batch.records, position=batch.end))
    trimmed = await trim(broker, max_records=0)
    assert [cursor.group for cursor in trimmed.held_by] == ["slow"]
    assert await kept(broker) == ["1", "2", "3"]


@MODES
async def test_what_is_dropped_unread_is_counted_and_the_group_goes_on_behind_it(
    broker: Broker, handler: str | None
) -> None:
    await broker.append(TOPIC, numbered(6))
    member = await join(broker, handler)
    batch = await take_batch(member.consumer, 2)
    await member.consumer.commit(settle(batch.records, position=batch.end if handler else None))
    await member.session.close()
    cursor = Cursor(TOPIC, GROUP, handler, 0)
    trimmed = await trim(broker, max_records=1, drop_unread=True)
    assert [(loss.cursor, loss.records) for loss in trimmed.lost] == [(cursor, 3)]
    assert (await broker.operations.read_info()).lost == 3
    assert await read_lag(broker, cursor) == 1
    member = await join(broker, handler)
    assert values(await take_all(member.consumer)) == ["5"]


@needs("retries")
@MODES
async def test_what_waited_for_a_retry_and_is_gone_waits_no_more(
    broker: Broker, clock: ManualClock, handler: str | None
) -> None:
    await broker.append(TOPIC, numbered(4, keys=["a"]))
    member = await join(broker, handler)
    batch = await take_batch(member.consumer)
    failed, second, third, done = batch.records
    due_ms = clock.now_ms() + 1_000
    waiting = [retry(record, due_ms=None if handler else due_ms, attempts=0) for record in (second, third)]
    rows = [retry(failed, due_ms=due_ms), *waiting]
    await member.consumer.commit(settle([done], retries=rows, position=batch.end if handler else None))
    await member.session.close()
    trimmed = await trim(broker, before=third.offset, drop_unread=True)
    assert [loss.records for loss in trimmed.lost] == [2]
    assert await read_lag(broker, Cursor(TOPIC, GROUP, handler, 0)) == 1
    clock.advance(1_000)
    member = await join(broker, handler)
    batch = await take_batch(member.consumer)
    assert values(batch.records) == ["2"]
    await member.consumer.commit(settle(batch.records, position=batch.end if handler else None))
    assert await read_lag(broker, Cursor(TOPIC, GROUP, handler, 0)) == 0


@needs("shared")
async def test_what_a_shared_worker_has_in_hand_is_taken_from_it(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(4))
    member = await share(broker)
    batch = await take_batch(member.consumer)
    trimmed = await trim(broker, before=batch.records[2].offset, drop_unread=True)
    assert [loss.records for loss in trimmed.lost] == [2]
    assert (await read_cursor(broker, Cursor(TOPIC, GROUP, None, 0))).pending == 2
    assert sorted(await member.consumer.commit(settle(batch.records))) == [r.offset for r in batch.records[:2]]
    assert await read_lag(broker, Cursor(TOPIC, GROUP, None, 0)) == 0


@needs("ordered")
async def test_the_owner_of_what_is_dropped_reads_its_cursor_again(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(4))
    member = await own(broker)
    batch = await take_batch(member.consumer, 2)
    await trim(broker, before=batch.records[1].offset, drop_unread=True)
    with pytest.raises(CommitFenced):
        await member.consumer.commit(settle(batch.records, position=batch.end))
    await member.session.close()
    assert values(await take((await own(broker)).consumer)) == ["1", "2", "3"]


@MODES
async def test_a_dry_run_says_what_would_go_and_changes_nothing(broker: Broker, handler: str | None) -> None:
    await broker.append(TOPIC, numbered(4))
    member = await join(broker, handler)
    await member.session.close()
    planned = await trim(broker, max_records=1, drop_unread=True, dry_run=True)
    assert (planned.records, [loss.records for loss in planned.lost]) == (3, [3])
    assert len(await kept(broker)) == 4
    assert (await broker.operations.read_info()).lost == 0
    careful = await trim(broker, max_records=1, dry_run=True)
    assert (careful.records, [cursor.handler for cursor in careful.held_by]) == (0, [handler])


async def test_one_partition_is_trimmed_alone(broker: Broker) -> None:
    await broker.create_topic(TOPIC, partitions=2)
    keys = [key_in(0, 2), key_in(1, 2)]
    await broker.append(TOPIC, numbered(6, keys=keys))
    await broker.operations.trim(TOPIC, 1, max_records=1)
    assert values(await read_all(broker, TOPIC, 0)) == ["0", "2", "4"]
    assert values(await read_all(broker, TOPIC, 1)) == ["5"]


@needs("shared")
async def test_many_records_are_trimmed_in_steps(broker: Broker) -> None:
    for _ in range(5):
        await broker.append(TOPIC, numbered(10_000))
    member = await share(broker)
    await member.session.close()
    trimmed = await trim(broker, max_records=3, drop_unread=True)
    assert trimmed.records == 49_997
    assert [loss.records for loss in trimmed.lost] == [49_997]
    assert len(await kept(broker)) == 3


async def test_what_is_not_there_is_not_found(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(1))
    for topic, partition in (("nowhere", 0), (TOPIC, 3)):
        with pytest.raises(NotFound):
            await broker.operations.trim(topic, partition, max_records=0)
