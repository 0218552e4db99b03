"""`idle_timeout_ms`: what is open closes when a partition goes silent, and only then."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio

from pspf import BaseEvent, Count, RetryPolicy, SessionWindow, SlidingWindow, Stream, TumblingWindow
from pspf.clock import ManualClock
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.contract.limits import Limits
from pspf.connectors.memory import MemoryBroker
from pspf.records import NewRecord
from pspf.windowing.definitions import Window
from tests.integration.running import drain, read_events, run_until_drained, running, wait_until

TOPIC = "ticks"
IDLE_MS = 1_000_000


def tick(at: float, key: str = "a", **fields: Any) -> dict[str, Any]:
    """Return an event at a time in seconds."""
    return {"timestamp": at, "key": key, **fields}


def make(backend: StreamingBackend, clock: ManualClock | None = None) -> Stream:
    stream = Stream(backend)
    if clock is not None:
        stream.processor.clock = clock
    return stream


async def values(stream: Stream, topic: str = "out") -> list[tuple[Any, ...]]:
    """Return (key, start in seconds, value) of what went out."""
    events = await read_events(stream.broker, topic)
    return [(event["key"], event["window_start_ms"] / 1000, event["value"]) for event in events]


async def look_again(stream: Stream) -> None:
    """Let reads that wait look at the clock: an append wakes all of them."""
    await stream.broker.append("elsewhere", [NewRecord(None, b"{}")])


async def let_it_read(stream: Stream) -> None:
    """Return when the loops have had time for several reads."""
    for _ in range(10):
        await look_again(stream)
        await asyncio.sleep(0.002)


@pytest_asyncio.fixture
async def clock() -> ManualClock:
    return ManualClock()


@pytest_asyncio.fixture
async def memory(clock: ManualClock) -> AsyncIterator[StreamingBackend]:
    made = StreamingBackend(MemoryBroker(Limits(), clock), TOPIC, "g")
    yield made
    await made.close()


async def test_what_is_open_closes_when_nothing_has_come_for_so_long(
    memory: StreamingBackend, clock: ManualClock
) -> None:
    stream = make(memory, clock)
    windows: dict[str, Window] = {
        "out": TumblingWindow(10_000),
        "slid": SlidingWindow(10_000, 5_000),
        "sessions": SessionWindow(1_000),
    }
    for to, window in windows.items():
        stream.window(TOPIC, window, emit="final", to=to, name=to, idle_timeout_ms=IDLE_MS)(Count())
    stream.window(TOPIC, TumblingWindow(10_000), emit="final", to="never", name="never")(Count())
    await stream.emit_many([tick(1), tick(2), tick(2.5, "b")], TOPIC)
    async with running(stream):
        await drain(stream)
        await let_it_read(stream)
        clock.advance(IDLE_MS - 1)
        await let_it_read(stream)
        assert [await values(stream, to) for to in windows] == [[], [], []]
        clock.advance(1)

        async def all_out() -> bool:
            await look_again(stream)
            return len(await values(stream, "sessions")) == 2

        await wait_until(all_out)
        await let_it_read(stream)
    assert await values(stream) == [("a", 0, 2), ("b", 0, 1)]
    assert await values(stream, "slid") == [("a", -5, 2), ("b", -5, 1), ("a", 0, 2), ("b", 0, 1)]
    assert await values(stream, "sessions") == [("a", 1, 2), ("b", 2.5, 1)]
    assert await values(stream, "never") == []


async def test_the_watermark_that_silence_moved_never_goes_back(memory: StreamingBackend, clock: ManualClock) -> None:
    for events, moves in (([tick(1)], True), ([tick(2), tick(12), tick(25)], False)):
        stream = make(memory, clock)
        stream.window(TOPIC, TumblingWindow(10_000), emit="final", to="out", name="t", idle_timeout_ms=IDLE_MS)(Count())
        await stream.emit_many(events, TOPIC)
        async with running(stream):
            await drain(stream)
            await let_it_read(stream)

            async def is_out() -> bool:
                await look_again(stream)  # noqa: B023 (awaited here)
                return bool(await values(stream))  # noqa: B023 (awaited here)

            if moves:
                clock.advance(IDLE_MS)
            await wait_until(is_out)
    assert await values(stream) == [("a", 0, 1), ("a", 10, 1)]
    assert [event["timestamp"] for event in await read_events(stream.broker, f"{TOPIC}-late")] == [2]


async def test_a_new_record_starts_the_count_anew(memory: StreamingBackend, clock: ManualClock) -> None:
    stream = make(memory, clock)
    stream.window(TOPIC, TumblingWindow(10_000), emit="final", to="out", name="t", idle_timeout_ms=IDLE_MS)(Count())
    await stream.emit_many([tick(1)], TOPIC)
    async with running(stream):

        async def is_out() -> bool:
            clock.advance(IDLE_MS // 4)
            await look_again(stream)
            return bool(await values(stream))

        await wait_until(is_out)
        await stream.emit_many([tick(15)], TOPIC)
        await drain(stream)
        for _ in range(3):
            clock.advance(IDLE_MS // 4)
            await let_it_read(stream)
        assert await values(stream) == [("a", 0, 1)]


async def test_a_backlog_is_no_silence_however_long_it_takes(memory: StreamingBackend, clock: ManualClock) -> None:
    stream = make(memory, clock)

    async def slow(event: BaseEvent, state: int | None) -> int:
        clock.advance(10 * IDLE_MS)
        await look_again(stream)
        return (state or 0) + 1

    options: dict[str, Any] = {"emit": "final", "to": "out", "batch_size": 1, "idle_timeout_ms": IDLE_MS}
    stream.window(TOPIC, TumblingWindow(10_000), name="t", **options)(slow)
    await stream.emit_many([tick(n) for n in range(5)], TOPIC)
    async with running(stream):

        async def is_out() -> bool:
            clock.advance(IDLE_MS // 10)
            await look_again(stream)
            return bool(await values(stream))

        await wait_until(is_out)
    assert await values(stream) == [("a", 0, 5)]
    assert await read_events(stream.broker, f"{TOPIC}-late") == []


async def test_silence_does_not_close_over_a_record_that_waits_for_its_retry(
    memory: StreamingBackend, clock: ManualClock
) -> None:
    stream = make(memory, clock)

    async def flaky(event: BaseEvent, state: int | None) -> int:
        if event.model_extra == {"is_bad": True} and clock.now_ms() < begun_ms + 5 * IDLE_MS:
            raise RuntimeError("not yet")
        return (state or 0) + 1

    begun_ms = clock.now_ms()
    policy = RetryPolicy(max_attempts=100, initial_ms=10 * IDLE_MS, max_ms=10 * IDLE_MS, jitter=0)
    stream.window(
        TOPIC, TumblingWindow(10_000), emit="final", to="out", name="t", retry=policy, idle_timeout_ms=IDLE_MS
    )(flaky)
    await stream.emit_many([tick(1), tick(2, is_bad=True), tick(3, "b")], TOPIC)
    async with running(stream):

        async def others_are_out() -> bool:
            clock.advance(IDLE_MS // 10)
            await look_again(stream)
            return await values(stream) == [("b", 0, 1)]

        async def all_are_out() -> bool:
            clock.advance(IDLE_MS)
            await look_again(stream)
            return await values(stream) == [("b", 0, 1), ("a", 0, 2)]

        await wait_until(others_are_out)
        await wait_until(all_are_out)
    assert await read_events(stream.broker, f"{TOPIC}-late") == []


async def test_what_an_earlier_run_left_open_closes_without_a_further_record(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    stream.window(TOPIC, TumblingWindow(10_000), emit="final", to="out", name="t", idle_timeout_ms=60_000)(Count())
    await stream.emit_many([tick(1), tick(2)], TOPIC)
    await run_until_drained(stream)
    assert await values(stream) == []
    later = Stream(backend)
    later.window(TOPIC, TumblingWindow(10_000), emit="final", to="out", name="t", idle_timeout_ms=50)(Count())
    async with running(later):

        async def is_out() -> bool:
            return bool(await values(later))

        await wait_until(is_out, within_ms=20_000)
    assert await values(later) == [("a", 0, 2)]


async def test_a_window_that_waits_for_a_key_is_not_forgotten_by_a_restart(backend: StreamingBackend) -> None:
    is_mended = False

    async def flaky(event: BaseEvent, state: int | None) -> int:
        if event.model_extra == {"is_bad": True} and not is_mended:
            raise RuntimeError("not yet")
        return (state or 0) + 1

    def make_it(retry_ms: int) -> Stream:
        stream = Stream(backend)
        policy = RetryPolicy(max_attempts=100, initial_ms=retry_ms, max_ms=retry_ms)
        stream.window(TOPIC, TumblingWindow(10_000), emit="final", to="out", name="t", retry=policy)(flaky)
        return stream

    first = make_it(500)
    await first.emit_many([tick(1), tick(2, is_bad=True), tick(3, "b"), tick(30, "c")], TOPIC)

    async def so_many(count: int) -> bool:
        return len(await values(first)) >= count

    async with running(first):
        await wait_until(lambda: so_many(1))
    assert await values(first) == [("b", 0, 1)]
    is_mended = True
    async with running(make_it(500)):
        await wait_until(lambda: so_many(2))
    assert await values(first) == [("b", 0, 1), ("a", 0, 2)]
