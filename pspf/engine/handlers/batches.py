"""Handlers of `list[Event]`: one call a batch; one that fails runs again on halves."""

import asyncio
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from pspf import faults
from pspf.concurrency.background import ThreadResult, start_patiently
from pspf.context import Context, HandlerScope, SyncContext
from pspf.engine.batch_outcome import BatchRun
from pspf.engine.handlers.executor import Executor, drop_cancellations, ends_run, enter_call, leave, told_if_overdue
from pspf.engine.handlers.isolation import OwnContext, in_own_context
from pspf.engine.handlers.threads import THREAD_NAME, call_plain
from pspf.errors import BatchError, HandlerTimeout, RetryLater
from pspf.events.decoding import Decoder
from pspf.records import Record
from pspf.subscription import RetryPolicy, Subscription


class _NotStartedError(Exception):
    """A call was not begun: the run was closed before there was a thread for it."""


class WholeBatch(Executor):
    """Calls a handler with all records of a batch, and narrows a failure down to its records."""

    def __init__(self, subscription: Subscription, decode: Decoder, around: HandlerScope) -> None:
        self._subscription = subscription
        self._decode = decode
        self._around = around
        function = subscription.handler.function
        self._function = OwnContext(function) if subscription.handler.is_async else in_own_context(function)

    async def run(self, records: Sequence[Record], run: BatchRun) -> int:
        unstarted: list[Record] = []
        events = self._read(records, unstarted, run)
        parts = [[record for record in records if record.offset in events]]
        while parts:
            part = parts.pop()
            if run.is_closed:
                unstarted += part
                continue
            # Nothing of the part may be behind a record of its key that failed in an earlier one.
            admitted = [record for record in part if not run.has_to_ask or not run.is_blocked(record)]
            if admitted:
                parts += await self._run_part(admitted, events, run)
        return leave(records, unstarted, run)

    def _read(self, records: Sequence[Record], unstarted: list[Record], run: BatchRun) -> dict[int, Any]:
        """Return the events of those that may run, by offset; the rest is reported."""
        events: dict[int, Any] = {}
        for record in run.admitted(records, unstarted):
            try:
                events[record.offset] = self._decode(record)
            except BaseException as error:  # the boundary of the record
                if ends_run(error, run):
                    raise
                run.fail(record, error)
        return events

    async def _run_part(self, part: Sequence[Record], events: dict[int, Any], run: BatchRun) -> list[list[Record]]:
        """Run records as one call; return the parts that run again, the first one last."""
        context = self._make_context(part[0])
        context.handles([events[record.offset] for record in part], part)
        error = await self.attempt([events[record.offset] for record in part], part, context, run)
        await drop_cancellations(run)
        if error is None:
            run.merge(part, context)
            return []
        context.close()
        if isinstance(error, _NotStartedError):
            return [list(part)]
        charged = find_culprits(part, error, self._subscription.retry)
        for record, reason in charged:
            run.fail(record, reason)
        if charged:
            offsets = {record.offset for record, _ in charged}
            rest = [record for record in part if record.offset not in offsets]
            return [rest] if rest else []
        middle = len(part) // 2
        return [list(part[middle:]), list(part[:middle])]

    def _make_context(self, record: Record) -> Context:
        if self._subscription.handler.is_async:
            return Context(record, self._around)
        return SyncContext(record, self._around, asyncio.get_running_loop())

    async def attempt(
        self, events: list[Any], part: Sequence[Record], context: Context, run: BatchRun
    ) -> BaseException | None:
        """Run records as one call; return its error."""
        handler = self._subscription.handler
        arguments = [events, context] if handler.takes_context else [events]
        call = enter_call(self._subscription.name, self._around.warned)
        call.record = part[0]
        # A part emits something else than the whole did: its ids must not be taken for the same.
        call.others = f"+{len(part) - 1}.{zlib.crc32(','.join(record.id for record in part).encode()):08x}"
        try:
            faults.reach("handler.before")
            if handler.is_async:
                await self._call_in_time(self._function, arguments, run)
            else:
                await self._call_in_thread(self._function, arguments, context, run)
            faults.reach("handler.after")
        except BaseException as error:  # the boundary of the records
            if ends_run(error, run):
                raise
            return error
        return None

    async def _call_in_time(self, function: Callable[..., Any], arguments: Sequence[Any], run: BatchRun) -> None:
        limit = asyncio.timeout(self._timeout_s())
        try:
            with told_if_overdue(run, self._timeout_s()):
                async with limit:
                    await function(*arguments)
        except BaseException as error:
            if limit.expired():
                raise self._timeout() from error
            raise
        if limit.expired():  # it went on in spite of its cancellation
            raise self._timeout()

    async def _call_in_thread(
        self, function: Callable[..., Any], arguments: Sequence[Any], context: Context, run: BatchRun
    ) -> None:
        """Call a plain handler. One over its time has failed, and is waited for: its records are busy."""
        outcome: ThreadResult[BaseException | None] = ThreadResult()
        if not await start_patiently(
            lambda: outcome.run(lambda: _call(function, arguments)), THREAD_NAME, lambda: run.is_closed
        ):
            raise _NotStartedError
        done, _ = await asyncio.wait([outcome], timeout=self._timeout_s())
        if not done:
            context.close()
            with told_if_overdue(run, 0):
                await asyncio.wait([outcome])
            raise self._timeout()
        error = outcome.result()
        if error is not None:
            raise error

    def _timeout_s(self) -> float | None:
        timeout_ms = self._subscription.timeout_ms
        return None if timeout_ms is None else timeout_ms / 1000

    def _timeout(self) -> HandlerTimeout:
        return HandlerTimeout(f"{self._subscription.name} took longer than {self._subscription.timeout_ms} ms")


def find_culprits(
    part: Sequence[Record], error: BaseException, retry: RetryPolicy
) -> list[tuple[Record, BaseException]]:
    """Return the records that a failed call is charged to, each with its error; none where that is not known yet.

    A call that asks for a later run is charged to all of them, except in the last attempt of one: there it is told
    apart which of them makes it fail.
    """
    if isinstance(error, RetryLater) and not any(retry.gives_up(error, record.attempts + 1) for record in part):
        return [(record, error) for record in part]
    named = error.errors if isinstance(error, BatchError) else {}
    charged = [(record, _as_error(named[record.id])) for record in part if record.id in named]
    return [(part[0], error)] if not charged and len(part) == 1 else charged


def _as_error(culprit: object) -> BaseException:
    """Return what a BatchError holds for a record; a handler may have put text there."""
    return culprit if isinstance(culprit, BaseException) else RuntimeError(str(culprit))


def _call(function: Callable[..., Any], arguments: Sequence[Any]) -> BaseException | None:
    """Call a plain function; return its error."""
    try:
        call_plain(function, arguments)
    except BaseException as error:  # the boundary of the records; a thread has no signals of its own
        return error
    return None
