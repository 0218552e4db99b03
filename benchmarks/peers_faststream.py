"""FastStream on Redis streams: one message at a time, and its batch mode."""

import asyncio
import logging
import time
from typing import Any

from faststream.redis import RedisBroker, StreamSub

from benchmarks.events import BATCH, Tick, ready_dicts
from benchmarks.handlers import make_handler

STREAM = "faststream"
AT_ONCE = 100


def open_broker(port: int) -> Any:
    """Return a broker that logs errors only."""
    return RedisBroker(f"redis://127.0.0.1:{port}", logger=logging.getLogger("faststream"), log_level=logging.DEBUG)


async def fill(*, port: int, total: int) -> dict[str, Any]:
    """Publish the events that the consumers will read, in FastStream's own envelope; return the seconds."""
    events = ready_dicts(total, with_ids=True)
    async with open_broker(port) as broker:
        started = time.perf_counter()
        for first in range(0, total, AT_ONCE):
            batch = events[first : first + AT_ONCE]
            await asyncio.gather(*[broker.publish(event, stream=STREAM) for event in batch])
        return {"seconds": time.perf_counter() - started}


async def consume(*, port: int, total: int, group: str) -> dict[str, Any]:
    """The stream subscriber, reading 500 at a time, acknowledging each message; return the seconds."""
    handle, is_complete = make_handler(total)
    return await _consume(port, group, handle, is_complete, is_batch=False)


async def consume_batches(*, port: int, total: int, group: str) -> dict[str, Any]:
    """The batch mode: the handler gets a list of up to 500 models; return the seconds."""
    handle, is_complete = make_handler(total)

    async def handle_all(events: list[Tick]) -> None:
        for event in events:
            await handle(event)

    return await _consume(port, group, handle_all, is_complete, is_batch=True)


async def _consume(port: int, group: str, handle: Any, complete: asyncio.Event, *, is_batch: bool) -> dict[str, Any]:
    broker = open_broker(port)
    stream = StreamSub(STREAM, group=group, consumer="peer", batch=is_batch, max_records=BATCH, last_id="0")
    broker.subscriber(stream=stream)(handle)
    started = time.perf_counter()
    await broker.start()
    await complete.wait()
    seconds = time.perf_counter() - started
    await broker.stop()
    return {"seconds": seconds}
