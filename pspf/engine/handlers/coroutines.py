"""`async def` handlers: one after the other, or several side by side."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import copy_context
from typing import Any, Final

from pspf import faults
from pspf.context import Call, Context, HandlerScope
from pspf.engine.batch_outcome import BatchRun
from pspf.engine.handlers.executor import (
    Executor,
    YieldPoint,
    current_task,
    drop_cancellations,
    ends_run,
    enter_call,
    leave,
    told_if_overdue,
)
from pspf.engine.handlers.isolation import OwnContext
from pspf.engine.handlers.key_lanes import KeyLanes
from pspf.errors import HandlerTimeout
from pspf.events.decoding import Decoder, SectionDecoder, Unreadable
from pspf.records import Record
from pspf.subscription import Subscription, Takes

_BREATH_RECORDS: Final = 64


class PlainCoroutines(Executor):
    """One async handler after the other, nothing but the event: the fast way. Records are read by sections."""

    can_be_cut = True

    def __init__(self, subscription: Subscription, read: SectionDecoder, around: HandlerScope) -> None:
        self._function: Callable[[Any], Awaitable[Any]] = subscription.handler.function
        self._own = OwnContext(self._function)
        self._read = read
        self._name = subscription.name
        self._warned = around.warned

    async def run(self, records: Sequence[Record], run: BatchRun) -> int:
        call, own = enter_call(self._name, self._warned), self._own
        function, clean = own if own.is_needed else self._function, call.clean
        breath, cancellations, context = YieldPoint(), current_task().cancelling, copy_context
        asks = run.has_to_ask
        for begin in range(0, len(records), _BREATH_RECORDS):
            await breath.take()
            section = records[begin : begin + _BREATH_RECORDS]
            # Not `run.admitted`, which costs 0.1 us more a record, of 2.
            for taken, (record, event) in enumerate(zip(section, self._read(section), strict=True), begin):
                if run.is_closed:
                    return taken
                if asks and not run.admit(record):
                    continue
                call.record = record
                try:
                    if isinstance(event, Unreadable):
                        raise event.error
                    await function(event)
                except BaseException as error:  # the boundary of the record
                    if ends_run(error, run):
                        raise
                    run.fail(record, error)
                    asks = run.has_to_ask
                else:
                    if asks:
                        run.succeed(record)
                if cancellations():
                    await drop_cancellations(run)
                try:
                    if function is not own and context() != clean:  # not in a function: that would double its price
                        own.is_needed, function = True, own
                except Exception:  # a value's own comparison: then it is another value
                    own.is_needed, function = True, own
        return len(records)


class Calls:
    """How to call an async handler once: its arguments, its context, its time limit."""

    def __init__(self, subscription: Subscription, decode: Decoder, around: HandlerScope) -> None:
        handler = subscription.handler
        self._function = OwnContext(handler.function)
        self._decode = decode
        self._around = around
        self._is_raw = handler.takes is Takes.RAW
        self._takes_context = handler.takes_context
        self._timeout_ms = subscription.timeout_ms
        self._name = subscription.name

    def enter(self) -> Call:
        """Return the function that is called with each record before its handler, in the same task."""
        return enter_call(self._name, self._around.warned)

    async def call(self, record: Record, run: BatchRun) -> None:
        """Run one record and report its outcome."""
        context = Context(record, self._around)
        error = await self.attempt(record, context, run)
        if error is None:
            run.merge([record], context)
        else:
            context.close()
            run.fail(record, error)
        await drop_cancellations(run)

    async def attempt(self, record: Record, context: Context, run: BatchRun) -> BaseException | None:
        """Run one record; return its error."""
        try:
            arguments = self._arguments(record, context)
            faults.reach("handler.before")
            if self._timeout_ms is None:
                await self._function(*arguments)
            else:
                await self._call_in_time(arguments, self._timeout_ms, run)
            faults.reach("handler.after")
        except BaseException as error:  # the boundary of the record
            if ends_run(error, run):
                context.close()
                raise
            return error
        return None

    def _arguments(self, record: Record, context: Context) -> list[Any]:
        event = self._decode(record)
        context.handles((event,), (record,))
        arguments = [record.id, event] if self._is_raw else [event]
        if self._takes_context:
            arguments.append(context)
        return arguments

    async def _call_in_time(self, arguments: Sequence[Any], timeout_ms: int, run: BatchRun) -> None:
        limit = asyncio.timeout(timeout_ms / 1000)
        try:
            with told_if_overdue(run, timeout_ms / 1000):
                async with limit:
                    await self._function(*arguments)
        except TimeoutError as error:
            if not limit.expired():
                raise  # the handler's own
            raise HandlerTimeout(f"{self._name} took longer than {timeout_ms} ms") from error
        if limit.expired():  # it went on in spite of its cancellation
            raise HandlerTimeout(f"{self._name} took longer than {timeout_ms} ms")


class InTurn(Executor):
    """One async handler after the other, with a context, raw arguments or a time limit."""

    can_be_cut = True

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def run(self, records: Sequence[Record], run: BatchRun) -> int:
        call = self._calls.enter()
        breath, unstarted = YieldPoint(), list[Record]()
        for begin in range(0, len(records), _BREATH_RECORDS):
            await breath.take()
            for record in run.admitted(records[begin : begin + _BREATH_RECORDS], unstarted):
                call.record = record
                await self._calls.call(record, run)
        return len(records) - len(unstarted)


class SideBySide(Executor):
    """`concurrency` async handlers at a time."""

    can_be_cut = True

    def __init__(self, subscription: Subscription, calls: Calls) -> None:
        self._calls = calls
        self._is_ordered = subscription.is_ordered
        self._concurrency = subscription.concurrency

    async def run(self, records: Sequence[Record], run: BatchRun) -> int:
        lanes = KeyLanes(records, by_key=self._is_ordered)
        unstarted: list[Record] = []
        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._concurrency, len(records))):
                group.create_task(self._work(lanes, run, unstarted))
        return leave(records, unstarted, run)

    async def _work(self, lanes: KeyLanes, run: BatchRun, unstarted: list[Record]) -> None:
        try:
            await self._run_lanes(lanes, run, unstarted)
        except BaseException:
            run.give_up()  # the others are cancelled, and that is nothing of their records
            raise

    async def _run_lanes(self, lanes: KeyLanes, run: BatchRun, unstarted: list[Record]) -> None:
        call = self._calls.enter()
        breath = YieldPoint()
        for lane in lanes:
            await breath.take()
            for record in run.admitted(lane, unstarted):
                call.record = record
                await self._calls.call(record, run)
