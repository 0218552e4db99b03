"""The ways to run a batch's handlers. Which one is chosen once per subscription, not per event.

An executor takes the records of a batch in order and reports each outcome to its `BatchRun`. It
returns how many it took from the front; what is behind was not started, because the run was closed.
Whatever a handler raises stops at its record.
"""

import asyncio
import contextvars
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from pspf import faults
from pspf.context import Call, Context, Surroundings, SyncContext, current_call
from pspf.errors import BatchError, HandlerTimeout
from pspf.processing.batch_run import BatchRun
from pspf.records import Record
from pspf.schema import Decoder
from pspf.subscription import Subscription, Takes

_BREATH_RECORDS: Final = 64
_BREATH_SECONDS: Final = 0.05
_BUSY_MS: Final = 1_000

# SystemExit from a handler is its record's failure too: only signals end a worker.
FAILURES: Final = (Exception, SystemExit)


class Executor(ABC):
    """Runs the records of batches. One per cursor."""

    @abstractmethod
    async def run(self, records: Sequence[Record], run: BatchRun) -> int:
        """Run records until all are taken or the run is closed; return how many were taken."""


def make_executor(subscription: Subscription, decode: Decoder, around: Surroundings) -> Executor:
    """Return the executor for a subscription's shape."""
    decode = _armed_decoder(decode)
    handler = subscription.handler
    if handler.takes is Takes.BATCH:
        return WholeBatch(subscription, decode, around)
    if not handler.is_async:
        return Threads(subscription, decode, around)
    if subscription.concurrency > 1:
        return SideBySide(subscription, decode, around)
    if handler.takes_context or handler.takes is Takes.RAW or subscription.timeout_ms is not None or _are_armed():
        return InTurn(subscription, decode, around)
    return Plain(subscription, decode)


def _are_armed() -> bool:
    return faults.is_armed("handler.before", "handler.after")


def _armed_decoder(decode: Decoder) -> Decoder:
    if not faults.is_armed("decode"):
        return decode

    def reach_and_decode(record: Record) -> Any:
        faults.reach("decode")
        return decode(record)

    return reach_and_decode


class Breath:
    """Gives the event loop a turn now and then, for handlers that never wait for anything."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = time.monotonic()

    async def take(self) -> None:
        now = time.monotonic()
        if now - self._last > _BREATH_SECONDS:
            await asyncio.sleep(0)
            self._last = time.monotonic()


def is_leaked(error: asyncio.CancelledError) -> bool:
    """Return whether a cancellation is the handler's own, and not of the task that runs it."""
    task = asyncio.current_task()
    return task is None or task.cancelling() == 0


class Plain(Executor):
    """One async handler after the other, nothing but the event: the fast way."""

    def __init__(self, subscription: Subscription, decode: Decoder) -> None:
        self._function: Callable[[Any], Awaitable[Any]] = subscription.handler.function
        self._decode = decode
        self._call = Call(subscription.name)

    async def run(self, records: Sequence[Record], run: BatchRun) -> int:
        function, decode, call = self._function, self._decode, self._call
        current_call.set(call)
        breath = Breath()
        for taken, record in enumerate(records):
            if not taken % _BREATH_RECORDS:
                await breath.take()
            if run.is_closed:
                return taken
            if run.has_to_ask and not run.admit(record):
                continue
            call.record = record
            try:
                await function(decode(record))
            except asyncio.CancelledError as error:
                if not is_leaked(error):
                    raise
                run.fail(record, error)
            except FAILURES as error:
                run.fail(record, error)
            else:
                if run.has_to_ask:
                    run.succeed(record)
        return len(records)


