"""A broker that refuses to let a worker join for a while: the worker waits, as for any other write."""

import asyncio

import pytest

from pspf.connectors.contract.membership import Session
from pspf.connectors.sqlite.broker import MemoryBroker
from pspf.errors import BackendUnavailable, DiskFull
from pspf.stream import Stream
from tests.support.waiting import wait_until


class Refusing(MemoryBroker):
    """Refuses the first two sessions."""

    def __init__(self, cause: BaseException | None = None) -> None:
        super().__init__()
        self.left = 2
        self.cause = cause

    async def open_session(self, name: str | None = None) -> Session:
        if self.left:
            self.left -= 1
            raise DiskFull("the disk is full") from self.cause
        return await super().open_session(name)


def make_stream(broker: MemoryBroker, handled: asyncio.Event) -> Stream:
    stream = Stream(topic="orders", group="billing")
    stream.bind(broker)

    @stream.subscribe("orders")
    async def handle(order: dict) -> None:  # type: ignore[type-arg]  # as users write it
        handled.set()

    return stream


async def test_a_worker_that_may_not_join_yet_joins_later(caplog: pytest.LogCaptureFixture) -> None:
    handled = asyncio.Event()
    stream = make_stream(Refusing(), handled)
    await stream.emit({"n": 1})
    running = asyncio.create_task(stream.run_forever())
    await asyncio.wait_for(handled.wait(), 10)
    assert caplog.text.count("can't join memory://, will try again: the disk is full") == 1
    await stream.stop()
    await running


async def test_a_worker_that_waits_to_join_stops_when_it_is_told_to() -> None:
    broker = Refusing()
    broker.left = 1_000_000
    stream = make_stream(broker, asyncio.Event())
    running = asyncio.create_task(stream.run_forever())

    async def has_tried() -> bool:
        return broker.left < 1_000_000

    await wait_until(has_tried)
    await stream.stop()
    await asyncio.wait_for(running, 10)


async def test_a_worker_that_is_not_permitted_to_join_ends() -> None:
    stream = make_stream(Refusing(PermissionError()), asyncio.Event())
    with pytest.raises(BackendUnavailable):
        await stream.run_forever()
