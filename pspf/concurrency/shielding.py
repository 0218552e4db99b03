"""Shielding: work that runs to its end although the task that waits for it is cancelled."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from pspf.loggers import get_logger

logger = get_logger(__name__)

T = TypeVar("T")


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


def _see(task: "asyncio.Task[Any]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.debug("what was given up has failed: %s", error)
