"""Black holes and zombies: whoever was away finds that its work is another's by now."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from pspf.connectors.contract.limits import Limits
from pspf.runtime.worker.monitor import Monitor
from tests.faults.runs import RUNS, SECONDS, TOPIC, Place, Run, check_exactly_once, make_events
from tests.faults.side_by_side import at_all_places
from tests.faults.valkey import Site
from tests.integration.running import running, until
from tests.process.commands import state_of
from tests.support.brokers import leased
from tests.support.proxy import Proxy
from tests.support.workers import GROUP, HANDLER, numbered, own

DARK_S: Final = 4 if RUNS <= 2 else 60
"""How long nothing passes; some leases."""
STARTERS: Final = 8


async def test_a_black_hole_costs_its_time_and_nothing_else(site: Site) -> None:
    events = make_events(600, 9)
    await site.fill(events)
    async with site.working(2) as streams:
        await until(lambda: site.server.call("EXISTS", "totals", database=site.database) == 1, within_ms=20_000)
        site.proxy.darken()
        await asyncio.sleep(DARK_S)
        site.proxy.lighten()
        begun = time.monotonic()
        await site.finish()
        print(f"done {time.monotonic() - begun:.1f} s after the black hole")
        assert len(streams) == 2
    await site.check(events)


async def test_a_worker_in_a_black_hole_is_replaced_and_finds_it_out(site: Site) -> None:
    events = make_events(600, 9)
    await site.fill(events)
    other = Site(site.server, site.proxy, site.database)
    other.proxy = _NoProxy(site.server.port)  # type: ignore[assignment]  # it comes past the proxy
    async with site.working():
        await until(lambda: site.server.call("EXISTS", "totals", database=site.database) == 1, within_ms=20_000)
        site.proxy.darken()
        async with other.working():
            await site.finish()
            site.proxy.lighten()
            await asyncio.sleep(2)
            more = make_events(700, 9)
            await site.append([event.as_record() for event in more[600:]])
            await site.finish()
    await site.check(more)


async def test_a_worker_that_is_not_let_in_counts_as_unanswered_until_it_is(site: Site) -> None:
    events = make_events(20, 3)
    await site.fill(events)
    stream = site.stream()
    monitor = Monitor(stream, lambda: "running", lambda each: True)
    async with stream:
        monitor.begin()
        monitor.connected()
        site.proxy.refuse()
        async with running(stream):
            await until(lambda: monitor.take_pulse().unanswered_ms > 1_000, within_ms=20_000)
            site.proxy.accept()
            await site.finish()
            await until(lambda: monitor.take_pulse().unanswered_ms < 1_000, within_ms=20_000)
    await site.check(events)


@pytest.mark.parametrize("lose", [Proxy.refuse, Proxy.darken])
async def test_a_test_that_fails_while_the_server_is_away_ends(site: Site, lose: Callable[[Proxy], None]) -> None:
    await site.fill(make_events(600, 9))

    async def fail() -> None:
        async with asyncio.timeout(60), site.working():
            await until(lambda: site.server.call("EXISTS", "totals", database=site.database) == 1, within_ms=20_000)
            lose(site.proxy)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()


class _NoProxy:
    def __init__(self, port: int) -> None:
        self.port = port


@pytest.mark.parametrize("number", range(max(1, RUNS // 2)))
@pytest.mark.parametrize("point", ["handler.mid", "commit.built"])
@at_all_places()
async def test_a_worker_that_was_stopped_for_longer_than_its_lease_commits_nothing_and_works_on(
    tmp_path: Path, place: Place, point: str, number: int
) -> None:
    events = make_events(1_500, 20)
    run = Run(tmp_path, place, partitions=2)
    await run.fill([event.as_record() for event in events])
    zombie = run.start(PSPF_FAULT=f"{point}:{20 + 13 * number}:stop")
    await until(lambda: state_of(zombie.pid) == "T", within_ms=30_000)
    other = run.start()
    await asyncio.sleep(4)  # two leases: it is taken for dead, and its work is done by the other
    os.kill(zombie.pid, signal.SIGCONT)
    codes = await asyncio.gather(*[asyncio.to_thread(worker.wait, SECONDS) for worker in (zombie, other)])
    assert codes == [0, 0], run.tail_of_log()
    async with run.open() as broker:
        await check_exactly_once(broker, events)
    run.check()


async def test_workers_that_start_at_once_on_an_empty_server_make_everything_once(site: Site) -> None:
    brokers = [site.broker() for _ in range(STARTERS)]
    try:

        async def begin(number: int) -> None:
            broker = brokers[number]
            await broker.connect()
            session = await broker.open_session()
            assert await session.register(TOPIC, GROUP, HANDLER) == 1
            assert await session.register(TOPIC, "shared", None) == 1
            await broker.append(TOPIC, numbered(10, start=number * 10))

        await asyncio.gather(*[begin(number) for number in range(STARTERS)])
        topics = await brokers[0].list_topics()
        assert [(info.topic, info.partitions, info.records) for info in topics] == [(TOPIC, 1, 10 * STARTERS)]
        assert [info.lag for info in await brokers[0].list_cursors()] == [10 * STARTERS] * 2
    finally:
        for broker in brokers:
            await broker.close()


async def test_renewals_go_on_while_the_loop_is_blocked(site: Site) -> None:
    limits = Limits(lease_ms=1_500, renew_ms=300)
    async with site.broker(limits) as broker, site.broker(limits, direct=True) as other:
        await broker.append(TOPIC, numbered(1, keys=["a"]))
        _, consumer = await own(broker, topic=TOPIC)
        session = await other.open_session()
        await session.register(TOPIC, GROUP, HANDLER)
        time.sleep(3)  # noqa: ASYNC251 - a handler that blocks the loop for two leases
        assert await leased(session).acquire(consumer.cursor) is None
        await session.close()
