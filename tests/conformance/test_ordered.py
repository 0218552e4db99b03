"""Ordered mode: one owner at a time, and what a commit of the wrong one does: nothing."""

import asyncio
from dataclasses import replace

import pytest

from pspf.clock import ManualClock
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.cursors import Consumer
from pspf.connectors.contract.limits import Limits
from pspf.errors import CommitFenced, ConfigurationError
from pspf.records import Batch, Commit, Cursor, Emit
from tests.support.brokers import World, leased, needs
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
    read_lag,
    retry,
    settle,
    take,
    take_all,
    take_batch,
    values,
)

CURSOR = Cursor(TOPIC, GROUP, HANDLER, 0)


def everything(broker: Broker, batch: Batch, mark: str) -> Commit:
    """Return a commit with one of each effect: the first record dead, the second to retry, the others done.

    State is among them where the broker keeps some.
    """
    dead, failed, *done = batch.records
    return settle(
        done,
        position=batch.end,
        dead=[letter(dead)],
        retries=[retry(failed, due_ms=0)],
        emits=[emit(record, f"{mark} {record.value.decode()}") for record in done],
        state={(b"k", "count"): mark.encode()} if broker.capabilities.entries else None,
    )


async def check_untouched(broker: Broker, lag: int) -> None:
    """Check that no effect of `everything` is there."""
    assert await read_all(broker, "alerts") == []
    assert list(await broker.list_dead_letters()) == []
    assert not broker.capabilities.entries or list(await broker.list_state()) == []
    info = await read_cursor(broker, CURSOR)
    assert (info.lag, info.retries, info.held_back) == (lag, 0, 0)


async def check_applied_once(broker: Broker, mark: str) -> None:
    """Check that the effects of `everything` on four records are there, once."""
    assert values(await read_all(broker, "alerts")) == [f"{mark} 2", f"{mark} 3"]
    assert [found.record.value for found in await broker.list_dead_letters()] == [b"0"]
    if broker.capabilities.entries:
        assert [(entry.key, entry.name, entry.value) for entry in await broker.list_state()] == [
            (b"k", "count", mark.encode())
        ]
    info = await read_cursor(broker, CURSOR)
    assert (info.lag, info.retries) == (1, 1)


@needs("ordered", "leases")
async def test_a_cursor_has_one_owner_at_a_time(world: World) -> None:
    await world.broker.append(TOPIC, numbered(1))
    owner = await own(world.broker)
    for broker in (world.broker, await world.open_other()):
        other = await broker.open_session()
        await other.register(TOPIC, GROUP, HANDLER)
        assert await leased(other).acquire(CURSOR) is None
        await world.expire_leases()
        assert await leased(other).acquire(CURSOR) is None
    assert (await read_cursor(world.broker, CURSOR)).owner == owner.session.id


@needs("ordered", "leases")
async def test_a_released_cursor_is_free_at_once(world: World) -> None:
    owner = await own(world.broker)
    await owner.consumer.release()
    assert (await read_cursor(world.broker, CURSOR)).owner is None
    await own(await world.open_other())


@needs("ordered")
async def test_a_closed_sessions_cursors_are_free_at_once(world: World) -> None:
    owner = await own(world.broker)
    await owner.session.close()
    await own(await world.open_other())


@needs("ordered")
async def test_an_abandoned_cursor_is_free_after_the_lease(world: World, limits: Limits) -> None:
    owner = await own(world.broker)
    owner.session.abandon()
    await world.expire_leases()
    await own(await world.open_other())


@needs("ordered", "leases")
async def test_an_abandoned_cursor_is_free_after_the_lease_though_the_clock_steps_back(
    world: World, clock: ManualClock
) -> None:
    owner = await own(world.broker)
    owner.session.abandon()
    other = await world.open_other()
    session = await other.open_session()
    await session.register(TOPIC, GROUP, HANDLER)
    clock.set_wall(clock.now_ms() - 3_600_000)
    cursor = Cursor(TOPIC, GROUP, HANDLER, 0)
    assert await leased(session).acquire(cursor) is None
    await world.expire_leases()
    assert await leased(session).acquire(cursor) is not None


@needs("ordered")
async def test_every_lease_has_a_higher_epoch(world: World) -> None:
    epochs = []
    for _ in range(3):
        member = await own(world.broker)
        assert member.consumer.lease is not None
        epochs.append(member.consumer.lease.epoch)
        await member.session.close()
    await world.reopen()
    member = await own(world.broker)
    assert member.consumer.lease is not None
    epochs.append(member.consumer.lease.epoch)
    assert epochs == sorted(set(epochs))


