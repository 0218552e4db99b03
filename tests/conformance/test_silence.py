"""A worker that stands still for longer than its lease and goes on: no record is charged with a crash for it."""

import pytest

from pspf.clock import ManualClock
from pspf.connectors.contract.broker import Broker
from pspf.errors import CommitFenced
from tests.support.brokers import World, needs, still
from tests.support.workers import (
    HANDLER,
    TOPIC,
    Member,
    numbered,
    offsets,
    own,
    settle,
    share,
    take_batch,
)

pytestmark = needs("leases")

MODES = pytest.mark.parametrize("handler", [None, HANDLER], ids=["shared", "ordered"])


async def join(broker: Broker, handler: str | None) -> Member:
    return await (own(broker, handler=handler) if handler else share(broker))


async def pass_time(clock: ManualClock, by_ms: int, *working: Broker) -> None:
    """Let time pass, in which only these brokers work."""
    for _ in range(0, by_ms, 1_000):
        clock.advance(1_000)
        for broker in working:
            await broker.ping()


@needs("crash_counts", "multi_process")
@MODES
async def test_whoever_stands_still_in_turn_with_a_record_in_hand_charges_it_with_at_most_one_crash(
    world: World, clock: ManualClock, handler: str | None
) -> None:
    await world.broker.append(TOPIC, numbered(1))
    brokers = [world.broker, await world.open_other()]
    holder = await join(brokers[0], handler)
    await (await brokers[1].open_session()).register(TOPIC, "billing", handler)
    batch = await take_batch(holder.consumer, 1)
    for turn in range(1, 8):
        working = brokers[turn % 2]
        async with still(brokers[(turn + 1) % 2]):  # the one with the record
            await pass_time(clock, world.limits.lease_ms + 6_000, working)
            following = await join(working, handler)
            taken = await take_batch(following.consumer, 1)
            assert (len(taken.records), taken.suspect) == (1, True)
            assert taken.crashes <= 1, f"{taken.crashes} crashes, and no process has ended"
            await following.consumer.intend(offsets(taken.records))
        position = batch.end if handler else None  # now the other goes on
        if handler:
            with pytest.raises(CommitFenced):
                await holder.consumer.commit(settle(batch.records, position=position))
        else:
            assert await holder.consumer.commit(settle(batch.records)) == offsets(batch.records)
        holder, batch = following, taken
