"""The handler that all benchmarks share, how their processes start, and the pace of slow emits."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from importlib import import_module
from typing import Any, Final

from benchmarks.events import Tick
from pspf import Stream
from pspf.runtime.worker.interpreter import tune_interpreter

Handler = Callable[[Tick], Coroutine[Any, Any, None]]
_LATE: Final = (
    "pspf.engine.assignment",
    "pspf.engine.stored_state",
    "pspf.engine.processor",
    "pspf.observability.tracing",
)
"""What a Stream imports when it starts to run, or at its first emit."""


def get_ready() -> None:
    """Get a process ready as `pspf worker` does, with nothing left to import once a clock runs.

    Where no byte code is written (`PYTHONDONTWRITEBYTECODE`) each process compiles what it imports, for 0.1 s.
    """
    for name in _LATE:
        import_module(name)
    tune_interpreter()


def make_handler(total: int) -> tuple[Handler, asyncio.Event]:
    """Return a handler that counts, and an event that it sets at the `total`-th call."""
    handled = 0
    is_complete = asyncio.Event()

    async def handle(event: Tick) -> None:
        nonlocal handled
        handled += 1
        if handled == total:
            is_complete.set()

    return handle, is_complete


async def run_until(stream: Stream, complete: asyncio.Event) -> None:
    """Run the stream's handlers until `complete`; what was in hand is committed when this returns."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(stream.run_forever())
        await complete.wait()
        await stream.stop()


async def pace(per_second: float) -> None:
    """Wait until the next emit. The gaps are uneven: an even beat could fall in step with a poll."""
    await asyncio.sleep(random.uniform(0.5, 1.5) / per_second)
