"""Base of executors, which run the handler on the records of a batch.

An executor takes the records of a batch in order and reports each outcome to its `BatchRun`. It returns how many it
took from the front; the others were not started, because the run was closed. An exception of a handler is the failure
of its record alone.
"""

import asyncio
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from typing import Final

from pspf.context import Call, current_call
from pspf.engine.batch_outcome import BatchRun
from pspf.engine.handlers.isolation import decimals_of, is_same
from pspf.engine.idleness import IdleTracker
from pspf.records import Record
from pspf.windowing.spans import NEVER

_BREATH_SECONDS: Final = 0.05
LONGEST_POLL_MS: Final = 5_000
"""How long a read waits for a record, at most."""
_GRACE_S: Final = 1.0
"""How long a call that is cancelled may take to end, before it is logged."""


class Executor(ABC):
    """Runs the records of batches. One per cursor."""

    can_be_cut: bool = False
    """Whether a run that is closed half-way costs nothing: each record is a call of its own."""

    @abstractmethod
    async def run(self, records: Sequence[Record], run: BatchRun) -> int:
        """Run records until all are taken or the run is closed; return how many were taken."""

    async def prepare(self, records: Sequence[Record], run: BatchRun) -> bool:
        """Do what comes before the records of a batch; return whether they can run in the same one."""
        return True

    @property
    def has_work(self) -> bool:
        """Whether the next run has something to do without records.

        Records that an earlier batch left under way have their outcome, or something is due.
        """
        return False

    @property
    def due_ms(self) -> int:
        """The wall-clock time from which on it `has_work`; asked once a turn of the loop."""
        return NEVER

    @property
    def crashes(self) -> int:
        """How often what the next run does, which is no record, has ended the process."""
        return 0

    def finish(self) -> None:  # noqa: B027 (most have nothing open)
        """Close all that is open, as at the end of the input; what has something open wakes the loop."""

    def poll_timeout_ms(self, idle: IdleTracker, now_ms: int) -> int:
        """Return how long a read that begins now may wait for a record."""
        return LONGEST_POLL_MS

    async def on_idle(self, idle: IdleTracker) -> None:  # noqa: B027 (most have nothing to do then)
        """Note that a read found nothing; what has something to do then `has_work`."""


@contextmanager
def told_if_overdue(run: BatchRun, timeout_s: float | None) -> Iterator[None]:
    """Tell the run of a call that goes on although it was cancelled at the end of its time, while it does."""
    if timeout_s is None:
        yield
        return
    is_over = False

    def tell() -> None:
        nonlocal is_over
        is_over = True
        run.note_overdue(1)

    timer = asyncio.get_running_loop().call_later(timeout_s + _GRACE_S, tell)
    try:
        yield
    finally:
        timer.cancel()
        if is_over:
            run.note_overdue(-1)


def leave(records: Sequence[Record], unstarted: Sequence[Record], run: BatchRun) -> int:
    """Return how many records were taken, where some of any place were not started.

    Those behind the last one that was started are left; the ones between are put off, uncharged.
    """
    offsets = {record.offset for record in unstarted}
    taken = len(records)
    while taken and records[taken - 1].offset in offsets:
        taken -= 1
    for record in records[:taken]:
        # One that was read twice may be done since: it must not come back.
        if record.offset in offsets and (not run.has_to_ask or run.admit(record)):
            run.put_off(record, 0, "not started")
            run.unseen.add(record.offset)
    return taken


def ends_run(error: BaseException, run: BatchRun) -> bool:
    """Return whether what came out of a call ends the run, and is not its record's failure.

    Only signals end a worker: a panic of a library in another language, a SystemExit, a KeyboardInterrupt or a
    cancellation of the handler's own are failures as any. Not so what is thrown into a call from outside: the
    end of a run that is given up, of a coroutine that nobody awaits any more, of a program without a loop that
    took SIGINT over.
    """
    if run.is_given_up:
        return True
    if not isinstance(error, GeneratorExit | KeyboardInterrupt):
        return False
    if threading.current_thread() is not threading.main_thread():  # nothing comes from outside there
        return False
    if isinstance(error, GeneratorExit):
        return not _has_running_loop()
    return signal.getsignal(signal.SIGINT) is signal.default_int_handler


def _has_running_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def drop_cancellations(run: BatchRun) -> None:
    """Forget the cancellations that a handler has left with the task that called it: they were none of ours."""
    task = current_task()
    if run.is_given_up or not task.cancelling():
        return
    while task.uncancel():
        pass
    try:
        await asyncio.sleep(0)  # one that was asked for and not thrown yet
    except asyncio.CancelledError:
        if run.is_given_up:
            raise


def current_task() -> "asyncio.Task[object]":
    """Return the task that this is called in."""
    task = asyncio.current_task()
    assert task is not None
    return task


def enter_call(handler: str, warned: set[str]) -> Call:
    """Return a new call of `handler`, which is the current one of this task or thread from here on."""
    call, before = Call(handler, warned), current_call.get()
    current_call.set(call)
    if before is None:
        call.clean = copy_context()
        call.decimals = decimals_of(call.clean)
    else:  # by now this context may be what a handler has left
        call.clean, call.decimals = before.clean, before.decimals
        call.clean.run(current_call.set, call)
        now = copy_context()
        if is_same(now, call.clean):  # then the two are compared by one look each time, as they share what they hold
            call.clean = now
    return call


class YieldPoint:
    """Gives the event loop a turn now and then, for handlers that never wait for anything."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = time.monotonic()

    async def take(self) -> None:
        """Let others run, where they have waited for 50 ms."""
        if time.monotonic() - self._last > _BREATH_SECONDS:
            await asyncio.sleep(0)
            self._last = time.monotonic()
