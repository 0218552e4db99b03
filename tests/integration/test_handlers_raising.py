"""Handlers that raise what is no Exception: a failure of the record as any, and no end of a worker."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import pytest
from pydantic import field_validator

from pspf import BaseEvent, Context, RetryPolicy, Stream, TumblingWindow
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.memory import MemoryBackend
from tests.integration.running import (
    GROUP,
    TOPIC,
    drain,
    numbers,
    read_events,
    read_letters,
    run_until_drained,
    running,
    until,
)

TWICE: Final = RetryPolicy(max_attempts=2, initial_ms=20)


class Panic(BaseException):
    """What a panic of a library in another language becomes."""


ERRORS: Final[list[Callable[[], BaseException]]] = [
    lambda: Panic("index out of bounds"),
    lambda: KeyboardInterrupt("a library's own"),
    lambda: SystemExit(0),
    lambda: GeneratorExit("closed"),
    lambda: BaseExceptionGroup("both", [Panic("one"), KeyboardInterrupt("two")]),
    lambda: asyncio.CancelledError("its own"),
]
GOOD: Final = len(ERRORS)


class Ordered(BaseEvent):
    n: int


class Checked(BaseEvent):
    n: int

    @field_validator("n")
    @classmethod
    def check(cls, n: int) -> int:
        fail(n)
        return n


def fail(n: int) -> None:
    if n < len(ERRORS):
        raise ERRORS[n]()


async def bare(event: Ordered) -> None:
    fail(event.n)


async def with_context(event: Ordered, ctx: Context) -> None:
    fail(event.n)


def plain(event: Ordered) -> None:
    fail(event.n)


async def batch(events: list[Ordered]) -> None:
    for event in events:
        fail(event.n)


def plain_batch(events: list[Ordered]) -> None:
    for event in events:
        fail(event.n)


async def fold(event: Ordered, state: int | None) -> int:
    fail(event.n)
    return (state or 0) + 1


def plain_fold(event: Ordered, state: int | None) -> int:
    fail(event.n)
    return (state or 0) + 1


async def read_model(event: Checked) -> None:
    pass


async def read_models(events: list[Checked]) -> None:
    pass


def subscribe(stream: Stream, shape: str) -> None:
    """Subscribe a handler that fails for the first numbers, of some shape."""
    way: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
        "bare": (bare, {}),
        "ordered": (bare, {"ordering": "key"}),
        "context": (with_context, {}),
        "timeout": (bare, {"timeout_ms": 5_000}),
        "side by side": (bare, {"concurrency": 3}),
        "plain": (plain, {}),
        "plain ordered": (plain, {"ordering": "key"}),
        "batch": (batch, {}),
        "plain batch": (plain_batch, {}),
        "batch in time": (batch, {"timeout_ms": 5_000}),
        "model": (read_model, {}),
        "models": (read_models, {}),
    }
    windows: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
        "window": (fold, {}),
        "plain window": (plain_fold, {}),
        "window model": (_count_checked, {}),
        "window key": (_count, {"key": _key_that_fails}),
    }
    if shape in way:
        function, options = way[shape]
        stream.subscribe(TOPIC, retry=TWICE, name="failing", **options)(function)
    else:
        function, options = windows[shape]
        stream.window(TOPIC, TumblingWindow(1_000), retry=TWICE, name="failing", **options)(function)


async def _count(event: Ordered, state: int | None) -> int:
    return (state or 0) + 1


async def _count_checked(event: Checked, state: int | None) -> int:
    return (state or 0) + 1


def _key_that_fails(event: Ordered) -> str:
    fail(event.n)
    return "k"


SHAPES: Final = [
    *("bare", "ordered", "context", "timeout", "side by side", "plain", "plain ordered", "batch", "plain batch"),
    *("batch in time", "model", "models", "window", "plain window", "window model", "window key"),
]


@pytest.mark.parametrize("shape", SHAPES)
async def test_whatever_is_raised_is_one_dead_letter_after_its_attempts(shape: str) -> None:
    backend = MemoryBackend(stream_key=TOPIC, group_name=GROUP)
    stream = Stream(backend)
    subscribe(stream, shape)
    await stream.emit_many(numbers(GOOD + 3, keys="abcdefghi"))
    await run_until_drained(stream)
    letters = await read_letters(backend.broker)
    kinds = sorted((letter.error_type, letter.attempts) for letter in letters)
    assert kinds == sorted((type(make()).__name__, 2) for make in ERRORS)


async def test_a_panic_is_one_dead_letter_on_every_broker(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    subscribe(stream, "bare")
    await stream.emit_many(numbers(GOOD + 3))
    await run_until_drained(stream)
    assert len(await read_letters(backend.broker)) == len(ERRORS)


@pytest.mark.parametrize("make", ERRORS)
async def test_a_result_that_can_not_be_made_is_a_dead_letter_whatever_is_raised(
    make: Callable[[], BaseException],
) -> None:
    backend = MemoryBackend(stream_key=TOPIC, group_name=GROUP)
    stream = Stream(backend)

    def raise_it(result: Any) -> dict[str, Any]:
        raise make()

    stream.window(TOPIC, TumblingWindow(1_000), to="out", result=raise_it, emit="updates", name="failing")(_count)
    await stream.emit_many(numbers(1))
    await run_until_drained(stream)
    assert type(make()).__name__ in {letter.error_type for letter in await read_letters(backend.broker)}


class _CountedTimeout:
    """A time limit as older libraries have it: the task's cancellation stays counted, and is a TimeoutError."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handle = asyncio.get_running_loop().call_later(self._seconds, task.cancel)

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        self._handle.cancel()
        if isinstance(error, asyncio.CancelledError):
            raise TimeoutError


