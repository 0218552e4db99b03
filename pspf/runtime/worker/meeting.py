"""Broker calls of a supervisor: it waits for the broker before the processes start, and reads the lag at the end."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from pspf.errors import BackendUnavailable
from pspf.runtime.app.loader import LoadedApp
from pspf.runtime.app.plan import AppPlan, WorkerOptions
from pspf.runtime.app.work import CursorName
from pspf.runtime.worker.broker_wait import connect_patiently, say_missing_topics
from pspf.runtime.worker.drain import read_lags

_LAG_TIMEOUT_S: Final = 5.0
_HURRIED_S: Final = 0.5


async def meet_broker(
    loaded: LoadedApp, plan: AppPlan, options: WorkerOptions, say: Callable[[str], None]
) -> str | None:
    """Wait for the broker, and return its identity: before there are processes, so that one line says that it is down.

    A signal meanwhile ends this process quietly: no batch runs yet.

    Raises:
        TimeoutError: A burst's time was up.
    """
    broker = loaded.stream.broker
    try:
        async with asyncio.timeout(options.burst_left_s):
            await connect_patiently(broker, asyncio.Event(), say)
        await say_missing_topics(broker, (cursor.topic for cursor in plan.cursors), say)
        return broker.identity
    finally:
        await broker.close()


async def read_final_lags(
    loaded: LoadedApp, cursors: Sequence[CursorName], *, is_hurried: bool
) -> Mapping[CursorName, int | None]:
    """Return the lags after the worker has stopped, None where the broker can't be read; `is_hurried` does not wait."""
    broker, user = loaded.stream.broker, object()
    try:
        async with asyncio.timeout(_HURRIED_S if is_hurried else _LAG_TIMEOUT_S):
            await broker.enter(user)
            return await read_lags(broker, cursors)
    except (BackendUnavailable, TimeoutError):
        return dict.fromkeys(cursors)
    finally:
        await broker.leave(user)
