"""Running a Stream beside a test, and looking at what it left in the broker."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import orjson

from pspf import BaseEvent, RetryPolicy, Stream
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.values import StoredDeadLetter
from pspf.windowing.progress import read_standing
from tests.support.tasks import print_tasks

TOPIC: Final = "numbers"
GROUP: Final = "sums"
_SHORT_STOP_S: Final = 2
_LONG_STOP_S: Final = 60
QUICK: Final = RetryPolicy(max_attempts=3, initial_ms=30, max_ms=60)
"""Retries that don't hold a test up."""


class Number(BaseEvent):
    """An event that is told apart by a number."""

    n: int


def numbers(count: int, *, keys: str = "a", start: int = 0) -> list[dict[str, Any]]:
    """Return events `start` to `start + count`; the letters of `keys` are dealt out in turn."""
    return [{"n": n, "key": keys[n % len(keys)]} for n in range(start, start + count)]


@asynccontextmanager
async def running(stream: Stream) -> AsyncIterator[asyncio.Task[None]]:
    """Run a stream's handlers until the block ends; what they raise is raised here."""
    task = asyncio.create_task(stream.run_forever())
    await asyncio.sleep(0)
    try:
        yield task
    except BaseException:  # its broker may have been left away, for which a stop waits
        await _end(stream, task, within_s=_SHORT_STOP_S)
        if not task.cancelled():
            task.result()
        raise
    assert await _end(stream, task, within_s=_LONG_STOP_S), "it did not stop"
    await task


async def _end(stream: Stream, task: "asyncio.Task[None]", within_s: float) -> bool:
    """Stop a stream; return whether that was done in time. If not, it is ended as a killed process is."""
    try:
        async with asyncio.timeout(within_s):
            await stream.stop()
            await asyncio.wait([task])
    except TimeoutError:
        print_tasks()
        while not task.done():
            stream.abandon()
            await asyncio.wait([task], timeout=_SHORT_STOP_S)
        return False
    return True


async def run_until_drained(*streams: Stream, within_ms: int = 5_000) -> None:
    """Run streams of one broker until nothing is left to do for their handlers."""
    async with AsyncExitStack() as stack:
        for stream in streams:
            await stack.enter_async_context(running(stream))
        await drain(*streams, within_ms=within_ms)


async def drain(*streams: Stream, within_ms: int = 5_000) -> None:
    """Return when the handlers of streams that run have nothing left."""
    broker = streams[0].broker
    wanted = {
        (topic, each.group, each.cursor_handler)
        for stream in streams
        for each in stream.subscriptions
        for topic in each.topics
    }

    async def nothing_is_left() -> bool:
        infos = await broker.list_cursors()
        mine = [info for info in infos if (info.cursor.topic, info.cursor.group, info.cursor.handler) in wanted]
        found = {(info.cursor.topic, info.cursor.group, info.cursor.handler) for info in mine}
        if found != wanted or any(info.lag != 0 for info in mine):
            return False
        return not any(read_standing(kept.progress).has_more for kept in await broker.list_operators())

    await broker.connect()
    await wait_until(nothing_is_left, within_ms=within_ms)


async def wait_until(condition: Callable[[], Awaitable[bool]], *, within_ms: int = 5_000) -> None:
    """Return as soon as `condition()` is true; fail with its name where it is not within `within_ms`."""
    deadline = time.monotonic() + within_ms / 1_000
    while not await condition():
        if time.monotonic() > deadline:
            print_tasks()
            raise AssertionError(f"not within {within_ms} ms: {getattr(condition, '__name__', condition)}")
        await asyncio.sleep(0.01)


async def until(condition: Callable[[], bool], *, within_ms: int = 5_000) -> None:
    """Return when `condition()` is true."""

    async def holds() -> bool:
        return condition()

    await wait_until(holds, within_ms=within_ms)


async def read_events(broker: Broker, topic: str) -> list[dict[str, Any]]:
    """Return the events of a topic, in order; empty where there is no such topic."""
    await broker.connect()
    if topic not in {info.topic for info in await broker.list_topics()}:
        return []
    _, partitions = await broker.read_topic(topic)
    records = [
        record
        for place in partitions
        for record in await broker.read(topic, place.partition, offset=0, max_records=100_000)
    ]
    return [orjson.loads(record.value) for record in records]


async def read_letters(broker: Broker) -> list[StoredDeadLetter]:
    """Return all dead letters."""
    await broker.connect()
    return list(await broker.list_dead_letters())


def make_stream(backend: StreamingBackend, **options: Any) -> Stream:
    """Return a stream on the backend's broker."""
    return Stream(backend, **options)
