"""Retention trims below the lowest floor of all groups, and never above it."""

import pytest

from pspf.clock import ManualClock
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.values import FOREVER
from tests.support.brokers import needs
from tests.support.workers import (
    HANDLER,
    TOPIC,
    Member,
    letter,
    new,
    numbered,
    own,
    read_all,
    retry,
    settle,
    share,
    take_all,
    take_batch,
    values,
)

pytestmark = needs("trim")

MODES = pytest.mark.parametrize("handler", [None, HANDLER], ids=["shared", "ordered"])


async def join(broker: Broker, handler: str | None, group: str = "g") -> Member:
    """Join shared or ordered."""
    return await own(broker, handler=handler, group=group) if handler else await share(broker, group=group)


async def finish(member: Member, count: int) -> None:
    """Handle `count` records, one commit each."""
    for _ in range(count):
        batch = await take_batch(member.consumer, 1)
        assert len(batch.records) == 1
        position = batch.end if member.consumer.lease else None
        assert not await member.consumer.commit(settle(batch.records, position=position))


async def work_on(broker: Broker, members: list[Member], clock: ManualClock) -> None:
    """Let some more records pass all members, so that what may be trimmed is."""
    for n in range(3):
        clock.advance(2_000)
        await broker.append(TOPIC, numbered(1, start=1_000 + n))
        for member in members:
            await finish(member, 1)


@MODES
async def test_consumed_records_are_trimmed(broker: Broker, clock: ManualClock, handler: str | None) -> None:
    await broker.create_topic(TOPIC, retention_ms=0)
    await broker.append(TOPIC, numbered(10))
    member = await join(broker, handler)
    await finish(member, 10)
    await work_on(broker, [member], clock)
    left = values(await read_all(broker, TOPIC))
    assert set(left).isdisjoint({str(n) for n in range(10)})
    info, partitions = await broker.read_topic(TOPIC)
    assert (info.records, partitions[0].records) == (len(left), len(left))
    assert partitions[0].first > 10


@MODES
async def test_nothing_is_trimmed_that_a_group_has_not_read(
    broker: Broker, clock: ManualClock, handler: str | None
) -> None:
    await broker.create_topic(TOPIC, retention_ms=0)
    await broker.append(TOPIC, numbered(10))
    slow, fast = await join(broker, handler, "slow"), await join(broker, handler, "fast")
    await finish(slow, 4)
    await finish(fast, 10)
    await work_on(broker, [fast], clock)
    left = values(await read_all(broker, TOPIC))
    assert left[-9:-3] == ["4", "5", "6", "7", "8", "9"]
    await finish(slow, 9)


@needs("ordered")
async def test_nothing_is_trimmed_that_another_handler_of_the_group_has_not_read(
    broker: Broker, clock: ManualClock
) -> None:
    await broker.create_topic(TOPIC, retention_ms=0)
    await broker.append(TOPIC, numbered(10))
    slow, fast = await own(broker, handler="app.slow"), await own(broker, handler="app.fast")
    await finish(fast, 10)
    await work_on(broker, [fast], clock)
    await finish(slow, 13)


@needs("retries")
@MODES
async def test_nothing_is_trimmed_that_waits_for_a_retry(
    broker: Broker, clock: ManualClock, handler: str | None
) -> None:
    await broker.create_topic(TOPIC, retention_ms=0)
    await broker.append(TOPIC, numbered(10))
    member = await join(broker, handler)
    batch = await take_batch(member.consumer)
    failed, *done = batch.records
    waiting = retry(failed, due_ms=clock.now_ms() + 50_000)
    await member.consumer.commit(settle(done, retries=[waiting], position=batch.end if handler else None))
    await work_on(broker, [member], clock)
    assert values(await read_all(broker, TOPIC))[:10] == [str(n) for n in range(10)]
    clock.advance(50_000)
    batch = await take_batch(member.consumer)
    assert values(batch.records) == ["0"]
    await member.consumer.commit(settle(batch.records, position=batch.end if handler else None))
    await work_on(broker, [member], clock)
    assert "0" not in values(await read_all(broker, TOPIC))


@needs("ordered", "retries")
async def test_nothing_is_trimmed_that_is_held_back(broker: Broker, clock: ManualClock) -> None:
    await broker.create_topic(TOPIC, retention_ms=0)
    await broker.append(TOPIC, [new(str(n), "k") for n in range(3)])
    member = await own(broker)
    batch = await take_batch(member.consumer)
    rows = [retry(record, due_ms=None, attempts=0) for record in batch.records]
    await member.consumer.commit(settle(retries=rows, position=batch.end))
    await work_on(broker, [member], clock)
    assert values(await read_all(broker, TOPIC))[:3] == ["0", "1", "2"]


@needs("shared")
async def test_nothing_is_trimmed_that_is_pending(broker: Broker, clock: ManualClock) -> None:
    await broker.create_topic(TOPIC, retention_ms=0)
    await broker.append(TOPIC, numbered(10))
    slow, fast = await share(broker, group="g"), await share(broker, group="g")
    pending = await take_batch(slow.consumer, 2)
    await finish(fast, 8)
    await work_on(broker, [fast], clock)
    assert values(await read_all(broker, TOPIC))[:2] == ["0", "1"]
    assert not await slow.consumer.commit(settle(pending.records))


