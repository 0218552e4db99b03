"""Shared mode: every worker takes records, no two the same, and a dead one's come back."""

import asyncio

import pytest

from pspf.clock import ManualClock
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.limits import Limits
from pspf.errors import StateUnavailable
from pspf.records import Cursor
from tests.support.brokers import World, needs
from tests.support.workers import (
    GROUP,
    TOPIC,
    emit,
    numbered,
    read_all,
    read_lag,
    settle,
    share,
    take,
    take_all,
    values,
)

pytestmark = needs("shared")

CURSOR = Cursor(TOPIC, GROUP, None, 0)


async def test_two_sessions_never_get_the_same_record(world: World) -> None:
    await world.broker.append(TOPIC, numbered(100))
    members = [await share(world.broker), await share(await world.open_other()), await share(world.broker)]
    taken: list[str] = []
    for _ in range(40):
        for member in members:
            taken += values(await take(member.consumer, 3))
    assert sorted(taken, key=int) == [str(n) for n in range(100)]


async def test_a_poll_gives_at_most_the_records_asked_for(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(10))
    member = await share(broker)
    assert values(await take(member.consumer, 4)) == ["0", "1", "2", "3"]


async def test_a_worker_may_poll_on_before_it_commits(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(6))
    member = await share(broker)
    first, second = await take(member.consumer, 3), await take(member.consumer, 3)
    assert values(second) == ["3", "4", "5"]
    assert not await member.consumer.commit(settle(second))
    assert not await member.consumer.commit(settle(first))
    assert await read_lag(broker, CURSOR) == 0


async def test_a_record_of_a_batch_may_be_finished_before_the_others(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(4))
    member = await share(broker)
    records = await take(member.consumer)
    assert not await member.consumer.commit(settle([records[2]]))
    assert await read_lag(broker, CURSOR) == 3
    assert not await member.consumer.commit(settle([records[0], records[1], records[3]]))
    assert await read_lag(broker, CURSOR) == 0
    assert values(await take_all(member.consumer)) == []


async def test_a_slow_consumer_keeps_its_own_while_it_lives(world: World, limits: Limits) -> None:
    await world.broker.append(TOPIC, numbered(3))
    slow, other = await share(world.broker), await share(await world.open_other())
    records = await take(slow.consumer)
    for _ in range(5):
        await world.expire_leases()
        assert values(await take(other.consumer)) == []
    assert not await slow.consumer.commit(settle(records))
    assert await read_lag(world.broker, CURSOR) == 0


@needs("crash_counts")
async def test_released_records_come_back_at_once_and_uncharged(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(3))
    first, second = await share(broker), await share(broker)
    await take(first.consumer)
    await first.consumer.release()
    batch = await second.consumer.poll(max_records=10, timeout_ms=0)
    assert values(batch.records) == ["0", "1", "2"]
    assert [record.attempts for record in batch.records] == [0, 0, 0]
    assert (batch.suspect, batch.crashes) == (False, 0)


@needs("crash_counts")
async def test_the_records_of_a_closed_session_come_back_at_once(world: World) -> None:
    await world.broker.append(TOPIC, numbered(3))
    first, second = await share(world.broker), await share(await world.open_other())
    await take(first.consumer)
    await first.session.close()
    batch = await second.consumer.poll(max_records=10, timeout_ms=0)
    assert values(batch.records) == ["0", "1", "2"]
    assert not batch.suspect


async def test_a_released_consumer_may_poll_again(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(3))
    member = await share(broker)
    await take(member.consumer)
    await member.consumer.release()
    records = await take_all(member.consumer)
    assert values(records) == ["0", "1", "2"]
    assert not await member.consumer.commit(settle(records))
    assert await read_lag(broker, CURSOR) == 0


async def test_an_abandoned_sessions_records_come_back_within_the_lease(world: World) -> None:
    await world.broker.append(TOPIC, numbered(3))
    dead, alive = await share(world.broker), await share(await world.open_other())
    await take(dead.consumer)
    dead.session.abandon()
    await world.expire_leases()
    assert sorted(values(await take_all(alive.consumer, 2))) == ["0", "1", "2"]


async def test_a_dead_workers_records_come_back_though_the_clock_steps_back(world: World, clock: ManualClock) -> None:
    await world.broker.append(TOPIC, numbered(3))
    dead, alive = await share(world.broker), await share(await world.open_other())
    await take(dead.consumer)
    dead.session.abandon()
    clock.set_wall(clock.now_ms() - 3_600_000)
    assert values(await take(alive.consumer)) == []
    await world.expire_leases()
    assert sorted(values(await take_all(alive.consumer))) == ["0", "1", "2"]


async def test_a_closed_brokers_records_come_back_after_reopening(world: World) -> None:
    await world.broker.append(TOPIC, numbered(3))
    await take((await share(world.broker)).consumer)
    member = await share(await world.reopen())
    assert values(await take_all(member.consumer)) == ["0", "1", "2"]