@needs("ordered", "leases")
async def test_the_cursors_of_a_topic_have_owners_of_their_own(broker: Broker) -> None:
    await broker.create_topic(TOPIC, partitions=2)
    keys = [key_in(0, 2), key_in(1, 2)]
    await broker.append(TOPIC, [new("zero", keys[0]), new("one", keys[1])])
    first, second = await own(broker, partition=0), await own(broker, partition=1)
    assert values(await take(first.consumer)) == ["zero"]
    assert values(await take(second.consumer)) == ["one"]


@needs("ordered")
async def test_records_come_in_order_from_the_position(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(10))
    member = await own(broker)
    first = await take_batch(member.consumer, 4)
    assert values(first.records) == ["0", "1", "2", "3"]
    await member.consumer.commit(settle(first.records, position=first.end))
    await member.session.close()
    assert values(await take_all((await own(broker)).consumer, 4)) == ["4", "5", "6", "7", "8", "9"]


@needs("ordered")
async def test_a_poll_reads_on_behind_a_batch_that_is_not_committed(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(6))
    member = await own(broker)
    first, second = await take_batch(member.consumer, 3), await take_batch(member.consumer, 3)
    assert (values(first.records), values(second.records)) == (["0", "1", "2"], ["3", "4", "5"])
    await member.consumer.commit(settle(first.records, position=first.end))
    await member.consumer.commit(settle(second.records, position=second.end))
    assert await read_lag(broker, CURSOR) == 0


@needs("ordered")
async def test_what_was_not_committed_is_read_again_by_the_next_owner(world: World) -> None:
    await world.broker.append(TOPIC, numbered(6))
    member = await own(world.broker)
    first = await take_batch(member.consumer, 2)
    await take_batch(member.consumer, 2)
    await member.consumer.commit(settle(first.records, position=first.end))
    await member.session.close()
    assert values(await take_all((await own(await world.open_other())).consumer)) == ["2", "3", "4", "5"]


@needs("ordered")
async def test_the_lease_tells_the_position(world: World) -> None:
    await world.broker.append(TOPIC, numbered(4))
    member = await own(world.broker)
    batch = await take_batch(member.consumer, 3)
    await member.consumer.commit(settle(batch.records, position=batch.end))
    again = await own(await world.reopen())
    assert again.consumer.lease is not None
    assert again.consumer.lease.position == batch.end


@needs("ordered", "retries", "entries")
async def test_a_commit_takes_effect_as_a_whole(world: World) -> None:
    await world.broker.append(TOPIC, numbered(4))
    member = await own(world.broker)
    batch = await take_batch(member.consumer)
    assert list(await member.consumer.commit(everything(world.broker, batch, "mine"))) == []
    await check_applied_once(world.broker, "mine")
    await check_applied_once(await world.reopen(), "mine")


@needs("ordered", "retries", "entries")
async def test_a_commit_sent_again_is_a_success_with_one_effect(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(4))
    member = await own(broker)
    commit = everything(broker, await take_batch(member.consumer), "mine")
    for _ in range(3):
        assert list(await member.consumer.commit(commit)) == []
    await check_applied_once(broker, "mine")


@needs("ordered", "retries", "entries")
async def test_a_cancelled_commit_sent_again_has_one_effect(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(4))
    member = await own(broker)
    commit = everything(broker, await take_batch(member.consumer), "mine")
    sending = asyncio.create_task(member.consumer.commit(commit))
    await asyncio.sleep(0)
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    assert list(await member.consumer.commit(commit)) == []
    await check_applied_once(broker, "mine")


@needs("ordered", "retries", "entries")
async def test_the_commit_after_a_commit_sent_again_counts(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(6))
    member = await own(broker)
    first = await take_batch(member.consumer, 4)
    commit = everything(broker, first, "mine")
    await member.consumer.commit(commit)
    await member.consumer.commit(commit)
    batch = await take_batch(member.consumer)
    await member.consumer.commit(settle(batch.records, position=batch.end, state={(b"k", "count"): b"2"}))
    assert [entry.value for entry in await broker.list_state()] == [b"2"]
    assert (await read_cursor(broker, CURSOR)).unread == 0


async def lose(world: World) -> tuple[Consumer, Batch]:
    """Return a consumer and its batch whose cursor has another owner by now."""
    await world.broker.append(TOPIC, numbered(4))
    zombie = await own(world.broker)
    batch = await take_batch(zombie.consumer)
    zombie.session.abandon()
    await world.expire_leases()
    return zombie.consumer, batch


@needs("ordered", "retries", "entries")
async def test_a_worker_that_lost_its_lease_commits_nothing(world: World) -> None:
    zombie, batch = await lose(world)
    await own(await world.open_other())
    with pytest.raises(CommitFenced):
        await zombie.commit(everything(world.broker, batch, "zombie"))
    await check_untouched(world.broker, lag=4)


