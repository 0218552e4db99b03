"""The server goes away and comes back, with its data, without it, or with a part of it."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from pspf import Stream
from pspf.connectors.contract.backend import StreamingBackend
from pspf.records import NewRecord
from pspf.subscription import Ordering
from tests.faults.runs import RUNS, SEED, TOPIC, Event, Run, ServerPlace, check_exactly_once, make_events
from tests.faults.valkey import QUICK, SECONDS_MS, Site
from tests.integration.running import Number, running, until
from tests.support.proxy import Proxy
from tests.support.servers import AOF_ALWAYS, AOF_EVERYSEC, Server
from tests.support.waiting import wait_until
from tests.support.workers import read_all

OwnServer = Callable[..., Server]
ROUNDS: Final = RUNS
CONNECTS_PER_S: Final = 5
"""How often one worker's connections may be tried while the server is away."""


@pytest.mark.parametrize("fsync", [AOF_ALWAYS, AOF_EVERYSEC], ids=["always", "everysec"])
@pytest.mark.parametrize("kill", [False, True], ids=["clean", "kill"])
async def test_a_server_that_restarts_under_load_loses_nothing(
    own_server: OwnServer, tmp_path: Path, fsync: dict[str, str], kill: bool
) -> None:
    rng = random.Random(SEED)
    print(f"PSPF_SEED={SEED}")
    server = own_server(options=fsync)
    events = make_events(3_000, 20)
    with Proxy(server.port) as proxy:
        site = Site(server, proxy)
        await site.fill(events)
        async with site.working(2):
            for _ in range(ROUNDS):
                await asyncio.sleep(rng.uniform(0.05, 0.5))
                await asyncio.to_thread(server.restart, kill=kill)
            begun = time.monotonic()
            assert sum(server.call("XLEN", f"{TOPIC}:{p}") for p in range(2)) == len(events)
            assert server.call("XLEN", "totals") < len(events), "the work was done before the restarts"
            await site.finish()
        print(f"done {time.monotonic() - begun:.1f} s after the last restart")
        await site.check(events)


async def test_while_the_server_is_away_it_is_not_stormed_and_then_work_goes_on(own_server: OwnServer) -> None:
    server = own_server(options=AOF_ALWAYS)
    away_s = 4
    events = make_events(200, 5)
    with Proxy(server.port) as proxy:
        site = Site(server, proxy)
        await site.fill(events)
        async with site.working():
            await site.finish()
            server.stop()
            await asyncio.sleep(1)
            before = proxy.connects
            await asyncio.sleep(away_s)
            connects = proxy.connects - before
            server.start()
            more = make_events(220, 5)
            begun = time.monotonic()
            await site.append([event.as_record() for event in more[200:]])
            await site.finish(within_ms=10_000)
        await site.check(more)
    # Reads of two partitions in two modes, commits, renewals: each waits longer from try to try.
    assert connects / away_s < CONNECTS_PER_S * 6, f"{connects} connections in {away_s} s"
    print(f"{connects} connections in {away_s} s; resumed in {time.monotonic() - begun:.1f} s")


@pytest.mark.parametrize("number", range(RUNS))
async def test_a_lost_end_of_the_servers_file_leaves_a_state_that_was_once_there(
    own_server: OwnServer, tmp_path: Path, number: int
) -> None:
    rng = random.Random(f"{SEED} {number}")
    print(f"PSPF_SEED={SEED} number {number}")
    server = own_server(options=AOF_EVERYSEC)
    events = make_events(400, 10)
    run = Run(tmp_path, ServerPlace(server), partitions=2)
    await run.fill([event.as_record() for event in events])
    base = _newest_file(server).stat().st_size
    workers = [run.start() for _ in range(2)]

    def is_under_way() -> bool:
        return bool(server.call("EXISTS", "totals") == 1 and server.call("XLEN", "totals") > rng.randint(50, 200))

    await until(is_under_way, within_ms=SECONDS_MS)
    for worker in workers:
        worker.kill()
        worker.wait()
    server.kill()
    file = _newest_file(server)
    with file.open("r+b") as aof:
        aof.truncate(rng.randint(base, file.stat().st_size))
    server.start()
    run.finish()
    async with run.open() as broker:
        await check_exactly_once(broker, events)


