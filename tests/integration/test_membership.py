"""Members of an ordered handler hear of one another at once, by the clock of the machine."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.membership import Session
from pspf.connectors.urls import make_broker
from pspf.records import Cursor
from tests.support.brokers import leased
from tests.support.servers import hall

HEARD_S = 5
"""Far longer than it takes, and than a broker is asked without a word."""
PLACE = ("orders", "g", "h")


@pytest.fixture(params=["sqlite", "valkey"])
async def sessions(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Session, Session]]:
    """Two members, each on a broker object of its own; the first holds the only partition."""
    url = f"sqlite:///{tmp_path}/broker.db"
    if request.param == "valkey":
        shared = hall("valkey")
        url = shared.server.url(database=shared.database_of(tmp_path))
    async with AsyncExitStack() as stack:
        brokers: list[Broker] = [await stack.enter_async_context(make_broker(url)) for _ in range(2)]
        one, two = [await broker.open_session() for broker in brokers]
        await one.register(*PLACE)
        await two.register(*PLACE)
        assert await leased(one).acquire(Cursor(*PLACE, 0)) is not None
        yield one, two


Change = Callable[[Session], Coroutine[Any, Any, None]]


async def join(session: Session) -> None:
    await session.register(*PLACE)


async def resign(session: Session) -> None:
    await leased(session).resign(*PLACE)


async def leave(session: Session) -> None:
    await session.close()


@pytest.mark.parametrize("change", [join, resign, leave])
async def test_a_member_that_comes_or_goes_is_heard_of(sessions: tuple[Session, Session], change: Change) -> None:
    one, two = sessions
    if change is join:
        await resign(one)  # before it is listened: who looks after both finds nothing changed
    await _settle(two)
    async with asyncio.timeout(HEARD_S), asyncio.TaskGroup() as group:
        group.create_task(leased(two).listen(*PLACE))
        await asyncio.sleep(0.1)  # until it waits
        await change(one)


async def test_a_partition_that_is_given_back_is_heard_of(sessions: tuple[Session, Session]) -> None:
    one, two = sessions
    consumer = await leased(two).acquire(Cursor(*PLACE, 0))
    assert consumer is None, "it is the other's"
    await one.close()
    mine = await leased(two).acquire(Cursor(*PLACE, 0))
    assert mine is not None
    await _settle(two)
    async with asyncio.timeout(HEARD_S), asyncio.TaskGroup() as group:
        group.create_task(leased(two).listen(*PLACE))
        await asyncio.sleep(0.1)  # until it waits
        await mine.release()


async def test_while_nothing_changes_there_is_nothing_to_hear(sessions: tuple[Session, Session]) -> None:
    _, two = sessions
    await _settle(two)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.5):
            await leased(two).listen(*PLACE)


async def _settle(session: Session) -> None:
    """Hear what there was until now."""
    try:
        while True:
            async with asyncio.timeout(0.3):
                await leased(session).listen(*PLACE)
    except TimeoutError:
        return