@needs("ordered", "retries", "entries")
async def test_a_worker_that_lost_its_lease_commits_nothing_after_its_heir(world: World) -> None:
    zombie, batch = await lose(world)
    heir = await own(await world.open_other())
    again = await take_batch(heir.consumer)
    while len(again.records) < 4:
        await heir.consumer.release()
        heir = await own(world.broker)
        again = await take_batch(heir.consumer)
    await heir.consumer.commit(everything(world.broker, again, "heir"))
    with pytest.raises(CommitFenced):
        await zombie.commit(everything(world.broker, batch, "zombie"))
    await check_applied_once(world.broker, "heir")


@needs("ordered", "retries", "entries")
async def test_a_worker_that_lost_its_lease_commits_nothing_even_if_the_heir_left(world: World) -> None:
    zombie, batch = await lose(world)
    heir = await own(await world.open_other())
    await heir.session.close()
    with pytest.raises(CommitFenced):
        await zombie.commit(everything(world.broker, batch, "zombie"))
    await check_untouched(world.broker, lag=4)


@needs("ordered", "retries", "entries")
async def test_a_worker_that_gave_its_lease_back_commits_nothing(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(4))
    member = await own(broker)
    batch = await take_batch(member.consumer)
    await member.consumer.release()
    with pytest.raises(CommitFenced):
        await member.consumer.commit(everything(broker, batch, "late"))
    await check_untouched(broker, lag=4)


@needs("ordered", "leases", "retries", "entries")
async def test_a_lease_taken_again_by_the_same_session_fences_the_old_one(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(4))
    member = await own(broker)
    batch = await take_batch(member.consumer)
    await member.consumer.release()
    assert await leased(member.session).acquire(CURSOR) is not None
    with pytest.raises(CommitFenced):
        await member.consumer.commit(everything(broker, batch, "late"))
    await check_untouched(broker, lag=4)


@needs("ordered")
async def test_a_worker_that_lost_its_lease_polls_nothing(world: World) -> None:
    zombie, _ = await lose(world)
    await own(await world.open_other())
    await world.broker.append(TOPIC, numbered(1, start=4))
    with pytest.raises(CommitFenced):
        await zombie.poll(max_records=10, timeout_ms=0)


@needs("ordered")
async def test_a_fenced_worker_that_lets_go_does_not_harm_its_heir(world: World) -> None:
    zombie, _ = await lose(world)
    heir = await own(await world.open_other())
    await zombie.release()
    assert (await read_cursor(world.broker, CURSOR)).owner == heir.session.id
    batch = await take_batch(heir.consumer)
    assert list(await heir.consumer.commit(settle(batch.records, position=batch.end))) == []


@needs("ordered", "leases")
async def test_a_refused_commit_of_one_cursor_leaves_anothers_of_the_same_moment(world: World) -> None:
    await world.broker.create_topic(TOPIC, partitions=2)
    keys = [key_in(0, 2), key_in(1, 2)]
    await world.broker.append(TOPIC, [new("zero", keys[0]), new("one", keys[1])])
    zombie, healthy = await own(world.broker, partition=0), await own(world.broker, partition=1)
    batches = [await take_batch(zombie.consumer), await take_batch(healthy.consumer)]
    await zombie.consumer.release()
    results = await asyncio.gather(
        *(
            member.consumer.commit(settle(batch.records, position=batch.end, emits=[emit(batch.records[0], "x")]))
            for member, batch in zip((zombie, healthy), batches, strict=True)
        ),
        return_exceptions=True,
    )
    assert isinstance(results[0], CommitFenced)
    assert results[1] in ((), [])
    lags = [await read_lag(world.broker, Cursor(TOPIC, GROUP, HANDLER, partition)) for partition in range(2)]
    assert lags == [1, 0]
    assert len(await read_all(world.broker, "alerts")) == 1


@needs("ordered", "retries", "entries")
async def test_a_commit_that_fails_half_way_leaves_nothing_beside_writes_of_the_same_moment(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(4))
    member = await own(broker)
    batch = await take_batch(member.consumer)
    bad = Emit(batch.records[-1].offset, "not a topic", new("x"))
    good = everything(broker, batch, "half")
    commit = replace(good, emits=[*good.emits, bad])
    results = await asyncio.gather(
        *(broker.append("others", numbered(3)) for _ in range(10)),
        member.consumer.commit(commit),
        *(broker.append("others", numbered(3)) for _ in range(10)),
        return_exceptions=True,
    )
    assert isinstance(results.pop(10), ConfigurationError)
    assert not [result for result in results if isinstance(result, BaseException)]
    assert len(await read_all(broker, "others")) == 60
    await check_untouched(broker, lag=4)
