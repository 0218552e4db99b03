"""A server that goes back in time (an older snapshot, a replica that lagged): what workers believe and it does not."""

import asyncio
import logging
from collections import Counter
from pathlib import Path

import pytest

from pspf import Stream
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.contract.limits import Limits
from pspf.connectors.valkey.broker import ValkeyBroker
from pspf.connectors.valkey.connection.connector import ValkeyConnector
from tests.faults.valkey import Site
from tests.integration.running import Number, running, until
from tests.support.servers import Server, find
from tests.support.waiting import wait_until
from tests.support.workers import numbered

LIMITS = Limits(lease_ms=700, renew_ms=200)


def make_stream(site: Site, seen: list[int], **options: object) -> Stream:
    """Return a stream with one ordered handler that notes what it saw."""
    stream = Stream(StreamingBackend(site.broker(LIMITS, direct=True), "numbers", "g"), partitions=4)

    @stream.subscribe("numbers", ordering="key", name="handle")
    async def handle(event: Number) -> None:
        seen.append(event.n)

    return stream


def metas(site: Site) -> dict[int, bytes]:
    """Return the key of each cursor's meta, by partition."""
    found: dict[int, bytes] = {}
    for key in site.server.call("KEYS", "pspf:{numbers:*", database=site.database):
        if site.server.call("TYPE", key, database=site.database) == b"hash":
            fields = site.server.call("HKEYS", key, database=site.database)
            if b"position" in fields:
                found[int(key.split(b"numbers:")[1].split(b"}")[0])] = key
    return found


def owners(site: Site) -> dict[int, str]:
    """Return which session is stored as each partition's owner."""
    return {
        number: site.server.call("HGET", key, "session", database=site.database).decode()
        for number, key in metas(site).items()
    }


def take_back(site: Site, partition: int, session: str) -> None:
    """Let a cursor be as an earlier lease of `session` left it."""
    site.server.call(
        "HSET", metas(site)[partition], "session", session, "token", "earlier", "epoch", "1", database=site.database
    )


async def emit_to_all(site: Site, start: int) -> None:
    """Emit 40 numbers over all partitions."""
    topics = "HEXISTS", "pspf:topics", "numbers"
    # The worker makes the topic, with its partitions: who emits before it makes one with 1.
    await until(lambda: site.server.call(*topics, database=site.database) == 1)
    async with site.broker(direct=True) as broker:
        await Stream(StreamingBackend(broker, "numbers", "g")).emit_many(
            [{"n": n, "key": f"k{n}"} for n in range(start, start + 40)]
        )


async def all_is_committed(site: Site, *, within_ms: int = 8_000) -> None:
    """Return when nothing is left of what was emitted."""
    async with site.broker(direct=True) as broker:

        async def is_done() -> bool:
            return [info.lag for info in await broker.list_cursors()] == [0] * 4

        await wait_until(is_done, timeout_ms=within_ms)


async def test_a_cursor_that_its_stored_owner_lost_is_taken_again(site: Site) -> None:
    seen: list[int] = []
    stream = make_stream(site, seen)
    async with running(stream):
        await emit_to_all(site, 0)
        await all_is_committed(site)
        assert stream.session_id is not None
        take_back(site, 2, stream.session_id)
        await emit_to_all(site, 100)
        await all_is_committed(site)
        assert set(range(100, 140)) <= set(seen)


async def test_a_cursor_is_taken_though_its_stored_owner_has_its_share_and_another_has_less(site: Site) -> None:
    seen: list[int] = []
    one, two = make_stream(site, seen), make_stream(site, seen)
    async with running(one), running(two):
        await until(lambda: Counter(owners(site).values()) == {one.session_id: 2, two.session_id: 2})
        lost = next(number for number, owner in owners(site).items() if owner == two.session_id)
        assert one.session_id is not None
        take_back(site, lost, one.session_id)
        await emit_to_all(site, 0)
        await all_is_committed(site)


async def test_a_worker_whose_membership_was_forgotten_joins_again(site: Site) -> None:
    seen: list[int] = []
    stream = make_stream(site, seen)
    async with running(stream):
        await until(lambda: len([owner for owner in owners(site).values() if owner]) == 4)
        for key in site.server.call("KEYS", "pspf:{numbers:*}:sessions", database=site.database):
            site.server.call("DEL", key, database=site.database)
        sessions = "pspf:{numbers:0}:sessions"
        await until(lambda: bool(site.server.call("HKEYS", sessions, database=site.database)), within_ms=3_000)
        await emit_to_all(site, 0)
        await all_is_committed(site)
        assert set(owners(site).values()) == {stream.session_id}


async def test_a_free_partition_that_nobody_reads_is_said_once_and_known_to_readiness(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """A member whose event loop hangs is alive by its leases, and its share is read by nobody."""
    stream = make_stream(site, [])
    async with site.broker(LIMITS, direct=True) as broker:
        hung = await broker.open_session()
        await broker.create_topic("numbers", partitions=4)
        await hung.register("numbers", "g", "handle")
        async with running(stream):
            await until(lambda: bool(stream.telemetry.unread_places), within_ms=8_000)
            await asyncio.sleep(2 * LIMITS.lease_ms / 1000)
            said = [record for record in caplog.records if "nobody reads" in record.getMessage()]
            assert [(record.levelno, hung.id in record.getMessage()) for record in said] == [(logging.ERROR, True)]
            ((topic, group, handler, partitions),) = stream.telemetry.unread_places
            assert (topic, group, handler, len(partitions)) == ("numbers", "g", "handle", 2)
            await hung.close()
            await until(lambda: not stream.telemetry.unread_places, within_ms=8_000)


async def test_a_session_is_shown_again_where_a_restart_forgot_it(tmp_path: Path) -> None:
    with Server(find("valkey"), tmp_path, options={"dbfilename": "old.rdb"}) as server:
        broker = ValkeyBroker(ValkeyConnector("127.0.0.1", server.port), LIMITS)
        async with broker:
            await broker.append("orders", numbered(1))
            session = await broker.open_session()
            await session.register("orders", "one", "handle")
            server.call("SAVE")
            await session.register("orders", "two", "handle")
            await asyncio.to_thread(server.restart, kill=True)

            async def is_shown() -> bool:
                raw = server.call("HGET", "pspf:{orders}:sessions", session.id)
                return raw is not None and b"two" in raw

            await wait_until(is_shown)
