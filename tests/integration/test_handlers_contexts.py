"""Context variables and decimal contexts: what a call of a handler sets is gone with it."""

import asyncio
import contextvars
import decimal
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from typing import Any

import pytest

from pspf import BaseEvent, Context, RetryPolicy, Stream, TumblingWindow
from pspf.connectors.memory import MemoryBackend
from pspf.context import current_call
from tests.integration.running import GROUP, TOPIC, numbers, run_until_drained

tenant: ContextVar[int | None] = ContextVar("tenant", default=None)
names: ContextVar[list[int]] = ContextVar("names")


class Event(BaseEvent):
    n: int


SHAPES = [
    *("bare", "context", "timeout", "side by side", "plain", "plain side by side"),
    *("batch", "plain batch", "window", "plain window"),
]


class Seen:
    """What each call found, and leaves behind for the next one."""

    def __init__(self) -> None:
        self.found: list[tuple[int | None, int]] = []
        self.kept: list[int | None] = []

    def look(self, n: int) -> None:
        self.found.append((tenant.get(), decimal.getcontext().prec))
        if n != 1:
            tenant.set(n)
            decimal.getcontext().prec = 3

    def subscribe(self, stream: Stream, shape: str) -> None:
        async def one(event: Event) -> None:
            self.look(event.n)
            await asyncio.sleep(0)
            self.kept.append(tenant.get())

        async def with_context(event: Event, ctx: Context) -> None:
            await one(event)

        def plain(event: Event) -> None:
            self.look(event.n)

        async def batch(events: list[Event]) -> None:
            self.look(events[0].n)

        def plain_batch(events: list[Event]) -> None:
            self.look(events[0].n)

        async def fold(event: Event, state: int | None) -> int:
            self.look(event.n)
            return 1

        def plain_fold(event: Event, state: int | None) -> int:
            self.look(event.n)
            return 1

        way: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
            "bare": (one, {}),
            "context": (with_context, {}),
            "timeout": (one, {"timeout_ms": 5_000}),
            "side by side": (one, {"concurrency": 2}),
            "plain": (plain, {}),
            "plain side by side": (plain, {"concurrency": 2}),
            "batch": (batch, {"batch_size": 1}),
            "plain batch": (plain_batch, {"batch_size": 1}),
        }
        if shape in way:
            function, options = way[shape]
            stream.subscribe(TOPIC, name="look", **options)(function)
        else:
            stream.window(TOPIC, TumblingWindow(1_000), name="look")(fold if shape == "window" else plain_fold)


@pytest.mark.parametrize("has_decimals", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
async def test_no_call_finds_what_another_has_left(shape: str, has_decimals: bool) -> None:
    async def run() -> Seen:
        if has_decimals:
            decimal.getcontext().prec = 28
        backend = MemoryBackend(stream_key=TOPIC, group_name=GROUP)
        stream, seen = Stream(backend), Seen()
        seen.subscribe(stream, shape)
        for start in (0, 4):  # in another batch too
            await stream.emit_many(numbers(4, start=start))
            await run_until_drained(stream)
        return seen

    assert current_call.get() is None
    seen = await asyncio.create_task(run(), context=copy_context())
    assert seen.found == [(None, 28)] * 8
    assert sorted(seen.kept, key=str) in ([], sorted([0, None, *range(2, 8)], key=str))


async def test_what_is_set_before_the_handlers_run_is_seen_by_all_of_them() -> None:
    backend = MemoryBackend(stream_key=TOPIC, group_name=GROUP)
    stream, found = Stream(backend), list[int | None]()

    @stream.subscribe(TOPIC)
    async def look(event: Event) -> None:
        found.append(tenant.get())
        tenant.set(event.n)

    tenant.set(-1)
    await stream.emit_many(numbers(3))
    await run_until_drained(stream)
    assert found == [-1] * 3


async def test_what_a_call_leaves_is_found_even_where_it_was_equal_at_first() -> None:
    async def run() -> list[list[int]]:
        stream, found = Stream(MemoryBackend(stream_key=TOPIC, group_name=GROUP)), list[list[int]]()

        @stream.subscribe(TOPIC, batch_size=1)
        async def look(event: Event) -> None:
            found.append(list(names.get()))
            if event.n == 0:
                names.set([])  # equal, and another one
            elif event.n == 1:
                names.get().append(event.n)

        names.set([])
        await stream.emit_many(numbers(4))
        await run_until_drained(stream)
        return found

    without_decimals = contextvars.Context()  # with them each call has a context of its own from the first on
    assert await asyncio.create_task(run(), context=without_decimals) == [[]] * 4


async def test_a_call_in_a_context_of_its_own_waits_fails_and_is_cancelled_as_others() -> None:
    backend = MemoryBackend(stream_key=TOPIC, group_name=GROUP)
    stream, ends = Stream(backend), list[str]()

    @stream.subscribe(TOPIC, timeout_ms=30, retry=RetryPolicy(max_attempts=2, initial_ms=10))
    async def handle(event: Event) -> None:
        tenant.set(event.n)
        await asyncio.sleep(0.001)
        if event.n == 1:
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                ends.append("cancelled")
                raise
        async with asyncio.TaskGroup() as group:
            task = group.create_task(asyncio.sleep(0, event.n))
        ends.append(f"done {task.result()}")

    await stream.emit_many(numbers(3))
    await run_until_drained(stream)
    assert sorted(ends) == ["cancelled", "cancelled", "done 0", "done 2"]