async def test_a_commit_after_takeover_has_no_effect_and_returns_its_offsets(world: World) -> None:
    broker = world.broker
    await broker.append(TOPIC, numbered(3))
    zombie, heir = await share(broker), await share(await world.open_other())
    records = await take(zombie.consumer)
    zombie.session.abandon()
    await world.expire_leases()
    again = await take_all(heir.consumer)
    late = settle(records, emits=[emit(record, "zombie") for record in records])
    assert sorted(await zombie.consumer.commit(late)) == [record.offset for record in records]
    assert await read_all(broker, "alerts") == []
    assert await read_lag(broker, CURSOR) == 3
    mine = settle(again, emits=[emit(record, "heir") for record in again])
    assert not await heir.consumer.commit(mine)
    assert values(await read_all(broker, "alerts")) == ["heir"] * 3


async def test_a_commit_after_anothers_commit_has_no_effect(world: World) -> None:
    broker = world.broker
    await broker.append(TOPIC, numbered(2))
    zombie, heir = await share(broker), await share(broker)
    records = await take(zombie.consumer)
    await zombie.consumer.release()
    again = await take_all(heir.consumer)
    await heir.consumer.commit(settle(again, emits=[emit(record, "heir") for record in again]))
    late = settle(records, emits=[emit(record, "zombie") for record in records])
    assert sorted(await zombie.consumer.commit(late)) == [record.offset for record in records]
    assert values(await read_all(broker, "alerts")) == ["heir"] * 2
    assert await read_lag(broker, CURSOR) == 0


async def test_only_the_records_that_are_still_ours_take_effect(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(3))
    member = await share(broker)
    records = await take(member.consumer)
    await member.consumer.commit(settle([records[1]], emits=[emit(records[1], "1")]))
    late = settle(records, emits=[emit(record, record.value.decode()) for record in records])
    assert list(await member.consumer.commit(late)) == [records[1].offset]
    assert values(await read_all(broker, "alerts")) == ["1", "0", "2"]
    assert await read_lag(broker, CURSOR) == 0


async def test_a_commit_sent_again_takes_effect_once(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(2))
    member = await share(broker)
    records = await take(member.consumer)
    commit = settle(records, emits=[emit(record, record.value.decode()) for record in records])
    for _ in range(3):
        await member.consumer.commit(commit)
    assert values(await read_all(broker, "alerts")) == ["0", "1"]
    assert await read_lag(broker, CURSOR) == 0


async def test_a_batch_that_stands_together_is_not_applied_in_part(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(3))
    member = await share(broker)
    records = await take(member.consumer)
    await member.consumer.commit(settle([records[0]]))
    whole = settle(records, emits=[emit(record, "batch") for record in records], whole=True)
    assert records[0].offset in await member.consumer.commit(whole)
    assert await read_all(broker, "alerts") == []
    assert await read_lag(broker, CURSOR) == 2
    again = await take_all(member.consumer)
    assert values(again) == ["1", "2"]
    rest = settle(again, emits=[emit(record, "rest") for record in again], whole=True)
    assert not await member.consumer.commit(rest)
    assert values(await read_all(broker, "alerts")) == ["rest", "rest"]
    assert await read_lag(broker, CURSOR) == 0


async def test_a_batch_that_stands_together_is_applied_as_a_whole(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(3))
    member = await share(broker)
    records = await take(member.consumer)
    commit = settle(records, emits=[emit(records[-1], "sum")], whole=True)
    assert not await member.consumer.commit(commit)
    assert values(await read_all(broker, "alerts")) == ["sum"]
    assert await read_lag(broker, CURSOR) == 0


async def test_records_appended_while_others_are_pending_are_given(broker: Broker, clock: ManualClock) -> None:
    member = await share(broker)
    for n in range(5):
        await broker.append(TOPIC, numbered(1, start=n))
        assert values(await take(member.consumer)) == [str(n)]
    assert await read_lag(broker, CURSOR) == 5


async def test_the_records_of_a_cancelled_poll_are_given_back_by_a_release(world: World) -> None:
    await world.broker.append(TOPIC, numbered(3))
    member, other = await share(world.broker), await share(await world.open_other())
    polling = asyncio.create_task(member.consumer.poll(max_records=10, timeout_ms=0))
    await asyncio.sleep(0)
    polling.cancel()
    await asyncio.gather(polling, return_exceptions=True)
    await member.consumer.release()
    assert values(await take_all(other.consumer)) == ["0", "1", "2"]


async def test_what_comes_while_a_cancelled_poll_still_waits_is_given_by_the_next(broker: Broker) -> None:
    member = await share(broker)
    polling = asyncio.create_task(member.consumer.poll(max_records=1, timeout_ms=5_000))
    await asyncio.sleep(0.05)
    polling.cancel()
    await asyncio.gather(polling, return_exceptions=True)
    polling = asyncio.create_task(member.consumer.poll(max_records=1, timeout_ms=5_000))
    await asyncio.sleep(0.05)
    await broker.append(TOPIC, numbered(3))
    given = [*(await polling).records, *await take_all(member.consumer)]
    assert values(given) == ["0", "1", "2"]


@needs("entries")
async def test_a_shared_consumer_keeps_no_state(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(1))
    member = await share(broker)
    records = await take(member.consumer)
    with pytest.raises(StateUnavailable):
        await member.consumer.commit(settle(records, state={(b"k", "n"): b"1"}))
    assert await read_lag(broker, CURSOR) == 1


async def test_a_shared_consumer_has_no_lease(broker: Broker) -> None:
    member = await share(broker)
    assert member.consumer.lease is None
    assert member.consumer.cursor == CURSOR