class Calls:
    """How to call an async handler once: its arguments, its context, its time limit."""

    def __init__(self, subscription: Subscription, decode: Decoder, around: Surroundings) -> None:
        handler = subscription.handler
        self._function = handler.function
        self._decode = decode
        self._around = around
        self._is_raw = handler.takes is Takes.RAW
        self._takes_context = handler.takes_context
        self._timeout_ms = subscription.timeout_ms
        self._name = subscription.name

    async def call(self, record: Record, run: BatchRun) -> None:
        """Run one record and report its outcome."""
        context = Context(record, self._around)
        call = current_call.get()
        if call is None:
            call = Call(self._name)
            current_call.set(call)
        call.record = record
        try:
            arguments = self._arguments(record, context)
            faults.reach("handler.before")
            if self._timeout_ms is None:
                await self._function(*arguments)
            else:
                await self._call_in_time(arguments, self._timeout_ms)
            faults.reach("handler.after")
        except asyncio.CancelledError as error:
            context.close()
            if not is_leaked(error):
                raise
            run.fail(record, error)
        except FAILURES as error:
            context.close()
            run.fail(record, error)
        else:
            run.merge(record, context)
            if run.has_to_ask:
                run.succeed(record)

    def _arguments(self, record: Record, context: Context) -> list[Any]:
        event = self._decode(record)
        arguments = [record.id, event] if self._is_raw else [event]
        if self._takes_context:
            arguments.append(context)
        return arguments

    async def _call_in_time(self, arguments: Sequence[Any], timeout_ms: int) -> None:
        limit = asyncio.timeout(timeout_ms / 1000)
        try:
            async with limit:
                await self._function(*arguments)
        except TimeoutError as error:
            if not limit.expired():
                raise  # the handler's own
            raise HandlerTimeout(f"{self._name} took longer than {timeout_ms} ms") from error


class InTurn(Executor):
    """One async handler after the other, with a context, raw arguments or a time limit."""

    def __init__(self, subscription: Subscription, decode: Decoder, around: Surroundings) -> None:
        self._calls = Calls(subscription, decode, around)

    async def run(self, records: Sequence[Record], run: BatchRun) -> int:
        breath = Breath()
        for taken, record in enumerate(records):
            if not taken % _BREATH_RECORDS:
                await breath.take()
            if run.is_closed:
                return taken
            if run.has_to_ask and not run.admit(record):
                continue
            await self._calls.call(record, run)
        return len(records)


class Lanes:
    """Deals records to workers side by side: in order, and never two of one key at a time where that counts."""

    def __init__(self, records: Sequence[Record], *, by_key: bool) -> None:
        lanes: dict[object, list[Record]] = {}
        for record in records:
            lane = record.raw_key if by_key and record.raw_key is not None else record.offset
            lanes.setdefault(lane, []).append(record)
        self._lanes = list(lanes.values())
        self._next = 0

    def take(self) -> list[Record] | None:
        """Return the next lane, None when all are dealt."""
        if self._next == len(self._lanes):
            return None
        self._next += 1
        return self._lanes[self._next - 1]


class SideBySide(Executor):
    """`concurrency` async handlers at a time."""

    def __init__(self, subscription: Subscription, decode: Decoder, around: Surroundings) -> None:
        self._calls = Calls(subscription, decode, around)
        self._is_ordered = subscription.is_ordered
        self._concurrency = subscription.concurrency

    async def run(self, records: Sequence[Record], run: BatchRun) -> int:
        lanes = Lanes(records, by_key=self._is_ordered)
        left: list[Record] = []
        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._concurrency, len(records))):
                group.create_task(self._work(lanes, run, left))
        for record in sorted(left, key=lambda record: record.offset):
            run.put_off(record, 0, "not started")
        return len(records)

    async def _work(self, lanes: Lanes, run: BatchRun, left: list[Record]) -> None:
        while (lane := lanes.take()) is not None:
            for record in lane:
                if run.is_closed:
                    left.append(record)
                elif not run.has_to_ask or run.admit(record):
                    await self._calls.call(record, run)


class ThreadWork:
    """One thread that runs plain handlers, lane by lane. Daemonic: a handler that hangs holds nobody up."""

    def __init__(self, lanes: Lanes, run: BatchRun, call: Callable[[Record], Context], mutex: threading.Lock) -> None:
        self.finished = asyncio.get_running_loop().create_future()
        self.record: Record | None = None
        self.started_ms = 0.0
        self.is_abandoned = False
        self.left: list[Record] = []
        self._lane: list[Record] = []
        self._lanes = lanes
        self._run = run
        self._call = call
        self._mutex = mutex
        self._loop = asyncio.get_running_loop()
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(self._work,), name="pspf-handler", daemon=True).start()

    def _work(self) -> None:
        try:
            while (lane := self._take_lane()) is not None:
                for index, record in enumerate(lane):
                    if not self._run_one(record, lane[index + 1 :]):
                        return
        finally:
            self._loop.call_soon_threadsafe(self._finish)

    def _finish(self) -> None:
        if not self.finished.done():
            self.finished.set_result(None)

    def _take_lane(self) -> list[Record] | None:
        with self._mutex:
            return None if self.is_abandoned else self._lanes.take()

    def _run_one(self, record: Record, behind: list[Record]) -> bool:
        """Run one record; return False once the thread was given up meanwhile."""
        run = self._run
        with self._mutex:
            if run.is_closed:
                self.left.append(record)
                return True
            if run.has_to_ask and not run.admit(record):
                return True
            self._lane = behind
            self.started_ms = time.monotonic() * 1000
            self.record = record
        error: BaseException | None = None
        context: Context | None = None
        try:
            context = self._call(record)
        except FAILURES as raised:
            error = raised
        with self._mutex:
            self.record = None
            if self.is_abandoned:
                return False
            if context is None:
                run.fail(record, error or RuntimeError("no outcome"))
            else:
                run.merge(record, context)
                if run.has_to_ask:
                    run.succeed(record)
            return True

    def abandon(self) -> list[Record]:
        """Give up on the record in hand; return the ones of its lane behind it. The mutex is held."""
        self.is_abandoned = True
        return self._lane