@pytest.mark.parametrize("options", [{}, {"ordering": "key"}, {"concurrency": 3}, {"timeout_ms": 5_000}])
async def test_a_cancellation_that_a_time_limit_leaves_counted_ends_no_consumption(
    backend: StreamingBackend, options: dict[str, Any]
) -> None:
    stream = Stream(backend)

    async def slow(event: Ordered, ctx: Context) -> None:
        if event.n == 1:
            try:
                async with _CountedTimeout(0.01):
                    await asyncio.sleep(5)
            except TimeoutError:
                pass
        ctx.emit({"n": event.n}, topic="out")

    stream.subscribe(TOPIC, name="slow", **options)(slow)
    async with running(stream):
        await stream.emit_many(numbers(4))
        await drain(stream)
        await stream.emit_many(numbers(2, start=4))
        await drain(stream)
    assert sorted(event["n"] for event in await read_events(backend.broker, "out")) == list(range(6))
    assert not await read_letters(backend.broker)


@pytest.mark.parametrize("takes", ["event", "events"])
async def test_a_handler_that_cancels_its_own_task_has_done_its_record_all_the_same(takes: str) -> None:
    backend = MemoryBackend(stream_key=TOPIC, group_name=GROUP)
    stream = Stream(backend)
    seen: list[int] = []

    def cancel() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    async def one(event: Ordered) -> None:
        seen.append(event.n)
        cancel()

    async def many(events: list[Ordered]) -> None:
        seen.extend(event.n for event in events)
        cancel()

    stream.subscribe(TOPIC, name="own", batch_size=2)(one if takes == "event" else many)
    await stream.emit_many(numbers(6))
    await run_until_drained(stream)
    assert seen == list(range(6))


async def test_a_cursor_whose_task_a_library_cancels_between_calls_is_consumed_again(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    tasks: list[asyncio.Task[Any]] = []
    seen: list[int] = []

    async def note(event: Ordered) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        seen.append(event.n)

    stream.subscribe(TOPIC, name="note")(note)
    async with running(stream):
        await stream.emit_many(numbers(1))
        await drain(stream)
        tasks[0].cancel()
        await until(tasks[0].done)
        await stream.emit_many(numbers(1, start=1))
        await drain(stream)
    assert seen == [0, 1]
