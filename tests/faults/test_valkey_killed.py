"""What processes that were killed leave on a server does not grow, and many sessions are read in steps."""

import orjson

from pspf.records import Cursor
from tests.faults.valkey import Site
from tests.support.brokers import leased
from tests.support.workers import GROUP, HANDLER, TOPIC, numbered

SESSIONS = "pspf:{%s}:sessions"
MANY = 2_500


def put_sessions(site: Site, count: int, stream: str, *, live: bool) -> None:
    """Write the entries of sessions that consume the ordered handler, with leases or without."""
    entry = orjson.dumps([[GROUP, HANDLER]])
    with site.server.client(database=site.database) as client, client.pipeline() as pipeline:
        for number in range(count):
            session = f"elsewhere-{number + 1}-abcdef"
            pipeline.hset(SESSIONS % stream, session, entry)
            if live:
                pipeline.set(f"pspf:{{{stream}}}:live:{session}", "60000", px=60_000)
        pipeline.execute()


def count_sessions(site: Site, stream: str) -> int:
    return int(site.server.call("HLEN", SESSIONS % stream, database=site.database))


async def test_who_registers_removes_the_entries_of_sessions_that_were_killed(site: Site) -> None:
    async with site.broker() as broker:
        await broker.create_topic(TOPIC, partitions=3)
        other = await broker.open_session()
        await other.register(TOPIC, GROUP, None)
        for partition in range(3):
            put_sessions(site, MANY if partition == 1 else 5, f"{TOPIC}:{partition}", live=False)
        session = await broker.open_session()
        await session.register(TOPIC, GROUP, None)
        assert [count_sessions(site, f"{TOPIC}:{partition}") for partition in range(3)] == [2, 2, 2]
        assert await leased(session).read_members(TOPIC, GROUP, None) == sorted([other.id, session.id])


async def test_the_members_of_a_handler_are_read_over_many_pages(site: Site) -> None:
    async with site.broker() as broker:
        await broker.append(TOPIC, numbered(1))
        session = await broker.open_session()
        await session.register(TOPIC, GROUP, HANDLER)
        put_sessions(site, MANY, TOPIC, live=True)
        members = await leased(session).read_members(TOPIC, GROUP, HANDLER)
        assert (len(members), session.id in members) == (MANY + 1, True)
        assert await leased(session).acquire(Cursor(TOPIC, GROUP, HANDLER, 0)) is not None