class Threads(Executor):
    """Plain `def` handlers in `concurrency` threads; one hop a batch."""

    def __init__(self, subscription: Subscription, decode: Decoder, around: Surroundings) -> None:
        self._subscription = subscription
        self._decode = decode
        self._around = around
        self._mutex = threading.Lock()
        self._busy: dict[int, tuple[ThreadWork, Record]] = {}
        self._contexts: dict[int, Context] = {}

    async def run(self, records: Sequence[Record], run: BatchRun) -> int:
        self._charge_finished(run)
        free = [record for record in records if not self._is_busy(record, run)]
        lanes = Lanes(free, by_key=self._subscription.is_ordered)
        call = self._caller(asyncio.get_running_loop())
        works = [
            ThreadWork(lanes, run, call, self._mutex) for _ in range(min(self._subscription.concurrency, len(free)))
        ]
        left: list[Record] = []
        while works:
            await self._wait(works)
            works = self._go_on(works, lanes, run, call, left)
        for record in sorted(left, key=lambda record: record.offset):
            run.put_off(record, 0, "not started")
        return len(records)

    async def _wait(self, works: Sequence[ThreadWork]) -> None:
        """Return when a thread has finished, or one has run over its time."""
        timeout_ms = self._subscription.timeout_ms
        limit: float | None = None
        if timeout_ms is not None:
            now_ms = time.monotonic() * 1000
            limit = max(
                0.001, min([w.started_ms + timeout_ms - now_ms for w in works if w.record] or [timeout_ms]) / 1000
            )
        await asyncio.wait([work.finished for work in works], timeout=limit, return_when=asyncio.FIRST_COMPLETED)

    def _go_on(
        self,
        works: Sequence[ThreadWork],
        lanes: Lanes,
        run: BatchRun,
        call: Callable[[Record], Context],
        left: list[Record],
    ) -> list[ThreadWork]:
        timeout_ms = self._subscription.timeout_ms
        going: list[ThreadWork] = []
        for work in works:
            with self._mutex:
                record = work.record
                over = timeout_ms is not None and record is not None
                over = over and time.monotonic() * 1000 - work.started_ms >= (timeout_ms or 0)
                if over and record is not None:
                    self._time_out(work, record, run, left)
            if over:
                going.append(ThreadWork(lanes, run, call, self._mutex))
            elif work.finished.done():
                left += work.left
            else:
                going.append(work)
        return going

    def _time_out(self, work: ThreadWork, record: Record, run: BatchRun, left: list[Record]) -> None:
        """The thread can't be ended: its record stays in hand (shared) or its key waits (ordered) until it does."""
        left += [*work.left, *work.abandon()]
        context = self._contexts.pop(record.offset, None)
        if context is not None:
            context.close()
        self._busy[record.offset] = (work, record)
        if self._subscription.is_ordered:
            run.fail(record, self._timeout_error())
        else:
            run.keep(record)

    def _timeout_error(self) -> HandlerTimeout:
        return HandlerTimeout(f"{self._subscription.name} took longer than {self._subscription.timeout_ms} ms")

    def _charge_finished(self, run: BatchRun) -> None:
        """Report the timed-out records whose threads have ended by now."""
        for offset, (work, record) in list(self._busy.items()):
            if work.finished.done():
                del self._busy[offset]
                if not self._subscription.is_ordered:
                    run.fail_late(record, self._timeout_error())

    def _is_busy(self, record: Record, run: BatchRun) -> bool:
        """Put off a record whose key (ordered) still runs in a thread that was given up."""
        for _, other in self._busy.values():
            is_same_key = other.raw_key is not None and other.raw_key == record.raw_key
            if record.offset == other.offset or (self._subscription.is_ordered and is_same_key):
                if not run.has_to_ask or run.admit(record):
                    run.put_off(record, _BUSY_MS, "an earlier run has not ended")
                return True
        return False

    def _caller(self, loop: asyncio.AbstractEventLoop) -> Callable[[Record], Context]:
        handler = self._subscription.handler
        is_raw = handler.takes is Takes.RAW

        name = self._subscription.name

        def call(record: Record) -> Context:
            context = SyncContext(record, self._around, loop)
            site = current_call.get()
            if site is None:
                site = Call(name)
                current_call.set(site)
            site.record = record
            self._contexts[record.offset] = context
            try:
                event = self._decode(record)
                arguments = [record.id, event] if is_raw else [event]
                if handler.takes_context:
                    arguments.append(context)
                faults.reach("handler.before")
                handler.function(*arguments)
                faults.reach("handler.after")
            except BaseException:
                context.close()
                raise
            finally:
                self._contexts.pop(record.offset, None)
            return context

        return call


