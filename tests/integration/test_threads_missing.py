"""Plain `def` handlers while the system has no thread for them: they wait for one, and nothing is charged."""

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pspf import Stream
from pspf.backoff import Sparing
from pspf.concurrency import background as module
from pspf.connectors.contract.backend import StreamingBackend
from pspf.windowing.definitions import TumblingWindow
from tests.integration.running import QUICK, TOPIC, Number, drain, numbers, read_letters, running, until
from tests.support.threads import no_threads

Subscribe = Callable[[Stream, list[int]], None]


def shared(stream: Stream, seen: list[int]) -> None:
    @stream.subscribe(TOPIC, retry=QUICK)
    def handle(event: Number) -> None:
        seen.append(event.n)


def side_by_side(stream: Stream, seen: list[int]) -> None:
    @stream.subscribe(TOPIC, retry=QUICK, concurrency=4)
    def handle(event: Number) -> None:
        seen.append(event.n)


def ordered(stream: Stream, seen: list[int]) -> None:
    @stream.subscribe(TOPIC, ordering="key", retry=QUICK)
    def handle(event: Number) -> None:
        seen.append(event.n)


def lists(stream: Stream, seen: list[int]) -> None:
    @stream.subscribe(TOPIC, retry=QUICK)
    def handle(events: list[Number]) -> None:
        seen.extend(event.n for event in events)


def windows(stream: Stream, seen: list[int]) -> None:
    def fold(event: Number, state: Any) -> int:
        seen.append(event.n)
        return event.n

    stream.window(TOPIC, TumblingWindow(10_000), retry=QUICK, name="fold")(fold)


SHAPES = [shared, side_by_side, ordered, lists, windows]


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Tell how often it was said that there is no thread."""
    monkeypatch.setattr(module, "_starts", Sparing())  # another test's line, a moment ago, counts as well
    caplog.set_level(logging.WARNING)
    return lambda: sum("can't start new thread" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("subscribe", SHAPES)
async def test_a_handler_waits_for_a_thread_and_nothing_is_charged(
    backend: StreamingBackend, subscribe: Subscribe, said: Callable[[], int]
) -> None:
    stream = Stream(backend)
    seen: list[int] = []
    subscribe(stream, seen)
    await stream.emit_many(numbers(1))
    async with running(stream) as task:
        await drain(stream)
        with no_threads():
            await stream.emit_many(numbers(8, start=1, keys="abcd"))
            await until(lambda: said() > 0 or task.done())
            await asyncio.sleep(0.3)  # several tries: the line is said once
            assert not task.done()
            assert seen == [0]
            assert said() == 1
        await drain(stream)
    assert sorted(seen) == list(range(9))
    assert await read_letters(backend.broker) == []


@pytest.mark.parametrize("subscribe", SHAPES)
async def test_a_stop_does_not_wait_for_a_thread_and_gives_the_records_back(
    backend: StreamingBackend, subscribe: Subscribe, said: Callable[[], int]
) -> None:
    stream = Stream(backend)
    seen: list[int] = []
    subscribe(stream, seen)
    await stream.emit_many(numbers(1))
    async with running(stream) as task:
        await drain(stream)
        with no_threads():
            await stream.emit_many(numbers(8, start=1, keys="abcd"))
            await until(lambda: said() > 0 or task.done())
            stopping = asyncio.create_task(stream.stop())
            await asyncio.wait([task], timeout=5)
            is_done = task.done()
        await stopping
    assert is_done
    async with running(stream):
        await drain(stream)
    assert sorted(seen) == list(range(9))
    assert await read_letters(backend.broker) == []


@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_what_is_left_behind_a_call_over_its_time_waits_for_a_thread(
    backend: StreamingBackend, ordering: Any, said: Callable[[], int]
) -> None:
    stream = Stream(backend)
    seen: list[int] = []
    goes_on = threading.Event()

    @stream.subscribe(TOPIC, 10, ordering=ordering, timeout_ms=200, retry=QUICK)
    def handle(event: Number) -> None:
        seen.append(event.n)
        if event.n == 1 and seen.count(1) == 1:
            assert goes_on.wait(20)

    await stream.emit_many(numbers(1))
    async with running(stream) as task:
        await drain(stream)
        await stream.emit_many(numbers(8, start=1, keys="abcd"))
        await until(lambda: 1 in seen)
        with no_threads():
            await until(lambda: said() > 0 or task.done())
            await asyncio.sleep(0.1)
            assert not task.done()
        goes_on.set()
        await drain(stream)
    assert sorted(set(seen)) == list(range(9))
    assert await read_letters(backend.broker) == []
