"""Assigned cursors: what sessions are given, revoked and give back, however their broker divides it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from pspf.connectors.contract.assigned import Assigned
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.limits import Limits
from pspf.connectors.contract.membership import Session
from pspf.errors import CommitFenced
from tests.support.brokers import World, needs
from tests.support.waiting import wait_until
from tests.support.workers import GROUP, HANDLER, TOPIC, key_in, new, settle, take, take_batch, values

pytestmark = needs("ordered")
PARTITIONS = 4


@pytest.fixture
def limits() -> Limits:
    """A short lease: partitions are held for one before they move."""
    return Limits(lease_ms=400, renew_ms=100, synchronous="NORMAL")


class Worker:
    """Holds what it is assigned until that is revoked; notes where two hold the same."""

    held_by: dict[int, "Worker"]

    def __init__(self, session: Session, held_by: dict[int, "Worker"]) -> None:
        self.session = session
        self.held: dict[int, Assigned] = {}
        self.is_stopped = False
        self._held_by = held_by
        self._cursors = session.assigned(TOPIC, GROUP, HANDLER, PARTITIONS, lambda unread: None)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            while not self.is_stopped:
                assigned = await self._cursors.take()
                if assigned is None:
                    await self._cursors.wait()
                else:
                    assert assigned.partition not in self._held_by, "two have it"
                    self._held_by[assigned.partition] = self
                    self.held[assigned.partition] = assigned
                    group.create_task(self._hold(assigned))
            await self._cursors.close()
            await self._cursors.resign()
            for assigned in list(self.held.values()):
                assigned.revoke()

    async def _hold(self, assigned: Assigned) -> None:
        revoked = asyncio.Event()
        assigned.when_revoked(revoked.set)
        await revoked.wait()
        del self.held[assigned.partition], self._held_by[assigned.partition]
        await assigned.consumer.release()
        assigned.given_back()

    def stop(self) -> None:
        self.is_stopped = True
        self._cursors.wake()


class Fleet:
    """The workers of a handler, running."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self.workers: list[Worker] = []
        self._group = group
        self._held_by: dict[int, Worker] = {}

    async def join(self, broker: Broker) -> Worker:
        session = await broker.open_session()
        await session.register(TOPIC, GROUP, HANDLER)
        worker = Worker(session, self._held_by)
        self.workers.append(worker)
        self._group.create_task(worker.run())
        return worker

    async def settled(self, *counts: int) -> None:
        """Return when the workers hold so many partitions each, in order of their number."""

        async def holds() -> bool:
            return sorted(len(worker.held) for worker in self.workers) == sorted(counts)

        await wait_until(holds)


@asynccontextmanager
async def running(broker: Broker) -> AsyncIterator[Fleet]:
    await broker.create_topic(TOPIC, partitions=PARTITIONS)
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        fleet = Fleet(group)
        yield fleet
        for worker in fleet.workers:
            worker.stop()


async def test_a_session_alone_is_assigned_every_partition(live_world: World) -> None:
    async with running(live_world.broker) as fleet:
        worker = await fleet.join(live_world.broker)
        await fleet.settled(PARTITIONS)
        assert {each.consumer.cursor.partition for each in worker.held.values()} == set(range(PARTITIONS))


async def test_members_that_come_and_go_share_the_partitions_evenly_and_none_is_in_two_hands(live_world: World) -> None:
    async with running(live_world.broker) as fleet:
        await fleet.join(live_world.broker)
        await fleet.settled(4)
        second = await fleet.join(await live_world.open_other())
        await fleet.settled(2, 2)
        await fleet.join(live_world.broker)
        await fleet.settled(2, 1, 1)
        second.stop()
        await fleet.settled(0, 2, 2)


async def test_what_a_session_that_ended_held_is_assigned_to_another(live_world: World) -> None:
    broker = live_world.broker
    async with running(broker) as fleet:
        ended = await broker.open_session()
        await ended.register(TOPIC, GROUP, HANDLER)
        cursors = ended.assigned(TOPIC, GROUP, HANDLER, PARTITIONS, lambda unread: None)
        while await cursors.take() is not None:
            pass
        await cursors.close()
        await ended.close()
        await fleet.join(broker)
        await fleet.settled(4)


async def take_all_assigned(session: Session) -> Sequence[Assigned]:
    """Return what a session alone is assigned."""
    await session.register(TOPIC, GROUP, HANDLER)
    cursors = session.assigned(TOPIC, GROUP, HANDLER, 1, lambda unread: None)
    taken = []
    while (assigned := await cursors.take()) is not None:
        taken.append(assigned)
    await cursors.close()
    return taken


async def test_what_was_given_back_commits_nothing_and_comes_again_from_where_it_was(broker: Broker) -> None:
    await broker.append(TOPIC, [new("one", key_in(0, 1))])
    session = await broker.open_session()
    (first,) = await take_all_assigned(session)
    batch = await take_batch(first.consumer)
    await first.consumer.release()
    first.given_back()
    (second,) = await take_all_assigned(session)
    with pytest.raises(CommitFenced):
        await first.consumer.commit(settle(batch.records, position=batch.end))
    assert values(await take(second.consumer)) == ["one"]
