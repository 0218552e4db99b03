"""taskiq with the stream broker of taskiq-redis, as its worker runs it."""

import asyncio
import logging
import time
from typing import Any

from taskiq.receiver import Receiver
from taskiq_redis import RedisStreamBroker

from benchmarks.events import BATCH, Tick, ready_dicts
from benchmarks.handlers import make_handler

QUEUE = "taskiq"
AT_ONCE = 100
"""What `taskiq worker` runs concurrently."""


def open_broker(port: int, group: str, handle: Any) -> tuple[Any, Any]:
    """Return a broker and the task that it runs."""
    broker: Any = RedisStreamBroker(
        f"redis://127.0.0.1:{port}",
        queue_name=QUEUE,
        consumer_group_name=group,
        consumer_id="0",
        xread_count=BATCH,
    )
    return broker, broker.register_task(handle, task_name="handle")


async def fill(*, port: int, total: int) -> dict[str, Any]:
    """Kick the tasks that the consumers will run; return the seconds."""

    async def handle(event: Tick) -> None:
        """Only the task's name counts here."""

    broker, task = open_broker(port, "fill", handle)
    events = ready_dicts(total, with_ids=True)
    await broker.startup()
    started = time.perf_counter()
    for first in range(0, total, AT_ONCE):
        await asyncio.gather(*[task.kiq(event) for event in events[first : first + AT_ONCE]])
    seconds = time.perf_counter() - started
    await broker.shutdown()
    return {"seconds": seconds}


async def consume(*, port: int, total: int, group: str) -> dict[str, Any]:
    """Run all tasks, their arguments validated, each acknowledged; return the seconds."""
    logging.getLogger("taskiq").setLevel(logging.ERROR)
    handle, is_complete = make_handler(total)
    broker, _ = open_broker(port, group, handle)
    is_over = asyncio.Event()
    receiver = Receiver(broker, max_async_tasks=AT_ONCE)
    started = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(receiver.listen(is_over))
        await is_complete.wait()
        seconds = time.perf_counter() - started
        is_over.set()
    await broker.shutdown()
    return {"seconds": seconds}
