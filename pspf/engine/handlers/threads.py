"""Plain `def` handlers: in threads, one hop a batch and not a record.

A thread can't be ended from outside. One whose call took too long is given up: what it does has no
effect any more, and until it ends its record (shared) or key (ordered) stays busy.
"""

import asyncio
import inspect
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from pspf import faults
from pspf.concurrency.background import start_patiently, start_thread
from pspf.context import HandlerScope, SyncContext
from pspf.engine.batch_outcome import BatchRun
from pspf.engine.handlers.executor import Executor, enter_call, leave, told_if_overdue
from pspf.engine.handlers.isolation import in_own_context
from pspf.engine.handlers.key_lanes import KeyLanes
from pspf.errors import ConfigurationError, HandlerTimeout
from pspf.events.decoding import Decoder
from pspf.loggers import get_logger
from pspf.records import Record
from pspf.subscription import Subscription, Takes

logger = get_logger(__name__)

THREAD_NAME: Final = "pspf-handler"
_BUSY_MS: Final = 1_000
_MAX_OVERRUNS: Final = 64
"""Threads of one cursor that were given up and still run; beyond that it waits for one of them."""


def call_plain(function: Callable[..., Any], arguments: Sequence[Any]) -> None:
    """Call a plain function.

    Raises:
        ConfigurationError: It is async behind a plain wrapper: what it returned was never run.
    """
    result = function(*arguments)
    if inspect.iscoroutine(result):
        result.close()
        raise ConfigurationError(f"{function!r:.120} is a plain function that returns a coroutine: make it async def")


class PlainCalls:
    """How to call a plain handler once."""

    def __init__(self, subscription: Subscription, decode: Decoder) -> None:
        handler = subscription.handler
        self._function = in_own_context(handler.function)
        self._decode = decode
        self._is_raw = handler.takes is Takes.RAW
        self._takes_context = handler.takes_context

    def call(self, record: Record, context: SyncContext) -> BaseException | None:
        """Run one record in this thread; return its error."""
        try:
            event = self._decode(record)
            context.handles((event,), (record,))
            arguments = [record.id, event] if self._is_raw else [event]
            if self._takes_context:
                arguments.append(context)
            faults.reach("handler.before")
            call_plain(self._function, arguments)
            faults.reach("handler.after")
        except BaseException as error:  # the boundary of the record; a thread has no signals of its own
            return error
        return None


@dataclass(frozen=True, slots=True)
class Overrun:
    """A record whose thread was given up."""

    thread: "HandlerThread"
    record: Record

    @property
    def is_over(self) -> bool:
        """Whether the thread has ended by now."""
        return self.thread.finished.done()


class ThreadedBatch:
    """One batch in threads: where they take records from. Everything is done under `mutex`."""

    def __init__(self, records: Sequence[Record], run: BatchRun, threads: "ThreadedExecutor") -> None:
        subscription = threads.subscription
        # One thread alone takes the records as they come.
        self.lanes = KeyLanes(records, by_key=subscription.is_ordered and subscription.concurrency > 1)
        self.run = run
        self.threads = threads
        self.mutex = threading.Lock()
        self.unstarted: list[Record] = []

    def take(self, lane: deque[Record]) -> Record | None:
        """Return the next record to run, of `lane` or of the next one; None when there is none."""
        run = self.run
        while True:
            if not lane:
                lane.extend(next(self.lanes, ()))
            if not lane:
                return None
            record = lane.popleft()
            if run.is_closed:
                self.unstarted.append(record)
            elif not run.has_to_ask or run.admit(record):
                if not self.threads.is_busy(record):
                    return record
                run.put_off(record, _BUSY_MS, "an earlier run has not ended")


class HandlerThread:
    """A thread that runs records of a shift until there are none or it is given up."""

    def __init__(self, shift: ThreadedBatch, lane: deque[Record]) -> None:
        self.loop = asyncio.get_running_loop()
        self.finished: asyncio.Future[None] = self.loop.create_future()
        self.lane = lane
        self.record: Record | None = None
        self.started_ms = 0
        self._shift = shift
        self._context: SyncContext | None = None
        self._is_given_up = False

    async def start(self) -> bool:
        """Start, waiting for a thread to be had; False where the run is closed before."""
        return await start_patiently(self.work, THREAD_NAME, lambda: self._shift.run.is_closed)

    def give_up(self) -> None:
        """Give the running call no effect, and start no other. The shift's mutex is held."""
        self._is_given_up = True
        if self._context is not None:
            self._context.close()

    def work(self) -> None:
        """Run records: the root of the thread."""
        threads = self._shift.threads
        call = enter_call(threads.subscription.name, threads.around.warned)
        failure: BaseException | None = None
        try:
            while (record := self._begin()) is not None:
                call.record = record
                assert self._context is not None
                self._end(record, self._context, threads.calls.call(record, self._context))
        except BaseException as error:  # the root of a thread: its waiter gets the error
            failure = error
        with suppress(RuntimeError):  # the loop is closed, and no task waits
            self.loop.call_soon_threadsafe(self._finish, failure)

    def _begin(self) -> Record | None:
        shift = self._shift
        with shift.mutex:
            if self._is_given_up:
                return None
            record = shift.take(self.lane)
            if record is not None:
                self._context = SyncContext(record, shift.threads.around, self.loop)
                self.started_ms = now_ms()
                self.record = record
            return record

    def _end(self, record: Record, context: SyncContext, error: BaseException | None) -> None:
        shift = self._shift
        with shift.mutex:
            if self._is_given_up:
                return
            self.record = None
            if error is None:
                shift.run.merge([record], context)
            else:
                context.close()
                shift.run.fail(record, error)

    def _finish(self, failure: BaseException | None) -> None:
        if self._is_given_up or failure is None:
            self.finished.set_result(None)
        else:
            self.finished.set_exception(failure)


