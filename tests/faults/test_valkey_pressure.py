"""A server that refuses, is full, is slow or is kept busy: waited for, and nothing takes effect twice."""

import asyncio
import threading
from collections.abc import Callable
from typing import Final

import pytest
import redis

from pspf import Stream
from pspf.connectors.contract.backend import StreamingBackend
from pspf.errors import BackendUnavailable, DiskFull, PSPFError
from tests.faults.runs import TOPIC, make_events
from tests.faults.valkey import SECONDS_MS, Site
from tests.integration.running import Number, running, until
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.workers import numbered, own, read_all, settle, share, take

OwnServer = Callable[..., Server]
EVENTS: Final = make_events(600, 9)


async def test_a_full_server_refuses_commits_whole_and_work_goes_on_when_there_is_room(own_server: OwnServer) -> None:
    server = own_server(options={"maxmemory-policy": "noeviction"})
    with Proxy(server.port) as proxy:
        site = Site(server, proxy)
        await site.fill(EVENTS)
        async with site.working(2):
            await until(lambda: server.call("EXISTS", "totals") == 1, within_ms=SECONDS_MS)
            server.configure("maxmemory", 1)
            await asyncio.sleep(3)  # two leases: they are renewed while nothing else can be written
            before = server.call("XLEN", "totals")
            await asyncio.sleep(1)
            assert server.call("XLEN", "totals") == before, "something was written to a full server"
            assert before < len(EVENTS)
            server.configure("maxmemory", 0)
            await site.finish()
        await site.check(EVENTS)


@pytest.mark.parametrize("mode", ["ordered", "shared"])
async def test_nothing_of_a_commit_is_written_to_a_full_server(own_server: OwnServer, mode: str) -> None:
    server = own_server(options={"maxmemory-policy": "noeviction"})
    with Proxy(server.port) as proxy:
        site = Site(server, proxy)
        async with site.broker() as broker:
            await broker.append(TOPIC, numbered(3, keys=["a"]))
            session, consumer = await (own if mode == "ordered" else share)(broker, topic=TOPIC)
            records = await take(consumer)
            position = records[-1].offset + 1 if mode == "ordered" else None
            commit = settle(records, position=position)
            server.configure("maxmemory", 1)
            before = server.call("INFO", "commandstats")
            with pytest.raises(DiskFull):
                await consumer.commit(commit)
            lags = [info.lag for info in await broker.list_cursors()]
            assert lags == [3], before
            with pytest.raises(DiskFull):
                await broker.append(TOPIC, numbered(1))
            await asyncio.sleep(2.5)  # longer than a lease
            server.configure("maxmemory", 0)
            assert not await consumer.commit(commit), "the lease lasted"
            assert [info.lag for info in await broker.list_cursors()] == [0]
            await session.close()


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu", "allkeys-random"])
async def test_a_server_that_may_evict_anything_is_refused_at_the_start(own_server: OwnServer, policy: str) -> None:
    server = own_server(options={"maxmemory-policy": policy})
    with Proxy(server.port) as proxy:
        broker = Site(server, proxy).broker()
        with pytest.raises(PSPFError, match=policy) as refusal:
            await broker.connect()
        assert not isinstance(refusal.value, BackendUnavailable), "waiting would not help"
        await broker.close()


async def test_a_server_that_can_not_save_is_waited_for(own_server: OwnServer) -> None:
    server = own_server(options={"save": "3600 1"})
    with Proxy(server.port) as proxy:
        site = Site(server, proxy)
        await site.fill(EVENTS)
        async with site.working():
            await until(lambda: server.call("EXISTS", "totals") == 1, within_ms=SECONDS_MS)
            snapshot = server.folder / "dump.rdb"
            snapshot.mkdir()  # no file can take this name now
            server.call("BGSAVE")
            await until(lambda: _cannot_write(server), within_ms=SECONDS_MS)
            before = server.call("XLEN", "totals")
            await asyncio.sleep(2)
            assert server.call("XLEN", "totals") == before < len(EVENTS)
            snapshot.rmdir()
            server.call("BGSAVE")
            await until(lambda: not _cannot_write(server), within_ms=SECONDS_MS)
            await site.finish()
        await site.check(EVENTS)


def _cannot_write(server: Server) -> bool:
    return str(_call(server, "SET", "probe", "1")).startswith("MISCONF")


async def test_scripts_that_the_server_forgot_are_sent_again(site: Site) -> None:
    await site.fill(EVENTS)
    async with site.working(2):
        for _ in range(10):
            await asyncio.sleep(0.05)
            site.server.call("SCRIPT", "FLUSH")
        await site.finish()
    assert site.proxy.commands["EVAL"] > 10
    await site.check(EVENTS)


async def test_a_foreign_script_that_keeps_the_server_busy_is_waited_for(own_server: OwnServer) -> None:
    server = own_server(options={"lua-time-limit": "100"})
    with Proxy(server.port) as proxy:
        site = Site(server, proxy)
        await site.fill(EVENTS)
        async with site.working(2):
            await until(lambda: server.call("EXISTS", "totals") == 1, within_ms=SECONDS_MS)
            running_away = threading.Thread(target=_call, args=(server, "EVAL", "while true do end", "0"))
            running_away.start()
            await asyncio.sleep(3)
            assert str(_call(server, "XLEN", "totals")).startswith("BUSY")
            _call(server, "SCRIPT", "KILL")
            await asyncio.to_thread(running_away.join)
            await site.finish()
        await site.check(EVENTS)


def _call(server: Server, *command: str) -> object:
    try:
        return server.call(*command)
    except redis.RedisError as error:
        return error


async def test_a_server_that_pauses_is_not_stormed(own_server: OwnServer) -> None:
    server = own_server()
    with Proxy(server.port) as proxy:
        site = Site(server, proxy)
        await site.fill(EVENTS)
        async with site.working(2):
            await until(lambda: server.call("EXISTS", "totals") == 1, within_ms=SECONDS_MS)
            before = sum(proxy.commands.values())
            server.call("CLIENT", "PAUSE", "3000")
            await asyncio.sleep(2.5)
            during = sum(proxy.commands.values()) - before
            await site.finish()
        await site.check(EVENTS)
    assert during < 60, f"{during} commands to a server that did not answer"


async def test_a_slow_way_to_the_server_changes_no_result(site: Site) -> None:
    site.proxy.latency_s = 0.05
    events = make_events(70, 5)
    await site.fill(events)
    async with site.working(2):
        await site.finish()
    await site.check(events)


async def test_a_thin_way_in_small_pieces_changes_no_result(site: Site) -> None:
    site.proxy.piece_bytes = 7
    events = make_events(100, 5)
    await site.fill(events)
    async with site.working(2):
        await site.finish()
    await site.check(events)


async def test_many_emits_at_once_in_a_handler_need_no_more_connections(site: Site) -> None:
    stream = Stream(StreamingBackend(site.broker(), TOPIC, "many"))
    done = asyncio.Event()

    @stream.subscribe(TOPIC)
    async def fan_out(event: Number) -> None:
        await asyncio.gather(*[stream.emit({"event_id": f"{event.n}-{n}"}, "fan") for n in range(200)])
        if event.n == 4:
            done.set()

    await site.append([event.as_record() for event in make_events(5, 1)])
    async with running(stream):
        await asyncio.wait_for(done.wait(), 20)
        connects = site.proxy.connects
    async with site.broker(direct=True) as broker:
        assert len(await read_all(broker, "fan")) == 1_000
    assert connects < 12
