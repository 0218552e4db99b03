"""Very many sessions that died with records in hand: what they had is taken in few steps, and is charged to nobody."""

from typing import Final

from tests.faults.large import Meter
from tests.faults.valkey import Site
from tests.support.workers import GROUP, TOPIC, numbered, settle, share, take

DEAD: Final = 400
EACH: Final = 3
STEPS: Final = 12
"""Each step takes over 125 sessions or gives out 1,000 records; one for each session it was before."""
MOMENT_MS: Final = 80
"""The server's processor time; 10 is usual."""


async def test_what_very_many_dead_sessions_had_is_taken_in_a_few_steps(site: Site) -> None:
    async with site.broker(direct=True) as broker:
        member = await share(broker)
        await member.consumer.release()
        await broker.append(TOPIC, numbered(DEAD * EACH))
        with site.server.client(database=site.database) as client:
            for number in range(DEAD):
                session = f"host-1-{number:06x}"
                client.execute_command("XREADGROUP", "GROUP", GROUP, session, "COUNT", EACH, "STREAMS", TOPIC, ">")
    taken: list[int] = []
    steps = 0
    with Meter(site.server) as meter:
        async with Site(site.server, meter, site.database).broker() as broker:
            member = await share(broker)
            while True:
                batch = await member.consumer.poll(max_records=1_000, timeout_ms=0)
                if not batch.records:
                    break
                assert (batch.suspect, batch.crashes) == (True, 0)
                taken += [record.offset for record in batch.records]
                steps += 1
                await member.consumer.commit(settle(batch.records))
            assert await take(member.consumer) == ()
    assert len(taken) == len(set(taken)) == DEAD * EACH
    assert steps <= STEPS
    assert meter.ms < MOMENT_MS, meter.longest


async def test_suspects_that_ran_apart_stay_apart(site: Site) -> None:
    """One of two sessions said what it runs before it died: that is of its own, whoever else died beside it."""
    async with site.broker() as broker:
        first, second = await share(broker), await share(broker)
        await broker.append(TOPIC, numbered(8))
        ran = await take(first.consumer, 4)
        had = await take(second.consumer, 4)
        await first.consumer.intend([record.offset for record in ran])
        for member in (first, second):
            member.session.abandon()
            await _end_lease(site, member.session.id)
        heir = await share(broker)
        batches = []
        while (batch := await heir.consumer.poll(max_records=100, timeout_ms=0)).records:
            batches.append([record.offset for record in batch.records])
            await heir.consumer.commit(settle(batch.records))
        halves = [[record.offset for record in some] for some in (ran[:2], ran[2:], had)]
        assert sorted(batches) == sorted(halves)


async def _end_lease(site: Site, session: str) -> None:
    with site.server.client(database=site.database) as client:
        client.delete(*[key for key in client.scan_iter("*live*") if session.encode() in key])
