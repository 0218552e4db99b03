"""Call of a timer's function, async or in a thread, as a handler is called with a record."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import orjson
from pydantic import TypeAdapter, ValidationError

from pspf.concurrency.background import ThreadResult, start_patiently
from pspf.context import Context, HandlerScope, SyncContext
from pspf.engine.batch_outcome import BatchRun
from pspf.engine.handlers.coroutines import Calls
from pspf.engine.handlers.executor import drop_cancellations, enter_call, told_if_overdue
from pspf.engine.handlers.threads import THREAD_NAME, PlainCalls
from pspf.engine.handlers.traced import TracedCalls, TracedPlainCalls
from pspf.errors import HandlerTimeout, SchemaError
from pspf.records import Record, encode_headers
from pspf.subscription import Handler, Subscription, Takes
from pspf.windowing.timers.rows import TIMER_HEADER, TimerRow, key_and_name
from pspf.windowing.timers.timer import Timer


@dataclass(frozen=True, slots=True)
class DueTimer:
    """A timer whose time has come."""

    place: bytes
    row: TimerRow

    @property
    def name(self) -> str:
        """What it is called."""
        return key_and_name(self.place)[1]

    def as_record(self, topic: str, partition: int, source: int) -> Record:
        """Return it as a record of its key, as if it came after the one at offset `source`."""
        key, name = key_and_name(self.place)
        headers = encode_headers({TIMER_HEADER: name})
        row = self.row
        return Record(topic, partition, source, key, row.payload, headers, row.at_ms, row.attempts)


class NotStarted(Exception):
    """A call was not begun: the run was closed before there was a thread for it."""


class TimerCalls(Protocol):
    """How to call the function of timers once."""

    def make_context(self, record: Record) -> Context: ...

    async def call(self, due: DueTimer, record: Record, context: Context, run: BatchRun) -> BaseException | None:
        """Return the error that the call ended with."""
        ...


def make_calls(subscription: Subscription, around: HandlerScope) -> TimerCalls:
    """Return how to call the function of a subscription's timers."""
    definition = subscription.timers
    assert definition is not None
    handler = Handler(
        definition.function, subscription.name, Takes.EVENT, definition.takes_context, definition.is_async, None
    )
    kind = _AsyncCalls if definition.is_async else _ThreadedCalls
    return kind(replace(subscription, handler=handler), _make_reader(definition.model), around)


def _make_reader(model: Any) -> Callable[[bytes], Any]:
    if model is None:
        return orjson.loads
    adapter: TypeAdapter[Any] = TypeAdapter(model)

    def read(payload: bytes) -> Any:
        try:
            return adapter.validate_json(payload)
        except ValidationError as error:
            raise SchemaError(f"the payload of the timer does not fit {model!r:.80}: {error}") from error

    return read


class _Reading:
    """Makes the Timer of a record that stands for one."""

    def __init__(self, read: Callable[[bytes], Any]) -> None:
        self._read = read
        self.due: DueTimer

    def decode(self, record: Record) -> Timer[Any]:
        row = self.due.row
        key = record.key
        assert key is not None
        return Timer(self.due.name, key, self._read(row.payload), row.at_ms, row.is_event_time, row.attempts + 1)


class _AsyncCalls:
    """Calls of an async function."""

    def __init__(self, subscription: Subscription, read: Callable[[bytes], Any], around: HandlerScope) -> None:
        self._reading = _Reading(read)
        self._around = around
        decode, spans = self._reading.decode, around.spans
        plain = Calls(subscription, decode, around)
        self._calls = plain if spans is None else TracedCalls(subscription, decode, around, spans)

    def make_context(self, record: Record) -> Context:
        return Context(record, self._around)

    async def call(self, due: DueTimer, record: Record, context: Context, run: BatchRun) -> BaseException | None:
        self._reading.due = due
        call = self._calls.enter()
        call.record, call.others = record, _distinct(due)
        error = await self._calls.attempt(record, context, run)
        await drop_cancellations(run)
        return error


class _ThreadedCalls:
    """Calls of a plain function, each in a thread. One over its time has failed, and is waited for."""

    def __init__(self, subscription: Subscription, read: Callable[[bytes], Any], around: HandlerScope) -> None:
        self._reading = _Reading(read)
        self._subscription = subscription
        self._around = around
        decode, spans = self._reading.decode, around.spans
        self._calls = (
            PlainCalls(subscription, decode) if spans is None else TracedPlainCalls(subscription, decode, spans)
        )

    def make_context(self, record: Record) -> SyncContext:
        return SyncContext(record, self._around, asyncio.get_running_loop())

    async def call(self, due: DueTimer, record: Record, context: Context, run: BatchRun) -> BaseException | None:
        assert isinstance(context, SyncContext)
        self._reading.due = due
        name, warned, calls = self._subscription.name, self._around.warned, self._calls

        def work() -> BaseException | None:
            call = enter_call(name, warned)
            call.record, call.others = record, _distinct(due)
            return calls.call(record, context)

        outcome: ThreadResult[BaseException | None] = ThreadResult()
        if not await start_patiently(lambda: outcome.run(work), THREAD_NAME, lambda: run.is_closed):
            raise NotStarted
        limit_ms = self._subscription.timeout_ms
        done, _ = await asyncio.wait([outcome], timeout=None if limit_ms is None else limit_ms / 1000)
        if done:
            return outcome.result()
        context.close()
        with told_if_overdue(run, 0):
            await asyncio.wait([outcome])
        return HandlerTimeout(f"a timer of {name} took longer than {limit_ms} ms")


def _distinct(due: DueTimer) -> str:
    """Return what tells emits past the context apart from those of other timers and records."""
    return f"+timer {due.place.hex()} {due.row.at_ms}"
