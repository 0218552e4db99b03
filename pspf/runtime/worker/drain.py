"""End of a burst: no work is left, whichever worker owns it; then its windows are closed."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.values import CursorInfo
from pspf.errors import BackendUnavailable
from pspf.loggers import get_logger
from pspf.records import Cursor
from pspf.runtime.app.work import CursorName, Work
from pspf.windowing.progress import Completeness, read_standing

logger = get_logger(__name__)

_CHECK_S: Final = 0.2
_SEEN: Final = 2
_PATIENCE_CHECKS: Final = 50
"""How often windows may be found open before their owner is named."""


async def read_lag(broker: Broker, cursors: Sequence[CursorName]) -> int | None:
    """Return the records not finished by `cursors`; None where one is missing or unknown."""
    return add_up(await read_lags(broker, cursors))


def add_up(lags: Mapping[CursorName, int | None]) -> int | None:
    """Return the whole lag, None where a part of it is not known."""
    known = [lag for lag in lags.values() if lag is not None]
    return sum(known) if len(known) == len(lags) else None


def describe_left(lags: Mapping[CursorName, int | None] | None, timeout_ms: int | None) -> str:
    """Return the line of a burst whose time is up: the lag by topic and group."""
    left: dict[str, int | None] = {}
    for cursor, lag in (lags or {}).items():
        place = f"{cursor.topic} of {cursor.group}"
        before = left.get(place, 0)
        left[place] = None if lag is None or before is None else before + lag
    told = ", ".join(f"{place} {'?' if lag is None else lag}" for place, lag in left.items())
    return f"not drained within {timeout_ms} ms; lag: {told or '? (the broker does not answer)'}"


async def read_lags(broker: Broker, cursors: Sequence[CursorName]) -> Mapping[CursorName, int | None]:
    """Return the records not finished by each of `cursors`; None where it is missing or unknown.

    A commit moves a record from one cursor to the next at once, so that it is always counted somewhere.
    """
    owners = _with_hops(cursors)
    found: dict[CursorName, list[CursorInfo]] = {cursor: [] for cursor in cursors}
    for info in await broker.list_cursors():
        owner = owners.get(name_of(info.cursor))
        if owner is not None:
            found[owner].append(info)
    return {cursor: _sum_up(infos) for cursor, infos in found.items()}


def _sum_up(infos: Sequence[CursorInfo]) -> int | None:
    known = [info.lag for info in infos if info.lag is not None]
    return sum(known) if infos and len(known) == len(infos) else None


async def is_drained(broker: Broker, work: Work) -> bool:
    """Return whether nothing is left to do: no record, and no result of a window that is due."""
    if await read_lag(broker, work.cursors) != 0:
        return False
    standings = await _read_standings(broker, [cursors for level in work.levels for cursors in level])
    return not any(standing.has_more for standing in standings.values())


async def wait_until_drained(broker: Broker, work: Work) -> None:
    """Return once two looks, 200 ms apart, found no work."""
    seen = 0
    while True:
        try:
            seen = seen + 1 if await is_drained(broker, work) else 0
        except BackendUnavailable:  # the worker itself waits for the broker, and says so
            seen = 0
        if seen == _SEEN:
            return
        await asyncio.sleep(_CHECK_S)


async def finish(broker: Broker, work: Work, close: Callable[[Collection[Cursor]], None]) -> None:
    """Return when all windows are closed, level by level, each drained before the next one.

    `close` is asked to close those of some cursors, as far as they are in its hands; whoever has the
    others is waited for.
    """
    for level in work.levels:
        await _wait_until_finished(broker, level, close)
        await wait_until_drained(broker, work)


async def read_unfinished(broker: Broker, level: Sequence[CursorName]) -> Collection[Cursor]:
    """Return the cursors whose windows are not closed as at the end of the input."""
    standings = await _read_standings(broker, level)
    return {cursor for cursor, standing in standings.items() if not standing.is_finished}


async def _wait_until_finished(
    broker: Broker, level: Sequence[CursorName], close: Callable[[Collection[Cursor]], None]
) -> None:
    checks = 0
    while True:
        try:
            unfinished = await read_unfinished(broker, level)
            if not unfinished:
                return
            close(unfinished)
            checks += 1
            if checks == _PATIENCE_CHECKS:
                await _say_who_has(broker, unfinished)
        except BackendUnavailable:
            checks = 0
        await asyncio.sleep(_CHECK_S / 4)


async def _say_who_has(broker: Broker, cursors: Collection[Cursor]) -> None:
    for info in await broker.list_cursors():
        if info.cursor in cursors:
            logger.warning("%s: waiting for %s to close its windows", info.cursor, info.owner or "a worker")


async def _read_standings(broker: Broker, operators: Sequence[CursorName]) -> Mapping[Cursor, Completeness]:
    """Return the progress of the cursors' windows; cursors without any are missing."""
    if not operators:
        return {}
    owners = _with_hops(operators)
    return {
        kept.cursor: read_standing(kept.progress)
        for kept in await broker.list_operators()
        if name_of(kept.cursor) in owners
    }


def _with_hops(cursors: Sequence[CursorName]) -> Mapping[CursorName, CursorName]:
    """Return the cursors, and those of their shuffle topics, each with the one that it belongs to."""
    return {each.behind_hop or each: each for each in cursors} | {each: each for each in cursors}


def name_of(cursor: Cursor) -> CursorName:
    """Return a cursor's name without its partition."""
    return CursorName(cursor.topic, cursor.group, cursor.handler)
