"""Batches of slow handlers: committed in time, and not kept from other workers."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from pspf import Stream
from pspf.connectors.contract.backend import StreamingBackend
from pspf.subscription import Ordering
from tests.integration.running import TOPIC, Number, drain, make_stream, numbers, running, wait_until

_MANY = 600
"""Enough for large batches, and for one that is read ahead."""


_SLOW = 60
"""So many slow ones take longer than anybody needs to look at them."""


def slow_from(
    stream: Stream, first: int, done: list[int], ordering: Ordering = "none", quick: asyncio.Event | None = None
) -> Callable[[Number], Awaitable[None]]:
    """Subscribe a handler that is slow from event `first` on, until `quick` is set."""

    @stream.subscribe(TOPIC, ordering=ordering, name="slow")
    async def handle(event: Number) -> None:
        if event.n >= first and not (quick is not None and quick.is_set()):
            await asyncio.sleep(0.21)
        done.append(event.n)

    return handle


@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_a_batch_that_turns_slow_is_committed_in_time(backend: StreamingBackend, ordering: Ordering) -> None:
    stream = make_stream(backend)
    done: list[int] = []
    quick = asyncio.Event()
    slow_from(stream, _MANY, done, ordering, quick)
    await stream.emit_many(numbers(_MANY + _SLOW, keys="abcdefgh"))

    async def is_committed() -> bool:
        cursors = await stream.broker.list_cursors()
        lag = sum(info.lag or 0 for info in cursors)
        return len(done) > _MANY and lag < _SLOW

    async with running(stream):
        await wait_until(is_committed, within_ms=20_000)
        assert len(done) < _MANY + _SLOW, "the commit waited for the whole batch"
        quick.set()
        await drain(stream, within_ms=20_000)
    assert sorted(done) == list(range(_MANY + _SLOW))


async def test_what_a_slow_worker_has_not_begun_goes_to_others(backend: StreamingBackend) -> None:
    one, other = make_stream(backend), make_stream(backend)
    by_one: list[int] = []
    by_other: list[int] = []
    quick = asyncio.Event()
    slow_from(one, _MANY, by_one, quick=quick)
    slow_from(other, 0, by_other, quick=quick)
    await one.emit_many(numbers(_MANY))

    async def is_fast() -> bool:
        return len(by_one) == _MANY

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running(one))
        await wait_until(is_fast, within_ms=20_000)
        await one.emit_many(numbers(_SLOW, start=_MANY))

        async def is_at_work() -> bool:
            return len(by_one) > _MANY

        await wait_until(is_at_work)
        await stack.enter_async_context(running(other))

        async def has_its_share() -> bool:
            return len(by_other) >= 4 or len(by_one) + len(by_other) == _MANY + _SLOW

        await wait_until(has_its_share, within_ms=20_000)
        quick.set()
        await drain(one, other, within_ms=20_000)
    assert sorted(by_one + by_other) == list(range(_MANY + _SLOW)), "once each: nothing is charged or run twice"
    assert len(by_other) >= 4, "one worker kept what it could not do"


async def test_a_slow_handler_s_first_record_is_committed_alone(backend: StreamingBackend) -> None:
    stream = make_stream(backend)
    release = asyncio.Event()

    @stream.subscribe(TOPIC)
    async def handle(event: Number) -> None:
        if event.n:
            await release.wait()

    await stream.emit_many(numbers(10))

    async def is_committed() -> bool:
        cursors = await stream.broker.list_cursors()
        return [info.lag for info in cursors] == [9]

    async with running(stream):
        try:
            await wait_until(is_committed)
        finally:
            release.set()
        await drain(stream)