class WholeBatch(Executor):
    """Handlers of `list[Event]`: one call a batch; one that fails runs again on halves."""

    def __init__(self, subscription: Subscription, decode: Decoder, around: Surroundings) -> None:
        self._subscription = subscription
        self._decode = decode
        self._around = around

    async def run(self, records: Sequence[Record], run: BatchRun) -> int:
        events: dict[int, Any] = {}
        good: list[Record] = []
        for record in records:
            if run.has_to_ask and not run.admit(record):
                continue
            try:
                events[record.offset] = self._decode(record)
            except FAILURES as error:
                run.fail(record, error)
            else:
                good.append(record)
        await self._run_part(good, events, run)
        return len(records)

    async def _run_part(self, records: Sequence[Record], events: dict[int, Any], run: BatchRun) -> None:
        """Run records as one call; where it fails, its culprits alone are charged."""
        admitted = [record for record in records if not run.has_to_ask or not run.is_blocked(record)]
        if not admitted:
            return
        context = self._make_context(admitted[0])
        error = await self._call([events[record.offset] for record in admitted], context)
        if error is None:
            run.merge(admitted[0], context)
            if run.has_to_ask:
                for record in admitted:
                    run.succeed(record)
            return
        context.close()
        culprits = error.errors if isinstance(error, BatchError) else {}
        named = [record for record in admitted if record.id in culprits]
        if named:
            for record in named:
                run.fail(record, culprits[record.id])
            await self._run_part([record for record in admitted if record.id not in culprits], events, run)
        elif len(admitted) == 1:
            run.fail(admitted[0], error)
        else:
            middle = len(admitted) // 2
            await self._run_part(admitted[:middle], events, run)
            await self._run_part(admitted[middle:], events, run)

    def _make_context(self, record: Record) -> Context:
        if self._subscription.handler.is_async:
            return Context(record, self._around)
        return SyncContext(record, self._around, asyncio.get_running_loop())

    async def _call(self, events: list[Any], context: Context) -> BaseException | None:
        handler = self._subscription.handler
        arguments = [events, context] if handler.takes_context else [events]
        timeout_ms = self._subscription.timeout_ms
        limit = asyncio.timeout(None if timeout_ms is None else timeout_ms / 1000)
        try:
            faults.reach("handler.before")
            async with limit:
                if handler.is_async:
                    await handler.function(*arguments)
                else:
                    await run_in_daemon(handler.function, *arguments)
            faults.reach("handler.after")
        except asyncio.CancelledError as error:
            if not is_leaked(error):
                raise
            return error
        except FAILURES as error:
            if limit.expired():
                return HandlerTimeout(f"{self._subscription.name} took longer than {timeout_ms} ms")
            return error
        return None


async def run_in_daemon(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a blocking call in a thread of its own that does not keep the interpreter alive."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def work() -> None:
        try:
            result = function(*arguments)
        except FAILURES as error:
            loop.call_soon_threadsafe(settle, None, error)
        else:
            loop.call_soon_threadsafe(settle, result, None)

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(work,), name="pspf-handler", daemon=True).start()
    return await future