def _newest_file(server: Server) -> Path:
    """Return the file that the server appends to."""
    return max((server.folder / "appendonlydir").glob("*.incr.aof"))


class Seen:
    """A stream whose handler notes what it gets, and waits where it is told to."""

    def __init__(self, site: Site, *, ordering: Ordering) -> None:
        self.numbers: list[int] = []
        self.may_go = asyncio.Event()
        self.may_go.set()
        self.stream = Stream(StreamingBackend(site.broker(), TOPIC, "seen"))

        async def note(event: Number) -> None:
            self.numbers.append(event.n)
            await self.may_go.wait()

        self.stream.subscribe(TOPIC, 5, ordering=ordering, name="note")(note)

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        """Let the handler go on at the end of the block, whatever failed there: the stream's end waits for it."""
        try:
            yield
        finally:
            self.may_go.set()

    async def has(self, *numbers: int) -> None:
        """Return when the handler has had exactly these since it was last asked."""
        await until(lambda: set(self.numbers) >= set(numbers), within_ms=SECONDS_MS)
        assert set(self.numbers) == set(numbers)
        self.numbers.clear()


def records(*numbers: int) -> list[NewRecord]:
    return [Event(n, "k").as_record() for n in numbers]


LOSSES: Final = {
    "FLUSHALL": lambda server: server.call("FLUSHALL"),
    "DEL": lambda server: server.call("DEL", TOPIC),
    "restart without persistence": lambda server: server.restart(),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("ordering", ["none", "key"], ids=["shared", "ordered"])
@pytest.mark.parametrize("at", ["blocked read", "handler"])
async def test_after_everything_is_gone_new_events_flow_by_themselves(
    own_server: OwnServer, ordering: Ordering, loss: Callable[[Server], object], at: str
) -> None:
    server = own_server()
    with Proxy(server.port) as proxy:
        site = Site(server, proxy)
        await site.append(records(1, 2, 3), partitions=1)
        seen = Seen(site, ordering=ordering)
        if at == "handler":
            seen.may_go.clear()
        async with running(seen.stream), seen.going_on():
            if at == "handler":
                await until(lambda: bool(seen.numbers), within_ms=SECONDS_MS)
                seen.numbers.clear()
            else:
                await seen.has(1, 2, 3)
                await asyncio.sleep(0.3)  # into the read that waits
            await asyncio.to_thread(loss, server)
            await site.append(records(4, 5))
            seen.may_go.set()
            await until(lambda: {4, 5} <= set(seen.numbers), within_ms=20_000)
            async with site.broker(direct=True) as broker:

                async def nothing_is_left() -> bool:
                    return [info.lag for info in await broker.list_cursors(group="seen")] == [0]

                await wait_until(nothing_is_left)
                stored = [record.value for record in await read_all(broker, TOPIC)]
        assert stored == [record.value for record in records(4, 5)]


def delete_streams(server: Server) -> None:
    """Delete all topics' streams, as an operator does who knows nothing of what is beside them."""
    with server.client(decode_responses=True) as client:
        client.delete(*client.scan_iter(_type="stream", count=1_000))


@pytest.mark.parametrize(
    "loss", [lambda server: server.call("FLUSHALL"), delete_streams], ids=["FLUSHALL", "DEL of the streams"]
)
async def test_state_and_offset_are_reset_together(own_server: OwnServer, loss: Callable[[Server], object]) -> None:
    server = own_server()
    with Proxy(server.port) as proxy:
        site = Site(server, proxy)
        await site.fill(make_events(50, 5))
        async with site.working():
            await site.finish()
            loss(server)
            anew = make_events(30, 5)
            await site.fill(anew)
            await asyncio.sleep(QUICK.renew_ms / 1000)
            await site.finish()
        await site.check(anew)