@needs("shared")
async def test_a_consumed_topic_without_groups_keeps_its_records(broker: Broker, clock: ManualClock) -> None:
    await broker.create_topic(TOPIC, retention_ms=0)
    for n in range(5):
        await broker.append(TOPIC, numbered(1, start=n))
        clock.advance(2_000)
    member = await share(broker)
    assert values((await take_batch(member.consumer)).records) == ["0", "1", "2", "3", "4"]


@MODES
async def test_retention_counts_after_every_group_passed(
    broker: Broker, clock: ManualClock, handler: str | None
) -> None:
    await broker.create_topic(TOPIC, retention_ms=60_000)
    await broker.append(TOPIC, numbered(10))
    clock.advance(600_000)  # nobody reads for ten minutes: no reason to forget
    member = await join(broker, handler)
    await finish(member, 10)
    await work_on(broker, [member], clock)
    assert values(await read_all(broker, TOPIC))[:10] == [str(n) for n in range(10)]
    clock.advance(120_000)
    await work_on(broker, [member], clock)
    assert set(values(await read_all(broker, TOPIC))).isdisjoint({str(n) for n in range(10)})


async def test_without_groups_retention_counts_from_the_append(broker: Broker, clock: ManualClock) -> None:
    await broker.create_topic(TOPIC, retention_ms=60_000)
    await broker.append(TOPIC, numbered(5))
    clock.advance(30_000)
    await broker.append(TOPIC, numbered(5, start=5))
    clock.advance(45_000)
    for n in range(10, 13):
        await broker.append(TOPIC, numbered(1, start=n))
        clock.advance(2_000)
    assert values(await read_all(broker, TOPIC))[:5] == ["5", "6", "7", "8", "9"]


async def test_an_old_event_time_is_no_reason_to_forget(broker: Broker, clock: ManualClock) -> None:
    await broker.create_topic(TOPIC, retention_ms=60_000)
    for n in range(5):
        await broker.append(TOPIC, [new(str(n), timestamp_ms=1_000_000 + n)])
        clock.advance(2_000)
    assert values(await read_all(broker, TOPIC)) == ["0", "1", "2", "3", "4"]


@MODES
async def test_a_topic_kept_for_ever_is_never_trimmed(broker: Broker, clock: ManualClock, handler: str | None) -> None:
    await broker.create_topic(TOPIC, retention_ms=FOREVER)
    await broker.append(TOPIC, numbered(10))
    member = await join(broker, handler)
    await finish(member, 10)
    clock.advance(10 * 365 * 24 * 3_600_000)
    await work_on(broker, [member], clock)
    assert len(await read_all(broker, TOPIC)) == 13


@MODES
async def test_a_group_made_after_trimming_starts_at_the_first_retained(
    broker: Broker, clock: ManualClock, handler: str | None
) -> None:
    await broker.create_topic(TOPIC, retention_ms=0)
    await broker.append(TOPIC, numbered(10))
    first = await join(broker, handler, "first")
    await finish(first, 10)
    await work_on(broker, [first], clock)
    left = values(await read_all(broker, TOPIC))
    late = await join(broker, handler, "late")
    assert values((await take_batch(late.consumer)).records) == left


@needs("replay")
@MODES
async def test_a_dead_letter_that_was_replayed_is_kept_until_it_is_done(
    broker: Broker, clock: ManualClock, handler: str | None
) -> None:
    await broker.create_topic(TOPIC, retention_ms=60_000)
    await broker.append(TOPIC, numbered(10))
    member = await join(broker, handler)
    batch = await take_batch(member.consumer)
    dead = batch.records[3]
    done = [record for record in batch.records if record is not dead]
    await member.consumer.commit(settle(done, dead=[letter(dead, group="g")], position=batch.end if handler else None))
    await work_on(broker, [member], clock)  # by now it is known that all ten were passed
    assert await broker.replay_dead_letters(await broker.list_dead_letters()) == 1
    for n in range(3):
        clock.advance(40_000)
        await broker.append(TOPIC, numbered(1, start=2_000 + n))
        await broker.ping()
    left = values(await read_all(broker, TOPIC))
    assert left[0] == "3", "what is before it was kept long enough"
    await member.session.close()
    member = await join(broker, handler)
    assert "3" in values(await take_all(member.consumer))


@MODES
async def test_a_changed_retention_is_the_one_that_trims(
    broker: Broker, clock: ManualClock, handler: str | None
) -> None:
    await broker.create_topic(TOPIC, retention_ms=FOREVER)
    await broker.append(TOPIC, numbered(10))
    member = await join(broker, handler)
    await finish(member, 10)
    await work_on(broker, [member], clock)
    assert len(await read_all(broker, TOPIC)) == 13
    await broker.operations.set_retention(TOPIC, 0)
    await work_on(broker, [member], clock)
    assert len(await read_all(broker, TOPIC)) < 10
    await member.session.close()
