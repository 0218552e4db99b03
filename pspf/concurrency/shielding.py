"""Shielding: work that a cancellation of its caller does not end, and cancellations that the work can't lose."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

from pspf.loggers import get_logger

logger = get_logger(__name__)

T = TypeVar("T")

_AGAIN_S: Final = 0.1


async def shielded(work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` does; cancelled meanwhile, leave it to go on alone.

    An error of it then has no caller: it is logged for debugging. `asyncio.shield` leaves it to the event
    loop, which prints a traceback that a user can do nothing about.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_see)
        raise


async def apart(work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` does; cancelled meanwhile, cancel it until it has ended.

    For calls of libraries that may lose a cancellation: `asyncio.wait_for` of Python 3.11 loses one that comes as
    what it waits for is done. A time-out around such a call would be lost with it.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        await end(task, again_s=_AGAIN_S)
        raise
    return task.result()


async def end(task: "asyncio.Task[Any]", *, again_s: float | None = None) -> None:
    """Cancel a task and wait for its end, however often this is cancelled itself meanwhile.

    With `again_s` it is cancelled again after so many seconds, as it may have lost the first cancellation.
    """
    while not task.done():
        task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.wait([task], timeout=again_s)
    if not task.cancelled():
        task.exception()  # seen: what it raised on its way out is of no more use


def _see(task: "asyncio.Task[Any]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.debug("what was given up has failed: %s", error)
