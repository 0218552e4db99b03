"""Records to run again: durable attempts and due times, in both modes."""

import pytest

from pspf.clock import ManualClock
from pspf.connectors.contract.broker import Broker
from pspf.records import Cursor, Record
from tests.support.brokers import World, needs
from tests.support.workers import (
    GROUP,
    HANDLER,
    TOPIC,
    Member,
    numbered,
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

MODES = pytest.mark.parametrize("handler", [None, HANDLER], ids=["shared", "ordered"])


async def join(broker: Broker, handler: str | None) -> Member:
    """Join shared or ordered."""
    return await own(broker, handler=handler) if handler else await share(broker)


async def fail_first(broker: Broker, handler: str | None, *, due_ms: int, attempts: int = 1) -> Member:
    """Append five records, fail the first and finish the others."""
    await broker.append(TOPIC, numbered(5))
    member = await join(broker, handler)
    batch = await take_batch(member.consumer)
    first, *others = batch.records
    position = batch.end if handler else None
    commit = settle(others, retries=[retry(first, due_ms=due_ms, attempts=attempts)], position=position)
    assert not await member.consumer.commit(commit)
    return member


@needs("retries")
@MODES
async def test_a_retry_comes_when_it_is_due_and_not_before(
    broker: Broker, clock: ManualClock, handler: str | None
) -> None:
    member = await fail_first(broker, handler, due_ms=clock.now_ms() + 1_000)
    assert values(await take(member.consumer)) == []
    clock.advance(999)
    assert values(await take(member.consumer)) == []
    clock.advance(1)
    records = await take(member.consumer)
    assert [(record.value, record.attempts) for record in records] == [(b"0", 1)]


@needs("retries")
@MODES
async def test_a_retry_is_the_record_as_it_was(broker: Broker, clock: ManualClock, handler: str | None) -> None:
    member = await fail_first(broker, handler, due_ms=clock.now_ms())
    stored = (await broker.read(TOPIC, 0, offset=0, max_records=1))[0]
    assert list(await take(member.consumer)) == [stored._replace(attempts=1)]


@needs("retries")
@MODES
async def test_due_retries_come_before_new_records(broker: Broker, clock: ManualClock, handler: str | None) -> None:
    member = await fail_first(broker, handler, due_ms=clock.now_ms() + 100)
    await broker.append(TOPIC, numbered(3, start=5))
    clock.advance(100)
    assert values(await take_in_order(member, handler)) == ["0", "5", "6", "7"]


async def take_in_order(member: Member, handler: str | None) -> list[Record]:
    """Poll and commit until nothing is left; return the records in the order they came."""
    taken: list[Record] = []
    while (batch := await take_batch(member.consumer)).records:
        taken += batch.records
        await member.consumer.commit(settle(batch.records, position=batch.end if handler else None))
    return taken


@needs("retries")
@MODES
async def test_retries_only_gives_no_new_records(broker: Broker, clock: ManualClock, handler: str | None) -> None:
    member = await fail_first(broker, handler, due_ms=clock.now_ms() + 100)
    await broker.append(TOPIC, numbered(3, start=5))
    batch = await member.consumer.poll(max_records=10, timeout_ms=0, retries_only=True)
    assert values(batch.records) == []
    clock.advance(100)
    batch = await member.consumer.poll(max_records=10, timeout_ms=0, retries_only=True)
    assert values(batch.records) == ["0"]


@needs("retries")
@MODES
async def test_attempts_and_due_time_survive_reopening(world: World, clock: ManualClock, handler: str | None) -> None:
    await fail_first(world.broker, handler, due_ms=clock.now_ms() + 60_000, attempts=3)
    broker = await world.reopen()
    member = await join(broker, handler)
    assert values(await take(member.consumer)) == []
    clock.advance(60_000)
    assert [(record.value, record.attempts) for record in await take(member.consumer)] == [(b"0", 3)]


@needs("retries")
@MODES
async def test_a_retry_outlives_its_worker(world: World, clock: ManualClock, handler: str | None) -> None:
    member = await fail_first(world.broker, handler, due_ms=clock.now_ms() + 60_000, attempts=2)
    member.session.abandon()
    await world.expire_leases()
    heir = await join(await world.open_other(), handler)
    assert values(await take(heir.consumer)) == []
    clock.advance(60_000)
    assert [(record.value, record.attempts) for record in await take_all(heir.consumer)] == [(b"0", 2)]


@needs("retries")
@MODES
async def test_a_retry_in_a_dead_workers_hands_keeps_its_attempts(
    world: World, clock: ManualClock, handler: str | None
) -> None:
    member = await fail_first(world.broker, handler, due_ms=clock.now_ms(), attempts=2)
    assert values(await take(member.consumer)) == ["0"]
    member.session.abandon()
    await world.expire_leases()
    heir = await join(await world.open_other(), handler)
    records = await take(heir.consumer)
    assert [(record.value, record.attempts) for record in records] == [(b"0", 2)]


@needs("retries", "crash_counts")
@MODES
async def test_a_retry_in_a_released_workers_hands_keeps_its_attempts(
    world: World, clock: ManualClock, handler: str | None
) -> None:
    member = await fail_first(world.broker, handler, due_ms=clock.now_ms(), attempts=2)
    assert values(await take(member.consumer)) == ["0"]
    await member.consumer.release()
    heir = await join(await world.open_other(), handler)
    batch = await take_batch(heir.consumer)
    assert [(record.value, record.attempts) for record in batch.records] == [(b"0", 2)]
    assert not batch.suspect


@needs("retries")
@MODES
async def test_a_retry_that_fails_again_waits_again(broker: Broker, clock: ManualClock, handler: str | None) -> None:
    member = await fail_first(broker, handler, due_ms=clock.now_ms())
    for attempts in (2, 3, 4):
        batch = await take_batch(member.consumer)
        assert [record.attempts for record in batch.records] == [attempts - 1]
        again = retry(batch.records[0], due_ms=clock.now_ms() + 1_000, attempts=attempts)
        position = batch.end if handler else None
        assert not await member.consumer.commit(settle(retries=[again], position=position))
        assert values(await take(member.consumer)) == []
        clock.advance(1_000)
    assert [record.attempts for record in await take(member.consumer)] == [4]


@needs("retries")
@MODES
async def test_a_retry_that_succeeds_is_finished(world: World, clock: ManualClock, handler: str | None) -> None:
    member = await fail_first(world.broker, handler, due_ms=clock.now_ms())
    batch = await take_batch(member.consumer)
    position = batch.end if handler else None
    assert not await member.consumer.commit(settle(batch.records, position=position))
    cursor = Cursor(TOPIC, GROUP, handler, 0)
    assert await read_lag(world.broker, cursor) == 0
    clock.advance(100_000)
    assert values(await take(member.consumer)) == []
    again = await join(await world.reopen(), handler)
    assert values(await take(again.consumer)) == []


@needs("retries")
@MODES
async def test_retries_count_in_the_lag_and_by_name(broker: Broker, clock: ManualClock, handler: str | None) -> None:
    await fail_first(broker, handler, due_ms=clock.now_ms() + 1_000)
    info = await read_cursor(broker, Cursor(TOPIC, GROUP, handler, 0))
    assert (info.lag, info.retries, info.unread, info.held_back) == (1, 1, 0, 0)


@needs("retries")
@MODES
async def test_due_retries_come_in_offset_order(broker: Broker, clock: ManualClock, handler: str | None) -> None:
    await broker.append(TOPIC, numbered(6))
    member = await join(broker, handler)
    batch = await take_batch(member.consumer)
    due = [retry(record, due_ms=clock.now_ms() + 500) for record in reversed(batch.records)]
    await member.consumer.commit(settle(retries=due, position=batch.end if handler else None))
    clock.advance(500)
    assert values(await take_in_order(member, handler)) == ["0", "1", "2", "3", "4", "5"]


@needs("shared", "retries")
async def test_a_shared_retry_goes_to_one_worker(world: World, clock: ManualClock) -> None:
    member = await fail_first(world.broker, None, due_ms=clock.now_ms() + 100)
    other = await share(await world.open_other())
    clock.advance(100)
    assert values(await take(other.consumer)) == ["0"]
    assert values(await take(member.consumer)) == []


@needs("shared", "retries")
async def test_a_worker_that_lost_a_record_can_not_make_it_a_retry(world: World, clock: ManualClock) -> None:
    await world.broker.append(TOPIC, numbered(1))
    zombie, heir = await share(world.broker), await share(await world.open_other())
    record = (await take(zombie.consumer))[0]
    zombie.session.abandon()
    await world.expire_leases()
    await heir.consumer.commit(settle(await take(heir.consumer)))
    late = settle(retries=[retry(record, due_ms=clock.now_ms())])
    assert list(await zombie.consumer.commit(late)) == [record.offset]
    assert values(await take(heir.consumer)) == []
    assert await read_lag(world.broker, Cursor(TOPIC, GROUP, None, 0)) == 0


@needs("shared", "retries")
async def test_attempts_are_not_shared_between_groups(broker: Broker, clock: ManualClock) -> None:
    await fail_first(broker, None, due_ms=clock.now_ms())
    other = await share(broker, group="other")
    assert [record.attempts for record in await take(other.consumer)] == [0] * 5
