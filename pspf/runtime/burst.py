"""When a burst is over: nothing of the app is left to do, whoever owns it."""

import asyncio
from collections.abc import Sequence
from typing import Final

from pspf.connectors.base import Broker, CursorInfo
from pspf.errors import BackendUnavailable
from pspf.runtime.plan import CursorName

_CHECK_S: Final = 0.2
_SEEN: Final = 2


async def read_lag(broker: Broker, cursors: Sequence[CursorName]) -> int | None:
    """Return the records not finished by `cursors`; None where one is missing or unknown.

    A commit moves a record from one cursor to the next at once, so that it is always counted somewhere.
    """
    wanted = set(cursors)
    found: dict[CursorName, list[CursorInfo]] = {cursor: [] for cursor in wanted}
    for info in await broker.list_cursors():
        name = CursorName(info.cursor.topic, info.cursor.group, info.cursor.handler)
        if name in wanted:
            found[name].append(info)
    lags = [info.lag for infos in found.values() for info in infos]
    if None in lags or not all(found.values()):
        return None
    return sum(lag for lag in lags if lag is not None)


async def wait_until_drained(broker: Broker, cursors: Sequence[CursorName]) -> None:
    """Return when the lag of all `cursors` was 0 twice, 200 ms apart."""
    seen = 0
    while True:
        try:
            lag = await read_lag(broker, cursors)
        except BackendUnavailable:  # the worker itself waits for the broker, and says so
            lag = None
        seen = seen + 1 if lag == 0 else 0
        if seen == _SEEN:
            return
        await asyncio.sleep(_CHECK_S)
