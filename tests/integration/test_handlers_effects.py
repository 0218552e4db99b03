"""What a run may not have an effect on: a run that is over its time, one whose records are another's, one beside it."""

import asyncio
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pspf import RetryPolicy, Stream
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.contract.limits import Limits
from pspf.connectors.sqlite import SQLiteBroker
from pspf.context import SyncContext
from pspf.errors import ContextClosed
from tests.integration.running import (
    GROUP,
    QUICK,
    TOPIC,
    Number,
    drain,
    numbers,
    read_events,
    read_letters,
    run_until_drained,
    running,
    until,
    wait_until,
)
from tests.support.workers import new, share

TIMEOUT_MS = 100
PATIENT = RetryPolicy(max_attempts=20, initial_ms=30, max_ms=60)
"""For what a busy machine may hold up beyond its time more than once."""


@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_what_a_thread_did_that_was_over_its_time_never_counts(backend: StreamingBackend, ordering: Any) -> None:
    """Its batch is still under way when it ends well, so that its success could be taken."""
    stream = Stream(backend)
    ended = threading.Event()
    runs = Counter[int]()

    def handle(event: Number, ctx: SyncContext) -> None:
        runs[event.n] += 1
        if event.n == 59:
            ended.wait(10)
        if event.n:
            time.sleep(0.01)
            return
        ctx.emit({"run": runs[0]}, topic="out")
        if runs[0] == 1:
            wait_for_the_end_of(ctx)
            ended.set()

    stream.subscribe(TOPIC, 60, ordering=ordering, concurrency=2, timeout_ms=TIMEOUT_MS, retry=PATIENT, name="slow")(
        handle
    )
    keys = "".join(map(chr, range(ord("a"), ord("a") + 60)))
    await stream.emit_many(numbers(60, keys=keys))
    await run_until_drained(stream, within_ms=20_000)
    assert ended.is_set()
    assert runs[0] > 1
    assert set(runs) == set(range(60))
    assert [event["run"] for event in await read_events(backend.broker, "out")] == [runs[0]]


def wait_for_the_end_of(ctx: SyncContext) -> None:
    """Return when a call's time is up: its context takes nothing any more."""
    with suppress(ContextClosed):
        while True:
            ctx.emit({"run": 0}, topic="out")
            time.sleep(0.005)


async def test_a_key_waits_for_a_thread_that_still_runs_though_its_record_is_dead(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    goes_on = threading.Event()
    runs: list[int] = []
    inside: Counter[str] = Counter()
    most: Counter[str] = Counter()

    @stream.subscribe(
        TOPIC, 10, ordering="key", concurrency=4, timeout_ms=TIMEOUT_MS, retry=RetryPolicy(1), name="hanging"
    )
    def handle(event: Number) -> None:
        key = event.key or ""
        inside[key] += 1
        most[key] = max(most[key], inside[key])
        runs.append(event.n)
        if event.n == 0:
            assert goes_on.wait(10)
        inside[key] -= 1

    await stream.emit_many(numbers(9, keys="abc"))
    async with running(stream):
        await until(lambda: {1, 2, 4, 5, 7, 8} <= set(runs))

        async def is_dead() -> bool:
            return len(await read_letters(backend.broker)) >= 1

        await wait_until(is_dead)
        await stream.emit_many(numbers(3, start=9, keys="abc"))
        await until(lambda: {10, 11} <= set(runs))
        goes_on.set()
        await drain(stream)
    assert set(runs) == set(range(12))
    assert most["a"] == 1


async def test_threads_do_not_go_on_where_their_task_is_cancelled(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    goes_on = threading.Event()
    runs: list[int] = []

    @stream.subscribe(TOPIC, 10, name="plain")
    def handle(event: Number) -> None:
        runs.append(event.n)
        if len(runs) == 1:
            assert goes_on.wait(10)

    await stream.emit_many(numbers(5))
    task = asyncio.create_task(stream.run_forever())
    await until(lambda: runs == [0])
    task.cancel()
    await asyncio.wait([task], timeout=5)
    assert task.done()
    threads = [thread for thread in threading.enumerate() if thread.name == "pspf-handler"]
    goes_on.set()
    for thread in threads:
        await asyncio.to_thread(thread.join, 5)
    assert runs == [0]


async def test_a_failure_of_a_record_that_was_taken_away_is_not_counted(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    runs: list[int] = []

    @stream.subscribe(TOPIC, group=GROUP, batch_size=1, retry=QUICK)
    async def handle(event: Number) -> None:
        runs.append(event.n)
        if event.n == 0:
            await backend.broker.operations.trim(TOPIC, 0, max_records=0, drop_unread=True)
            await backend.broker.append(TOPIC, [new('{"n": 1}')])
            raise ValueError("of a record that is nobody's any more")

    await stream.emit_many(numbers(1))
    async with running(stream):
        await until(lambda: runs == [0, 1])
        await drain(stream)
    (counters,) = stream.telemetry.snapshot()
    assert (counters.processed, counters.failed, counters.retried, counters.dead) == (1, 0, 0, 0)


async def test_a_record_that_may_end_the_process_runs_beside_no_other(tmp_path: Path) -> None:
    """Else the other one, which may be the culprit, would charge it."""
    backend = StreamingBackend(SQLiteBroker(tmp_path / "broker.db", Limits(synchronous="NORMAL")), TOPIC, GROUP)
    async with SQLiteBroker(tmp_path / "broker.db", Limits(synchronous="NORMAL")) as dying:
        await dying.append("suspects", [new('{"n": 0}')])
        for _ in range(2):  # in hand at the first end, about to run at the second
            member = await share(dying, topic="suspects", group=GROUP)
            batch = await member.consumer.poll(max_records=1, timeout_ms=10_000)
            await member.consumer.intend([record.offset for record in batch.records])
            member.session.abandon()
    stream = Stream(backend)
    inside: set[str] = set()
    overlaps: list[set[str]] = []
    met = asyncio.Event()

    async def run(name: str) -> None:
        inside.add(name)
        if len(inside) > 1:
            overlaps.append(set(inside))
            met.set()
        try:
            async with asyncio.timeout(0.2):  # for as long as the other one could begin
                await met.wait()
        except TimeoutError:
            pass
        inside.discard(name)

    @stream.subscribe("suspects", group=GROUP)
    async def suspect(event: Number) -> None:
        done.append("suspect")
        await run("suspect")

    @stream.subscribe(TOPIC, group=GROUP, batch_size=1)
    async def other(event: Number) -> None:
        done.append("other")
        await run("other")

    done: list[str] = []
    await stream.emit_many(numbers(10))
    async with running(stream):
        await drain(stream, within_ms=20_000)
    await backend.close()
    assert done.count("suspect") == 1
    assert overlaps == []
