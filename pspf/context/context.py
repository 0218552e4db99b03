"""The context of a handler call: its record, emits and state.

All that a handler does here is buffered and takes effect with its batch's commit, or not at all.
"""

import asyncio
import contextvars
import decimal
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import orjson

from pspf import faults
from pspf.errors import (
    ConfigurationError,
    ContextClosed,
    EventRejected,
    StateUnavailable,
    StateUnreadable,
    TooManyEffects,
)
from pspf.events.encoding import encode_at
from pspf.events.state_values import encode_value
from pspf.events.timestamps import latest_of
from pspf.loggers import get_logger
from pspf.records import NewRecord, Record, check_name, companion_source, encode_headers

if TYPE_CHECKING:
    from pspf.observability.tracing import HandlerSpans

logger = get_logger(__name__)

T = TypeVar("T")


class Call:
    """The handler call that runs at the moment, for emits past its context.

    `others` tells calls of one record apart that handle different records with it. `warned` are
    the handlers warned to use `ctx.emit`. `clean` is the context that calls begin in, with its decimal context,
    as it was before any handler could change that.
    """

    __slots__ = ("_calls", "_last", "_warned", "clean", "decimals", "handler", "others", "record")

    def __init__(self, handler: str, warned: set[str]) -> None:
        self.clean: contextvars.Context
        self.decimals: decimal.Context | None = None
        self.handler = handler
        self.record: Record | None = None
        self.others = ""
        self._last: Record | None = None
        self._calls = 0
        self._warned = warned

    def next_id(self) -> str:
        """Return an event_id for an immediate emit, the same when the record is handled again."""
        if self.handler not in self._warned:
            self._warned.add(self.handler)
            logger.warning(
                "%s emits past its commit: use ctx.emit to be exactly once",
                self.handler,
                extra={"handler": self.handler},
            )
        if self.record is not self._last:
            self._last, self._calls = self.record, 0
        self._calls += 1
        record = self.record
        place = "?" if record is None else f"{record.topic}/{record.id}{self.others}"
        return f"{place}/{self.handler}/{self._calls}"


current_call: ContextVar[Call | None] = ContextVar("pspf_call", default=None)
"""Set once per loop, not per event; its `record` moves on."""


class StateSource(Protocol):
    """Where a context's state comes from: the batch's view of the cursor's state."""

    def get(self, key: bytes, name: str) -> bytes | None:
        """Return a value that is loaded, as the batch has left it so far."""
        ...

    def is_loaded(self, key: bytes, name: str) -> bool: ...

    async def load(self, key: bytes, name: str) -> None:
        """Read a value, and with it what else the batch may ask for."""
        ...


class HandlerScope(Protocol):
    """What all contexts of a subscription share."""

    default_topic: str
    max_operations: int
    max_effect_bytes: int
    state: StateSource | None
    """None where the subscription has no state; `no_state` says why."""
    no_state: str
    warned: set[str]
    """The handlers that were warned that they emit past their commit."""

    def check(self, record: NewRecord) -> None:
        """Raise EventRejected where a record is too large to be stored."""
        ...

    def check_all(self, records: Sequence[NewRecord]) -> None:
        """Raise EventRejected where one of some records is."""
        ...

    spans: "HandlerSpans | None"
    """The tracer of the handler's calls; None without a tracer provider."""

    def inject(self, topic: str, headers: dict[str, str] | None) -> dict[str, str] | None:
        """Return the headers of an event that is emitted to a topic, with the trace context where there is one."""
        ...


