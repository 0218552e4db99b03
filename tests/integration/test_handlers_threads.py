"""Plain `def` handlers, which run in threads that nobody can end."""

import asyncio
import threading
import time
from collections import Counter
from typing import Any

import pytest

from pspf import Context, RetryPolicy, Stream
from pspf.connectors.contract.backend import StreamingBackend
from pspf.context import SyncContext
from pspf.errors import ContextClosed
from tests.integration.running import (
    TOPIC,
    Number,
    drain,
    numbers,
    read_events,
    read_letters,
    run_until_drained,
    running,
    until,
)

PATIENT = RetryPolicy(3, initial_ms=30, max_ms=30)


class Hanging:
    """A plain handler that hangs in its first run of event 0 until it is let go."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()
        self.runs: list[int] = []
        self.inside = Counter[str]()
        self.most = Counter[str]()
        self.ended: list[BaseException | None] = []

    def __call__(self, event: Number, ctx: SyncContext) -> None:
        key = event.key or ""
        self.runs.append(event.n)
        self.inside[key] += 1
        self.most[key] = max(self.most[key], self.inside[key])
        try:
            if event.n == 0 and self.runs.count(0) == 1:
                assert self.goes_on.wait(10)
                self.note(lambda: ctx.emit({"n": "too late"}, topic="out"))
            ctx.emit({"n": event.n}, topic="out")
        finally:
            self.inside[key] -= 1

    def note(self, act: Any) -> None:
        try:
            act()
        except ContextClosed as error:
            self.ended.append(error)
            raise
        self.ended.append(None)


@pytest.mark.parametrize("ordering", ["none", "key"])
@pytest.mark.parametrize("concurrency", [1, 4])
async def test_others_go_on_while_a_call_is_over_its_time_and_it_runs_again_after_it_has_ended(
    backend: StreamingBackend, ordering: Any, concurrency: int
) -> None:
    stream = Stream(backend)
    handler = Hanging()
    stream.subscribe(
        TOPIC, 10, ordering=ordering, concurrency=concurrency, timeout_ms=50, retry=PATIENT, name="hanging"
    )(handler)
    await stream.emit_many(numbers(12, keys="abc"))
    async with running(stream):
        others = {n for n in range(12) if n % 3} if ordering == "key" else set(range(1, 12))
        await until(lambda: set(handler.runs) >= others)
        await asyncio.sleep(0.1)
        assert handler.runs.count(0) == 1, "its record is busy until its thread has ended"
        if ordering == "key":
            assert not {3, 6, 9} & set(handler.runs), "and so is its key"
        handler.goes_on.set()
        await drain(stream)
    assert [type(error) for error in handler.ended] == [ContextClosed]
    assert handler.runs.count(0) == 2
    assert handler.most["a"] == 1 or ordering == "none"
    assert sorted(event["n"] for event in await read_events(backend.broker, "out")) == list(range(12))
    assert await read_letters(backend.broker) == []


async def test_a_call_over_its_time_is_charged_though_nothing_else_comes(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    handler = Hanging()
    stream.subscribe(TOPIC, timeout_ms=30, retry=RetryPolicy(1), name="hanging")(handler)
    await stream.emit(numbers(1)[0])
    async with running(stream):
        await until(lambda: handler.runs == [0])
        await asyncio.sleep(0.1)
        handler.goes_on.set()
        await drain(stream, within_ms=1_500)
    (letter,) = await read_letters(backend.broker)
    assert (letter.error_type, letter.attempts) == ("HandlerTimeout", 1)


async def test_a_call_that_never_ends_does_not_keep_a_stop_waiting(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    handler = Hanging()
    stream.subscribe(TOPIC, timeout_ms=30, name="hanging")(handler)
    await stream.emit_many(numbers(3))
    async with running(stream):
        await until(lambda: handler.runs == [0, 1, 2])
        async with asyncio.timeout(1):
            await stream.stop()
    handler.goes_on.set()
    await until(lambda: len(handler.ended) == 1)


async def test_a_thread_runs_nothing_more_after_giving_up(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    loop = asyncio.get_running_loop()
    runs: list[int] = []
    goes_on = threading.Event()

    @stream.subscribe(TOPIC, 10, name="plain")
    def handle(event: Number) -> None:
        runs.append(event.n)
        if len(runs) == 1:
            loop.call_soon_threadsafe(stream.give_up)
            assert goes_on.wait(10)

    await stream.emit_many(numbers(5))
    async with asyncio.timeout(5):
        await stream.run_forever()
    threads = [thread for thread in threading.enumerate() if thread.name == "pspf-handler"]
    goes_on.set()
    for thread in threads:
        await asyncio.to_thread(thread.join, 5)
    assert runs == [0]
    await run_until_drained(stream)
    assert runs == [0, 0, 1, 2, 3, 4]


async def test_a_plain_handler_of_batches_that_is_over_its_time_is_waited_for(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    inside = most = 0
    calls: list[int] = []

    @stream.subscribe(TOPIC, 4, timeout_ms=30, retry=PATIENT)
    def handle(events: list[Number], ctx: SyncContext) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        calls.append(len(events))
        if len(calls) == 1:
            time.sleep(0.1)
        inside -= 1

    await stream.emit_many(numbers(4))
    await run_until_drained(stream)
    assert most == 1
    assert calls == [4, 2, 2]


@pytest.mark.parametrize("takes", [Number, list[Number]])
async def test_an_async_handler_over_its_time_is_cancelled_and_retried(backend: StreamingBackend, takes: Any) -> None:
    stream = Stream(backend)
    runs: list[str] = []
    kept: list[Context] = []

    async def handle(event: Any, ctx: Context) -> None:
        kept.append(ctx)
        ctx.emit({"run": len(kept)}, topic="out")
        if len(kept) == 1:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                runs.append("cancelled")
                raise
        if len(kept) == 2:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                runs.append("went on")

    handle.__annotations__["event"] = takes
    stream.subscribe(TOPIC, timeout_ms=30, retry=PATIENT)(handle)
    await stream.emit(numbers(1)[0])
    await run_until_drained(stream)
    assert runs == ["cancelled", "went on"]
    assert [event["run"] for event in await read_events(backend.broker, "out")] == [3]
    with pytest.raises(ContextClosed):
        kept[0].emit({"run": 0})


async def test_plain_handlers_side_by_side_keep_the_order_of_a_key(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    inside = Counter[str]()
    overlaps: list[str] = []

    @stream.subscribe(TOPIC, 20, ordering="key", concurrency=6)
    def handle(event: Number, ctx: SyncContext) -> None:
        key = str(event.key)
        inside[key] += 1
        if inside[key] > 1:
            overlaps.append(key)
        seen = ctx.state.get("seen", [])
        time.sleep(0.001)
        ctx.state.put("seen", [*seen, event.n])
        inside[key] -= 1

    await stream.emit_many(numbers(60, keys="abcd"))
    await run_until_drained(stream)
    assert overlaps == []
    async with stream:
        for place, key in enumerate("abcd"):
            assert await stream.read_state(handle, key, "seen") == list(range(place, 60, 4))


async def test_stopping_leaves_what_plain_handlers_had_not_started(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    loop = asyncio.get_running_loop()
    runs: list[int] = []
    is_first_run = True

    @stream.subscribe(TOPIC, 100, ordering="key", concurrency=3, name="plain")
    def handle(event: Number, ctx: SyncContext) -> None:
        runs.append(event.n)
        ctx.emit({"n": event.n}, topic="out")
        if is_first_run and len(runs) >= 10:
            asyncio.run_coroutine_threadsafe(stream.stop(), loop).result()

    await stream.emit_many(numbers(100, keys="abcdefghij"))
    async with asyncio.timeout(5):
        await stream.run_forever()
    assert 10 <= len(runs) < 20
    is_first_run = False
    await run_until_drained(stream)
    assert sorted(runs) == list(range(100)), "none twice"
    assert [n for n in runs if n % 10 == 4] == list(range(4, 100, 10))
    assert sorted(event["n"] for event in await read_events(backend.broker, "out")) == list(range(100))
