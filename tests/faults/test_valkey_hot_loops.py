"""An error that comes back however often it is mended costs little: waits grow over the tries that succeed between."""

import asyncio
import threading

import pytest

from pspf import Stream
from tests.faults.valkey import QUICK, Site
from tests.integration.running import Number, running, until

SPAN_S = 3.0
MOST = 180
"""Without growing waits it is thousands."""


def break_again_and_again(site: Site, command: tuple[str, ...], stop: threading.Event) -> None:
    """Send a command every few milliseconds, past the proxy."""
    with site.server.client(database=site.database) as client:
        while not stop.wait(0.003):
            client.execute_command(*command)


@pytest.mark.parametrize(
    "command", [("XGROUP", "DESTROY", "numbers", "g"), ("DEL", "numbers")], ids=["group", "stream"]
)
async def test_what_is_deleted_again_and_again_is_no_hot_loop(
    site: Site, command: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    stream = Stream(site.backend(QUICK, topic="numbers", group="g"))
    seen: list[int] = []

    @stream.subscribe("numbers", name="handle")
    async def handle(event: Number) -> None:
        seen.append(event.n)

    async with running(stream):
        await stream.emit({"n": 1})
        await until(lambda: seen == [1])
        stop = threading.Event()
        breaking = asyncio.create_task(asyncio.to_thread(break_again_and_again, site, command, stop))
        before, lines = site.proxy.commands.total(), len(caplog.records)
        await asyncio.sleep(SPAN_S)
        sent, said = site.proxy.commands.total() - before, len(caplog.records) - lines
        stop.set()
        await breaking
        await stream.emit({"n": 2})
        await until(lambda: 2 in seen, within_ms=10_000)
    print(f"{sent} commands, {said} log lines")
    assert sent <= MOST


async def test_a_topic_that_comes_back_with_fewer_partitions_is_no_hot_loop(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    stream = Stream(site.backend(QUICK, topic="numbers", group="g"), partitions=4)

    @stream.subscribe("numbers", name="handle")
    async def handle(event: Number) -> None: ...

    async with running(stream):
        await until(lambda: len(stream.telemetry.activities) == 4)
        before, lines = site.proxy.commands.total(), len(caplog.records)
        with site.server.client(database=site.database) as client, client.pipeline(transaction=True) as flushed:
            flushed.flushdb()
            flushed.hset("pspf:topics", "numbers", "2 -")
            flushed.execute()
        await until(lambda: len(stream.telemetry.activities) == 2, within_ms=10_000)
        await asyncio.sleep(SPAN_S)
        sent, said = site.proxy.commands.total() - before, len(caplog.records) - lines
    print(f"{sent} commands, {said} log lines")
    assert said <= 4  # the group, the lease, why it joins again, the partitions: each once
    assert sent <= MOST


async def test_what_fails_in_many_partitions_at_once_is_said_once(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    stream = Stream(site.backend(QUICK, topic="numbers", group="g"), partitions=8)

    @stream.subscribe("numbers", name="handle")
    async def handle(event: Number) -> None: ...

    async with running(stream):
        await until(lambda: len(stream.telemetry.activities) == 8)
        site.proxy.refuse()
        try:
            await until(lambda: "can't read" in caplog.text)
            await asyncio.sleep(SPAN_S)
        finally:
            site.proxy.accept()  # or it would wait for the server to the end
    said = [each for each in caplog.records if "will try again" in each.getMessage() and "leases" not in each.message]
    assert len(said) == 1