def now_ms() -> int:
    """Milliseconds of the monotonic clock."""
    return time.monotonic_ns() // 1_000_000


class ThreadedExecutor(Executor):
    """Plain `def` handlers in `concurrency` threads. `wake` is called when an overdue outcome is known."""

    can_be_cut = True

    def __init__(
        self, subscription: Subscription, calls: PlainCalls, around: HandlerScope, wake: Callable[[], None]
    ) -> None:
        self.subscription = subscription
        self.around = around
        self.calls = calls
        self._wake = wake
        self._overruns: dict[int, Overrun] = {}

    @property
    def has_work(self) -> bool:
        return any(overrun.is_over for overrun in self._overruns.values())

    def is_busy(self, record: Record) -> bool:
        """Return whether a record, or in ordered mode its key, still runs in a thread that was given up."""
        for other in [overrun.record for overrun in list(self._overruns.values())]:
            is_same_key = record.raw_key is not None and other.raw_key == record.raw_key
            if record.offset == other.offset or (self.subscription.is_ordered and is_same_key):
                return True
        return False

    async def run(self, records: Sequence[Record], run: BatchRun) -> int:
        await self._wait_for_overruns(run)
        self._report_late(run)
        shift = ThreadedBatch(records, run, self)
        going: list[HandlerThread] = []
        try:
            await self._start(going, min(self.subscription.concurrency, len(records)), shift)
            while going:
                await self._wait(going)
                going = self._go_on(going, shift)
        finally:
            with shift.mutex:
                for thread in going:  # this task is cancelled: they must not go on with what is given back
                    thread.give_up()
        for lane in shift.lanes:
            shift.unstarted += lane
        return leave(records, shift.unstarted, run)

    async def _start(self, going: list[HandlerThread], wanted: int, shift: ThreadedBatch) -> None:
        """Have up to `wanted` threads take records, fewer where there are no more, at least one unless it is to end."""
        first = HandlerThread(shift, deque())
        if not await first.start():
            return
        going.append(first)
        while len(going) < wanted:
            another = HandlerThread(shift, deque())
            if not start_thread(another.work, THREAD_NAME):
                return
            going.append(another)

    async def _wait(self, going: Sequence[HandlerThread]) -> None:
        """Return when a thread has finished, or one has run over its time."""
        limit_ms = self.subscription.timeout_ms
        if limit_ms is not None:
            started_ms = min([thread.started_ms for thread in going if thread.record], default=now_ms())
            limit_ms = max(1, started_ms + limit_ms - now_ms())
        await asyncio.wait(
            [thread.finished for thread in going],
            timeout=None if limit_ms is None else limit_ms / 1000,
            return_when=asyncio.FIRST_COMPLETED,
        )

    def _go_on(self, going: Sequence[HandlerThread], shift: ThreadedBatch) -> list[HandlerThread]:
        """Return the threads to wait for; one that is over its time is replaced."""
        left: list[HandlerThread] = []
        for thread in going:
            if thread.finished.done():
                thread.finished.result()
            elif not self._give_up_if_over(thread, shift):
                left.append(thread)
            elif (another := self._replace(thread, shift)) is not None:
                left.append(another)
            else:
                shift.unstarted += thread.lane
        return left

    def _replace(self, thread: HandlerThread, shift: ThreadedBatch) -> HandlerThread | None:
        """Return a thread that goes on with what one that was given up left; None where there is none to be had."""
        another = HandlerThread(shift, thread.lane)
        if len(self._overruns) >= _MAX_OVERRUNS or not start_thread(another.work, THREAD_NAME):
            return None
        return another

    def _give_up_if_over(self, thread: HandlerThread, shift: ThreadedBatch) -> bool:
        limit_ms = self.subscription.timeout_ms
        with shift.mutex:
            record = thread.record
            if limit_ms is None or record is None or now_ms() - thread.started_ms < limit_ms:
                return False
            thread.give_up()
            self._overruns[record.offset] = Overrun(thread, record)
            if self.subscription.is_ordered:
                shift.run.fail(record, self._timeout())
            else:
                shift.run.keep(record)
        thread.finished.add_done_callback(lambda _: self._wake())
        return True

    def _timeout(self) -> HandlerTimeout:
        return HandlerTimeout(f"{self.subscription.name} took longer than {self.subscription.timeout_ms} ms")

    def _report_late(self, run: BatchRun) -> None:
        """Forget the threads that have ended, and in shared mode charge their records, which were kept."""
        for overrun in [overrun for overrun in self._overruns.values() if overrun.is_over]:
            del self._overruns[overrun.record.offset]
            if not self.subscription.is_ordered:
                run.fail_late(overrun.record, self._timeout())

    async def _wait_for_overruns(self, run: BatchRun) -> None:
        """Return when there is room for another thread that may have to be given up."""
        with told_if_overdue(run, 0):
            await self._wait_for_room(run)

    async def _wait_for_room(self, run: BatchRun) -> None:
        while not run.is_closed:
            endless = [overrun.thread.finished for overrun in self._overruns.values() if not overrun.is_over]
            if len(endless) < _MAX_OVERRUNS:
                return
            logger.warning(
                "%s: %d calls that took longer than %s ms still run in their threads; it waits for one of them",
                self.subscription.name,
                len(endless),
                self.subscription.timeout_ms,
            )
            await asyncio.wait(endless, timeout=_BUSY_MS / 1000, return_when=asyncio.FIRST_COMPLETED)
