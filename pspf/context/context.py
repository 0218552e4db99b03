"""The context of a handler call: its record, emits and state.

All that a handler does here is buffered and takes effect with its batch's commit, or not at all.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar, overload

from pspf import faults
from pspf.context.scope import HandlerScope, StateSource
from pspf.context.state import State, SyncState
from pspf.context.steps import Retrying, Step, SyncStep
from pspf.context.timers import TimerRequests, cancel_timer, set_timer
from pspf.errors import ConfigurationError, ContextClosed, StateUnavailable, TooManyEffects
from pspf.events.encoding import encode_at
from pspf.events.step_places import idempotency_key
from pspf.events.timestamps import latest_of
from pspf.events.topic import find_declared
from pspf.records import OFFSET_BITS, NewRecord, Record, check_name, companion_source, encode_headers
from pspf.windowing.grouping import original_of

T = TypeVar("T")


class Context:
    """One call of a handler. It ends with the call: later use raises ContextClosed."""

    __slots__ = (
        "_around",
        "_bytes",
        "_emits",
        "_handled",
        "_is_open",
        "_operations",
        "_record",
        "_state",
        "_steps",
        "_time_ms",
        "changes",
        "timers",
    )

    def __init__(self, record: Record, around: HandlerScope) -> None:
        self._record = record
        self.changes: dict[str, bytes | None] = {}
        self.timers: TimerRequests | None = None
        """Those that the call has set and cancelled; None: it has done neither."""
        self._around = around
        self._emits: list[tuple[str, NewRecord]] = []
        self._state: State | None = None
        self._steps: set[str] | None = None
        """The names of the steps of this call."""
        self._is_open = True
        self._operations = 0
        self._bytes = 0
        self._handled: tuple[Sequence[Any], Sequence[Record]] | None = None
        self._time_ms: int | None = None

    @property
    def record(self) -> Record:
        """The record as it is stored; of a batch its first."""
        record = self._record
        if record.offset >> OFFSET_BITS:  # of several topics: with its number above
            return record._replace(offset=record.offset & (1 << OFFSET_BITS) - 1)
        return record

    @property
    def attempt(self) -> int:
        """Which run of this record this is, from 1."""
        return self._record.attempts + 1

    @property
    def key(self) -> str | None:
        """The record's key; the grouping key where the subscription has `key=`."""
        return self._record.key

    @property
    def own_key(self) -> str | None:
        """The key that the record was emitted under, whatever it is grouped by."""
        return original_of(self._record).key

    def handles(self, events: Sequence[Any], records: Sequence[Record]) -> None:
        """Note what the call handles."""
        self._handled = events, records

    @property
    def time_ms(self) -> int:
        """The event time of the record, the latest of a batch."""
        if self._time_ms is None:
            self._time_ms = self._record.timestamp_ms if self._handled is None else latest_of(*self._handled)
        return self._time_ms

    @property
    def emits(self) -> list[tuple[str, NewRecord]]:
        """What was emitted so far: (topic, record)."""
        return self._emits

    def emit(
        self,
        event: object,
        topic: str | None = None,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        timestamp: datetime | None = None,
    ) -> None:
        """Emit an event inside the commit, to the stream's topic unless another is named.

        Its event time is `timestamp`, else the event's own where that was set, else that of its input: of the
        event, or the latest of a batch.

        Raises:
            EventRejected: It can't be encoded, is too large, or does not fit what its topic is declared with.
            TooManyEffects: The call did more than one commit may hold.
            ConfigurationError: The topic's name is not one, or ends in `-dlq` or `-late`; or none is named and
                the stream's is that of the record itself.
        """
        if faults.is_armed("handler.mid"):
            faults.reach("handler.mid")
        self.check_open()
        to = self._around.default_topic if topic is None else topic
        if topic is None and to == self._record.topic:
            raise ConfigurationError(describe_endless(None, to))
        declared = find_declared(to, self._around.topics) if self._around.topics or type(to) is not str else None
        if companion_source(check_name("topic", to)) is not None:
            raise ConfigurationError(f"topic {to!r}: -dlq and -late are written by PSPF alone")
        raw_headers = encode_headers(self._around.inject(to, dict(headers) if headers else None))
        record = encode_at(event, self.time_ms, key=key, raw_headers=raw_headers, timestamp=timestamp)
        if declared is not None:
            record = declared.finish(event, record, has_key=key is not None)
        self._around.check(record)
        self.count(len(record.value))
        self._emits.append((str(to), record))

    @property
    def state(self) -> "State":
        """What this handler remembers of this record's key.

        Raises:
            StateUnavailable: The subscription has no state, or the record has no key.
        """
        if self._state is None:
            self._state = State(self, *self._source())
        return self._state

    def timer(
        self,
        name: str,
        *,
        at_ms: int | datetime | None = None,
        after_ms: float | timedelta | None = None,
        payload: object = None,
    ) -> None:
        """Let the handler's `on_timer` function be called for this record's key; a timer of that name is replaced.

        Args:
            name: What the timer is called, within this handler and key.
            at_ms: The event time that it is due at: it is called before the first record that brings the watermark
                there is handled. A time that has passed means at once.
            after_ms: How much later than now it is due, by the broker's clock.
            payload: What its function gets: any JSON value or pydantic model.

        Raises:
            ConfigurationError: The handler is not ordered, or has no `on_timer` function, or the record has no key.
            EventRejected: The payload is no JSON, or a time or the name can't be one.
            TooManyEffects: The call did more than one commit may hold.
        """
        set_timer(self, name, at_ms, after_ms, payload)

    def cancel_timer(self, name: str) -> None:
        """Cancel the timer of that name of this record's key, if there is one. Errors as in `timer`."""
        cancel_timer(self, name)

    @property
    def scope(self) -> HandlerScope:
        """What all calls of the handler share."""
        return self._around

    def _source(self) -> tuple[StateSource, bytes]:
        source = self._around.state
        if source is None:
            raise StateUnavailable(self._around.no_state)
        if self._record.raw_key is None:
            raise StateUnavailable(
                f"{self._record.topic} {self._record.id} has no key, and state belongs to a key: emit with key=..., or"
                ' subscribe(..., ordering="key", key="a_field")'
            )
        return source, self._record.raw_key

    @overload
    async def step(
        self,
        name: str,
        function: Callable[..., Awaitable[T]],
        *arguments: Any,
        retry: Retrying | None = None,
        timeout_ms: int | None = None,
    ) -> T: ...

    @overload
    async def step(
        self,
        name: str,
        function: Callable[..., T],
        *arguments: Any,
        retry: Retrying | None = None,
        timeout_ms: int | None = None,
    ) -> T: ...

    async def step(
        self,
        name: str,
        function: Callable[..., Any],
        *arguments: Any,
        retry: Retrying | None = None,
        timeout_ms: int | None = None,
    ) -> Any:
        """Run `function(*arguments)` once for this record, and return its result.

        The result is committed before this returns. When the record runs again, be it after a failure, a crash or a
        move, the stored result is returned and the function does not run. One that runs while the process ends may run
        twice: hand it `idempotency_key(name)`. All results go when the record is done or dead.

        A result is JSON, or of the type that the function's annotation says it returns; it is returned as it is read
        back. With `retry` the function is tried again within this call; `timeout_ms` is for each try of an async one.
        A plain function runs where the handler does. Keyword arguments: `functools.partial`.

        Raises:
            ConfigurationError: This call has run a step of this name, or the handler can't have steps.
            EventRejected: The result can't be kept, though the function has run.
            StateUnreadable: The stored result does not fit the type.
        """
        step = self._begin_step(name, function, retry, timeout_ms)
        found, result = await step.find()
        return result if found else await step.run(arguments)

    def _begin_step(
        self, name: str, function: Callable[..., Any], retry: Retrying | None, timeout_ms: int | None
    ) -> Step:
        self.check_open()
        if self._around.steps is None:
            raise StateUnavailable(self._around.no_steps)
        step = Step(self, self._around.steps, self._record.offset, name, function, retry, timeout_ms)
        if self._steps is None:
            self._steps = set()
        if name in self._steps:
            raise ConfigurationError(
                f"step {name!r:.80} ran in this call before: each step of a record has a name of its own, such as"
                f" {f'{name}-2'!r:.80}"
            )
        self._steps.add(name)
        return step

    def idempotency_key(self, name: str) -> str:
        """Return a text of at most 255 characters that is the same at each run of this record by this handler."""
        return idempotency_key(self.record, self._around.handler, name)

    def count(self, size_bytes: int) -> None:
        """Count one effect; the call is refused beyond what one commit may hold."""
        self.check_open()
        self._operations += 1
        self._bytes += size_bytes
        if self._operations > self._around.max_operations or self._bytes > self._around.max_effect_bytes:
            raise TooManyEffects(
                f"{self._record.topic} {self._record.id}: {self._operations:,} effects of {self._bytes:,} bytes;"
                f" one record may have {self._around.max_operations:,} of {self._around.max_effect_bytes:,} bytes"
            )

    def check_value(self, name: str, size_bytes: int) -> None:
        """Raise TooManyEffects where a value of state is larger than what one record may do."""
        if size_bytes > self._around.max_effect_bytes:
            raise TooManyEffects(
                f"state {name!r:.80} of {size_bytes:,} bytes; a value has at most {self._around.max_effect_bytes:,}:"
                " put its parts under names of their own (ctx.state.scan reads them in order)"
            )

    def check_open(self) -> None:
        """Raise ContextClosed once the call has ended."""
        if not self._is_open:
            raise ContextClosed(
                f"the handler of {self._record.topic} {self._record.id} has ended; its context is closed"
            )

    @property
    def is_open(self) -> bool:
        """Whether the call has not ended."""
        return self._is_open

    @property
    def size(self) -> tuple[int, int]:
        """Effects so far: how many, and their bytes."""
        return self._operations, self._bytes

    def close(self) -> None:
        """End the call: from here on effects are refused."""
        self._is_open = False