class Context:
    """One call of a handler. It ends with the call: later use raises ContextClosed."""

    __slots__ = (
        "_around",
        "_bytes",
        "_emits",
        "_handled",
        "_is_open",
        "_operations",
        "_state",
        "_time_ms",
        "changes",
        "record",
    )

    def __init__(self, record: Record, around: HandlerScope) -> None:
        self.record = record
        self.changes: dict[str, bytes | None] = {}
        self._around = around
        self._emits: list[tuple[str, NewRecord]] = []
        self._state: State | None = None
        self._is_open = True
        self._operations = 0
        self._bytes = 0
        self._handled: tuple[Sequence[Any], Sequence[Record]] | None = None
        self._time_ms: int | None = None

    @property
    def attempt(self) -> int:
        """Which run of this record this is, from 1."""
        return self.record.attempts + 1

    @property
    def key(self) -> str | None:
        """The record's key."""
        return self.record.key

    def handles(self, events: Sequence[Any], records: Sequence[Record]) -> None:
        """Note what the call handles."""
        self._handled = events, records

    @property
    def time_ms(self) -> int:
        """The event time of the record, the latest of a batch."""
        if self._time_ms is None:
            self._time_ms = self.record.timestamp_ms if self._handled is None else latest_of(*self._handled)
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
            EventRejected: It can't be encoded or is too large.
            TooManyEffects: The call did more than one commit may hold.
            ConfigurationError: The topic's name is not one, or ends in `-dlq` or `-late`; or none is named and
                the stream's is that of the record itself.
        """
        if faults.is_armed("handler.mid"):
            faults.reach("handler.mid")
        self.check_open()
        to = self._around.default_topic if topic is None else topic
        if topic is None and to == self.record.topic:
            raise ConfigurationError(describe_endless(None, to))
        if companion_source(check_name("topic", to)) is not None:
            raise ConfigurationError(f"topic {to!r}: -dlq and -late are written by PSPF alone")
        raw_headers = encode_headers(self._around.inject(to, dict(headers) if headers else None))
        record = encode_at(event, self.time_ms, key=key, raw_headers=raw_headers, timestamp=timestamp)
        self._around.check(record)
        self.count(len(record.value))
        self._emits.append((to, record))

    @property
    def state(self) -> "State":
        """What this handler remembers of this record's key.

        Raises:
            StateUnavailable: The subscription has no state, or the record has no key.
        """
        if self._state is None:
            self._state = self._make_state()
        return self._state

    def _make_state(self) -> "State":
        return State(self, *self._source())

    def _source(self) -> tuple[StateSource, bytes]:
        source = self._around.state
        if source is None:
            raise StateUnavailable(self._around.no_state)
        if self.record.raw_key is None:
            raise StateUnavailable(
                f"{self.record.topic} {self.record.id} has no key, and state belongs to a key: emit with key=..."
            )
        return source, self.record.raw_key

    def count(self, size_bytes: int) -> None:
        """Count one effect; the call is refused beyond what one commit may hold."""
        self.check_open()
        self._operations += 1
        self._bytes += size_bytes
        if self._operations > self._around.max_operations or self._bytes > self._around.max_effect_bytes:
            raise TooManyEffects(
                f"{self.record.topic} {self.record.id}: {self._operations:,} effects of {self._bytes:,} bytes;"
                f" one record may have {self._around.max_operations:,} of {self._around.max_effect_bytes:,} bytes"
            )

    def check_open(self) -> None:
        """Raise ContextClosed once the call has ended."""
        if not self._is_open:
            raise ContextClosed(f"the handler of {self.record.topic} {self.record.id} has ended; its context is closed")

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


def describe_endless(handler: str | None, topic: str) -> str:
    """Return what to say of an event that would go to its handler's own input because no topic was named."""
    return (
        f"{f'handler {handler}' if handler else 'this handler'} reads topic {topic!r}, which is also where it would"
        f" emit to, for ever: name another topic=, or topic={topic!r} where that is meant"
    )


def check_state_name(name: object) -> None:
    """Raise EventRejected for what can't name a value: anything but text that UTF-8 can hold."""
    if not isinstance(name, str):
        raise EventRejected(f"state is named by text, not {name!r:.80}")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise EventRejected(f"state name {name!r:.80} can't be written as UTF-8") from error


class State:
    """The state of one key. Values are JSON; what `get` gives is a copy."""

    __slots__ = ("_context", "_key", "_source")

    def __init__(self, context: Context, source: StateSource, key: bytes) -> None:
        self._context = context
        self._source = source
        self._key = key

    async def get(self, name: str, default: Any = None) -> Any:
        """Return the value of `name`, `default` where there is none."""
        self._context.check_open()
        if name not in self._context.changes and not self._source.is_loaded(self._key, name):
            check_state_name(name)  # what is asked for is read for other records, too
            await self._source.load(self._key, name)
        return self._get(name, default)

    async def put(self, name: str, value: object) -> None:
        """Remember `value`, any JSON value or pydantic model."""
        self._put(name, value)

    async def delete(self, name: str) -> None:
        """Forget `name`."""
        self._delete(name)

    async def read(self, key: str, name: str, default: Any = None) -> Any:
        """Return the value of another key of this handler and partition; it can't be changed from here."""
        raw_key = key.encode()
        self._context.check_open()
        if not self._source.is_loaded(raw_key, name):
            check_state_name(name)
            await self._source.load(raw_key, name)
        self._context.check_open()  # it may have ended while this waited
        return _decode(self._source.get(raw_key, name), default, raw_key, name)

    def _get(self, name: str, default: Any) -> Any:
        self._context.check_open()  # it may have ended while this waited
        if name in self._context.changes:
            return _decode(self._context.changes[name], default, self._key, name)
        return _decode(self._source.get(self._key, name), default, self._key, name)

    def _put(self, name: str, value: object) -> None:
        if faults.is_armed("handler.mid"):
            faults.reach("handler.mid")
        check_state_name(name)
        encoded = encode_value(name, value)
        self._context.count(len(encoded))
        self._context.changes[name] = encoded

    def _delete(self, name: str) -> None:
        check_state_name(name)
        self._context.count(0)
        self._context.changes[name] = None


def _decode(value: bytes | None, default: Any, key: bytes, name: str) -> Any:
    if value is None:
        return default
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise StateUnreadable(
            f"what is remembered as {name!r} of key {key!r:.80} is damaged, no JSON ({error}; {value!r:.40}): look at"
            " it with `pspf state get`, put or delete it in the handler (ctx.state), or seek with --reset-state"
        ) from error


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

    def _wait(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        self.check_open()
        return asyncio.run_coroutine_threadsafe(call(), self._loop).result()


class SyncState:
    """The state of one key, for a handler in a thread."""

    __slots__ = ("_state", "_wait")

    def __init__(self, state: State, wait: Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]) -> None:
        self._state = state
        self._wait = wait

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of `name`, `default` where there is none."""
        return self._wait(lambda: self._state.get(name, default))

    def put(self, name: str, value: object) -> None:
        """Remember `value`, any JSON value or pydantic model."""
        self._state._put(name, value)

    def delete(self, name: str) -> None:
        """Forget `name`."""
        self._state._delete(name)

    def read(self, key: str, name: str, default: Any = None) -> Any:
        """Return the value of another key of this handler and partition."""
        return self._wait(lambda: self._state.read(key, name, default))
