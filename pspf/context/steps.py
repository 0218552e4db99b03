"""Durable steps of a call: each runs once, and later runs of the record get its stored result."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, get_type_hints

import orjson

from pspf.context.state import check_state_name
from pspf.errors import ConfigurationError, EventRejected, HandlerTimeout, StateUnreadable
from pspf.events import codec
from pspf.events.typed_values import value_type

if TYPE_CHECKING:
    from pspf.context.context import Context

T = TypeVar("T")

_AS_JSON: Final = (None, type(None), Any, dict, list, str, int, float, bool, object)
"""What is kept as the JSON that it is."""
_REST_S: Final = 0.1
"""How long a thread waits for the next try before it asks whether its call has ended: until then its key is busy."""


class Retrying(Protocol):
    """How often a step is tried: a `RetryPolicy`."""

    def gives_up(self, error: BaseException, attempts: int) -> bool: ...

    def wait_ms(self, attempts: int) -> int: ...


class StepSource(Protocol):
    """Where the results of steps are kept."""

    async def find(self, offset: int, name: str) -> bytes | None:
        """Return the stored result of a step, None where it has not finished."""
        ...

    async def keep(self, offset: int, name: str, result: bytes) -> None:
        """Store the result of a step; on return it is durable."""
        ...


class Step:
    """One step of one call."""

    def __init__(
        self,
        context: "Context",
        source: StepSource,
        place: int,
        name: str,
        function: Callable[..., Any],
        retry: Retrying | None,
        timeout_ms: int | None,
    ) -> None:
        check_state_name(name)
        if not name:
            raise EventRejected("a step has a name, and this one is empty")
        if not callable(function):
            raise ConfigurationError(
                f"step {name!r:.80} is a function and its arguments, not {function!r:.80}: ctx.step(name, pay, order)"
            )
        if timeout_ms is not None and not is_async(function):
            raise ConfigurationError(
                f"step {name!r:.80}: timeout_ms= needs an async function; a plain one can't be ended from outside"
            )
        if timeout_ms is not None and timeout_ms < 1:
            raise ConfigurationError(f"step {name!r:.80}: timeout_ms={timeout_ms!r}; use 1 or more, or leave it out")
        self._context = context
        self._source = source
        self._place = place
        """What stands for the record's offset in the loop."""
        self._name = name
        self.function = function
        self._retry = retry
        self._timeout_ms = timeout_ms
        self._annotation = result_type(function)
        if self._annotation not in _AS_JSON:
            value_type(self._annotation)  # refused before it has run

    def check_open(self) -> None:
        """Raise ContextClosed once the call has ended."""
        self._context.check_open()

    async def find(self) -> tuple[bool, Any]:
        """Return whether the step has finished before, and its result."""
        self._context.check_open()
        stored = await self._source.find(self._place, self._name)
        self._context.check_open()
        return (False, None) if stored is None else (True, self._decode(stored))

    async def run(self, arguments: tuple[Any, ...]) -> Any:
        """Run the step on the event loop, keep its result and return it."""
        attempts = 0
        while True:
            self._context.check_open()
            try:
                result = self.function(*arguments)
                if inspect.isawaitable(result):
                    result = await self.in_time(result)
                break
            except Exception as error:
                attempts += 1
                if (wait_ms := self.wait_ms(error, attempts)) is None:
                    raise
            await asyncio.sleep(wait_ms / 1_000)
        return await self.keep(result)

    def wait_ms(self, error: Exception, attempts: int) -> int | None:
        """Return how long to wait before the next try; None: there is none."""
        if not self._context.is_open or self._retry is None or self._retry.gives_up(error, attempts):
            return None
        return self._retry.wait_ms(attempts)

    async def in_time(self, result: Awaitable[Any]) -> Any:
        """Return what an awaitable gives within the step's time."""
        if self._timeout_ms is None:
            return await result
        limit = asyncio.timeout(self._timeout_ms / 1_000)
        try:
            async with limit:
                return await result
        except TimeoutError as error:
            if not limit.expired():
                raise  # the function's own
            raise HandlerTimeout(f"step {self._name!r:.80} took longer than {self._timeout_ms} ms") from error

    async def keep(self, result: Any) -> Any:
        """Store a result; return it as it will be read."""
        encoded = self._encode(result)
        self._context.check_value(self._name, len(encoded))
        decoded = self._decode(encoded)
        self._context.check_open()
        await self._source.keep(self._place, self._name, encoded)
        self._context.check_open()
        return decoded

    def _encode(self, result: Any) -> bytes:
        try:
            if self._annotation in _AS_JSON:
                return codec.dumps(result)
            return value_type(self._annotation).write(result)
        except Exception as error:  # a serializer of the user's may raise anything
            raise EventRejected(
                f"step {self._name!r:.80} has run, and what it returned can't be kept: {error!s:.200}; return JSON, or"
                " annotate what it returns with its type"
            ) from error

    def _decode(self, stored: bytes) -> Any:
        try:
            if self._annotation in _AS_JSON:
                return orjson.loads(stored)
            return value_type(self._annotation).read(stored)
        except Exception as error:  # a validator of the user's may raise anything
            name = getattr(self._annotation, "__name__", "JSON")
            raise StateUnreadable(
                f"the result of step {self._name!r:.80} of {self._context.record.topic} {self._context.record.id} can't"
                f" be read as {name} ({error!s:.200}): let it read the old form as well, or give the step another name,"
                " which runs it again"
            ) from error


class SyncStep:
    """One step of a call in a thread."""

    def __init__(self, step: Step, wait: Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]) -> None:
        self._step = step
        self._wait = wait

    def run(self, arguments: tuple[Any, ...]) -> Any:
        """Return the result of the step, which runs in this thread; an async one runs on the event loop."""
        step = self._step
        found, result = self._wait(step.find)
        if found:
            return result
        if is_async(step.function):
            return self._wait(partial(step.run, arguments))
        attempts = 0
        while True:
            step.check_open()
            try:
                result = step.function(*arguments)
                if inspect.isawaitable(result):
                    result = self._wait(partial(step.in_time, result))
                break
            except Exception as error:
                attempts += 1
                if (wait_ms := step.wait_ms(error, attempts)) is None:
                    raise
            self._rest(wait_ms)
        return self._wait(partial(step.keep, result))

    def _rest(self, wait_ms: int) -> None:
        """Wait in this thread before the next try; ContextClosed soon after the call has ended."""
        until_s = time.monotonic() + wait_ms / 1_000
        while (left_s := until_s - time.monotonic()) > 0:
            self._step.check_open()
            time.sleep(min(left_s, _REST_S))


def is_async(function: Callable[..., Any]) -> bool:
    """Return whether a function is awaited."""
    while isinstance(function, partial):
        function = function.func
    called = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004 (its type matters)
    return inspect.iscoroutinefunction(called)


def result_type(function: Callable[..., Any]) -> Any:
    """Return what a function says that it returns; None where it says nothing.

    Raises:
        ConfigurationError: The annotation can't be resolved.
    """
    while isinstance(function, partial):
        function = function.func
    target: Any = function if inspect.isroutine(function) else type(function).__call__
    target = getattr(target, "__func__", target)
    if "return" not in getattr(target, "__annotations__", ()):
        return None
    try:
        return get_type_hints(target).get("return")
    except (NameError, TypeError) as error:
        raise ConfigurationError(
            f"what {target.__qualname__} returns can't be resolved ({error}); define its type at the top of the module"
        ) from error