class SyncContext(Context):
    """The context of a plain `def` handler: its state's calls block."""

    __slots__ = ("_loop",)

    def __init__(self, record: Record, around: HandlerScope, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(record, around)
        self._loop = loop

    @property
    def state(self) -> "SyncState":  # type: ignore[override]  # the same, but blocking
        """What this handler remembers of this record's key."""
        source, key = self._source()
        return SyncState(State(self, source, key), self._wait)

    @overload  # type: ignore[override]  # the same, but blocking
    def step(
        self,
        name: str,
        function: Callable[..., Awaitable[T]],
        *arguments: Any,
        retry: Retrying | None = None,
        timeout_ms: int | None = None,
    ) -> T: ...

    @overload
    def step(
        self,
        name: str,
        function: Callable[..., T],
        *arguments: Any,
        retry: Retrying | None = None,
        timeout_ms: int | None = None,
    ) -> T: ...

    def step(
        self,
        name: str,
        function: Callable[..., Any],
        *arguments: Any,
        retry: Retrying | None = None,
        timeout_ms: int | None = None,
    ) -> Any:
        """Run `function(*arguments)` once for this record and return its result, as `Context.step` does.

        An async function runs on the event loop.
        """
        return SyncStep(self._begin_step(name, function, retry, timeout_ms), self._wait).run(arguments)

    def _wait(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        self.check_open()
        return asyncio.run_coroutine_threadsafe(call(), self._loop).result()


def describe_endless(handler: str | None, topic: str) -> str:
    """Return what to say of an event that would go to its handler's own input because no topic was named."""
    return (
        f"{f'handler {handler}' if handler else 'this handler'} reads topic {topic!r}, which is also where it would"
        f" emit to, for ever: name another topic=, or topic={topic!r} where that is meant"
    )
