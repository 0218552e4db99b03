"""Handlers that can't work: refused where they are declared."""

import asyncio
import functools
import inspect
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import pytest

from pspf import BaseEvent, Context, Count, Max, SessionWindow, Stream, TumblingWindow
from pspf.errors import ConfigurationError, EventRejected, NotAvailable, StateUnavailable
from pspf.events.state_values import encode_value
from pspf.subscription import RetryPolicy
from pspf.testing import StreamTester


@pytest.fixture
def stream() -> Stream:
    return Stream(topic="out", group="g")


@pytest.mark.parametrize("backend", ["orders", "valkey://u:s3cret@h", object()])
def test_a_backend_of_another_type_is_refused_and_not_shown(backend: Any) -> None:
    with pytest.raises(ConfigurationError, match="a topic is topic=") as refused:
        Stream(backend)
    assert "s3cret" not in str(refused.value)


def timed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap as a decorator does that knows no async functions."""

    @functools.wraps(function)
    def wrapper(*arguments: Any, **named: Any) -> Any:
        return function(*arguments, **named)

    return wrapper


def counted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap as a decorator does that awaits."""

    @functools.wraps(function)
    async def wrapper(*arguments: Any, **named: Any) -> Any:
        return await function(*arguments, **named)

    return wrapper


async def take(event: BaseEvent) -> None: ...


class Service:
    @timed
    async def take(self, event: BaseEvent) -> None: ...

    async def fold(self, event: BaseEvent, state: int | None) -> int:
        return 0


@pytest.mark.parametrize(
    "function",
    [timed(take), timed(timed(take)), timed(counted(take)), Service().take, functools.partial(timed(take))],
    ids=["once", "twice", "above", "method", "partial"],
)
def test_a_plain_function_around_an_async_one_is_refused(stream: Stream, function: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"does not await it \(test_decoration.py:\d+\)"):
        stream.subscribe("t")(function)


def test_the_place_is_that_of_the_function_that_does_not_await(stream: Stream) -> None:
    for function, code in ((timed(take), timed(take).__code__), (Timed(take), Timed.__call__.__code__)):
        with pytest.raises(ConfigurationError, match=rf"\(test_decoration\.py:{code.co_firstlineno}\)"):
            stream.subscribe("t")(function)


def test_so_it_is_in_a_windowed_handler(stream: Stream) -> None:
    with pytest.raises(ConfigurationError, match="does not await it"):
        stream.window("t", TumblingWindow(1))(timed(Service().fold))


@pytest.mark.parametrize("function", [counted(take), counted(counted(take))])
def test_an_async_function_around_one_is_taken(stream: Stream, function: Any) -> None:
    stream.subscribe("t")(function)


class InThread:
    """An async callable around a plain function, of the shape of asgiref's `sync_to_async`: a method of no class."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        functools.update_wrapper(self, function)

    async def __call__(self, *arguments: Any) -> Any:
        return await asyncio.to_thread(self.function, *arguments)

    def __get__(self, instance: Any, owner: type) -> Any:
        return functools.partial(self.__call__, instance)


class Timed:
    """A plain callable around a function that it calls."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        functools.update_wrapper(self, function)

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)


class Blocking:
    """A callable without a signature, of the shape of asgiref's `async_to_sync`."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *arguments: Any) -> Any:
        return asyncio.run(self.function(*arguments))

    @property
    def __signature__(self) -> inspect.Signature:
        raise ValueError("no signature found")


def note(event: BaseEvent) -> None:
    seen.append(event.event_id)


seen: list[str] = []


@pytest.mark.parametrize("function", [timed(InThread(note)), Timed(take), Timed(timed(take)), timed(Timed(take))])
def test_a_plain_callable_around_an_async_one_is_refused(stream: Stream, function: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"does not await it \(test_decoration.py:\d+\)"):
        stream.subscribe("t")(function)


@pytest.mark.parametrize("function", [Blocking(take), timed(Blocking(take))], ids=["itself", "in a function"])
def test_a_callable_whose_parameters_can_not_be_read_is_refused_with_a_way_out(stream: Stream, function: Any) -> None:
    with pytest.raises(ConfigurationError, match="subscribe the function in it itself"):
        stream.subscribe("t", name="h")(function)


@pytest.mark.parametrize(
    "function",
    [InThread(note), functools.partial(InThread(note)), Timed(note), functools.partial(note), timed(note)],
    ids=["async", "partial of async", "plain", "partial", "function"],
)
async def test_a_callable_object_handles(stream: Stream, function: Any) -> None:
    seen.clear()
    stream.subscribe("t", name="h")(function)
    async with StreamTester(stream) as tester:
        await tester.send("t", {"event_id": "a"})
        await tester.settle()
        assert await tester.dead_letters() == []
    assert seen == ["a"]


def test_a_plain_function_around_a_plain_one_is_taken(stream: Stream) -> None:
    @stream.subscribe("t")
    @timed
    def handle(event: BaseEvent) -> None: ...


def test_a_cached_handler_is_refused(stream: Stream) -> None:
    with pytest.raises(ConfigurationError, match="is cached"):

        @stream.subscribe("t")
        @functools.cache
        def handle(event: BaseEvent) -> None: ...


@pytest.mark.parametrize("annotation", [int, str, bytes, Sequence[BaseEvent], tuple[BaseEvent, ...], int | str])
def test_an_event_is_no_number_and_no_text(stream: Stream, annotation: Any) -> None:
    async def handle(event: Any) -> None: ...

    handle.__annotations__["event"] = annotation
    with pytest.raises(ConfigurationError, match="an event is a JSON object"):
        stream.subscribe("t")(handle)


def test_nor_is_a_schema(stream: Stream) -> None:
    with pytest.raises(ConfigurationError, match="an event is a JSON object"):
        stream.subscribe("t", schema=int)(take)


def optional(event: BaseEvent, ctx: Context = None) -> None: ...  # type: ignore[assignment]  # what people write


def or_none(event: BaseEvent, ctx: Context | None = None) -> None: ...


def by_name(event: BaseEvent, ctx=None) -> None: ...  # type: ignore[no-untyped-def]  # what people write


def keyword(event: BaseEvent, *, ctx: Context | None = None) -> None: ...


@pytest.mark.parametrize("function", [optional, or_none, by_name, keyword])
def test_a_context_with_a_default_would_never_be_given(stream: Stream, function: Any) -> None:
    with pytest.raises(ConfigurationError, match="has a default, so it would never be given"):
        stream.subscribe("t")(function)


def test_a_window_does_not_count_its_own_results(stream: Stream) -> None:
    with pytest.raises(ConfigurationError, match="name another topic"):
        stream.window("t", TumblingWindow(1), emit="final", to="t")(Count())


async def given(*arguments: Any) -> Any: ...


@pytest.mark.parametrize(
    "options", [{"key": given}, {"result": given}, {"merge": given}], ids=lambda options: str(*options)
)
def test_functions_beside_a_handler_are_plain(stream: Stream, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="make it def"):
        stream.window("t", SessionWindow(1), emit="final", to="o", **options)(
            Max("v") if "merge" not in options else Service().fold
        )


@pytest.mark.parametrize("error", [StateUnavailable("no"), ConfigurationError("no"), NotAvailable("no")])
def test_what_only_other_code_mends_is_not_retried(error: Exception) -> None:
    assert RetryPolicy().gives_up(error, 1)


def test_a_decimal_in_state_is_refused_with_a_way_out() -> None:
    with pytest.raises(EventRejected, match=r"Decimal; store a number or text \(a Decimal as str\(value\)\)"):
        encode_value("sum", Decimal("1.10"))
