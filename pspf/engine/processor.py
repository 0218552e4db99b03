"""THE loop: poll -> decode -> handle -> commit, a batch at a time, for one cursor."""

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from pspf import faults
from pspf.clock import Clock, SystemClock
from pspf.concurrency.shielding import shielded
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.cursors import Consumer
from pspf.engine.batch_outcome import BatchRun
from pspf.engine.batch_size import BatchSize
from pspf.engine.broker_retry import BrokerRetry
from pspf.engine.crash_intent import Intent
from pspf.engine.cursor_scope import CursorScope
from pspf.engine.failure_log import FailureLog, fields_of
from pspf.engine.handlers.executor import drop_cancellations
from pspf.engine.key_order import KeyOrder
from pspf.engine.prefetch import Prefetch
from pspf.engine.solo_gate import SoloGate
from pspf.engine.stop import Stop
from pspf.engine.tuning import Tuning
from pspf.errors import BackendUnavailable, CommitStale, HandlerCrashed
from pspf.loggers import get_logger
from pspf.observability.telemetry import BatchTimes, TelemetryManager
from pspf.records import Batch, Commit, Cursor, Record
from pspf.state.base import StateStore
from pspf.subscription import Subscription, Takes
from pspf.windowing.spans import NEVER

logger = get_logger(__name__)

_CHANCE_S: Final = 1.0
"""What a suspect waits for at most, drawn by lot, before it asks to be alone."""


@dataclass(slots=True)
class BatchProcessor:
    """Runs cursors. One per Stream: all its loops share the gate, the numbers and the instruments."""

    telemetry: TelemetryManager
    default_topic: str
    tuning: Tuning = field(default_factory=Tuning)
    clock: Clock = field(default_factory=SystemClock)
    gate: SoloGate = field(default_factory=lambda: SoloGate(chance_s=_CHANCE_S))
    state_store: StateStore | None = None
    warned: set[str] = field(default_factory=set)
    """The handlers that were told that they emit past their commit."""
    is_abandoned: bool = False
    """Whether cursors are left as a killed process leaves them, instead of given back."""
    ends_on_refusal: bool = False
    """Whether a handler that can't read its state ends the app, instead of standing still alone."""
    _loops: "set[_CursorLoop]" = field(default_factory=set)

    @property
    def due_ms(self) -> int:
        """The wall-clock time at which the next operator has something to do."""
        return min((loop.due_ms for loop in self._loops), default=NEVER)

    @property
    def is_at_rest(self) -> bool:
        """Whether every loop waits for its broker to have something for it, or for the clock."""
        return all(loop.is_at_rest for loop in self._loops)

    def finish(self, cursors: Collection[Cursor] | None = None) -> None:
        """Close the windows that are open on the cursors in hand, or on some of them, as at the end of the input."""
        for loop in self._loops:
            if cursors is None or loop.cursor in cursors:
                loop.finish()

    @property
    def is_refused(self) -> bool:
        """Whether the broker takes nothing of a cursor in hand at the moment."""
        return any(loop.is_refused for loop in self._loops)

    async def run(self, subscription: Subscription, broker: Broker, consumer: Consumer, stop: Stop) -> None:
        """Process a cursor until `stop` is set, then give it back.

        Raises:
            CommitFenced: Another worker owns the cursor by now, or it was moved; what was in hand
                had no effect.
        """
        loop = _CursorLoop(self, subscription, broker, consumer, stop)
        self._loops.add(loop)
        try:
            await loop.run_apart()
        finally:
            self._loops.discard(loop)
            await shielded(loop.close())


class _CursorLoop:
    """One cursor in the loop's hands."""

    def __init__(
        self, processor: BatchProcessor, subscription: Subscription, broker: Broker, consumer: Consumer, stop: Stop
    ) -> None:
        tuning = processor.tuning
        self.cursor = cursor = consumer.cursor
        self._processor = processor
        self._tuning = tuning
        self._subscription = subscription
        self._consumer = consumer
        self._stop = stop
        self._narrator = FailureLog(subscription)
        self._insist = BrokerRetry(cursor, lambda: processor.is_abandoned, broker.outage)
        self._intent = Intent(consumer, self._insist)
        self._wake = asyncio.Event()
        """There is something to do: a read has ended, a late outcome is known, it is to stop."""
        self._held = None if consumer.lease is None else KeyOrder(consumer.lease.held, consumer.lease.position)
        wiring = CursorScope(
            subscription,
            broker,
            consumer,
            tuning,
            processor.clock,
            processor.telemetry,
            processor.default_topic,
            processor.warned,
            self._held,
            self._insist,
            self._wake.set,
        )
        self._state = wiring.make_state(processor.state_store)
        self._executor = wiring.make_executor(self._state)
        self._size = BatchSize(
            fixed=subscription.batch_size,
            smallest=tuning.smallest_batch,
            largest=tuning.largest_batch if subscription.operator is None else tuning.largest_window_batch,
            target_ms=tuning.target_commit_ms,
            most_bytes=tuning.batch_bytes,
        )
        self._activity = processor.telemetry.enter(cursor.topic, cursor.group, subscription.name, cursor.partition)
        self._reads = Prefetch(
            consumer,
            self._executor,
            self._size,
            self._held,
            tuning.max_held_back,
            processor.clock,
            self._activity,
            self._insist,
            self._wake,
        )
        self._last: Batch
        self._left: Sequence[Record] = ()
        self._taken = 0
        """How many records of the last batch were handled."""
        self._is_cut = False
        """Whether that batch ended because its time was up."""
        self._limit_s = None if self._size.limit_ms is None else self._size.limit_ms / 1000
        self._run: BatchRun | None = None
        self._is_given_up = False
        self._committing: asyncio.Task[None] | None = None
        self._commit_name = f"commit {cursor}"
        # In shared mode each record stands for itself, so that the next batch needn't wait for the outcome.
        self._commits_aside = consumer.is_remote and consumer.lease is None and self._state is None
        stop.add(self._on_stop)

    @property
    def is_refused(self) -> bool:
        """Whether the broker takes nothing of this cursor at the moment."""
        return self._insist.is_failing

    async def run_apart(self) -> None:
        """Run in a task of its own, which nobody but this cancels.

        So a cancellation that a handler leaves with its task is told from one that is meant: time-outs of older
        libraries leave theirs counted.

        Raises:
            CommitStale: Something that is not PSPF's has cancelled it between two calls.
        """
        task = asyncio.create_task(self.run(), name=f"{self.cursor}: {self._subscription.name}")
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            self._is_given_up = True
            if self._run is not None:
                self._run.give_up()
            await _end(task)
            raise
        if task.cancelled() and not self._processor.is_abandoned:
            raise CommitStale(f"{self.cursor}: its task was cancelled by a handler, or a library in it")
        task.result()

    async def run(self) -> None:
        batch = await self._next()
        while not self._stop.is_set:
            await self._read_ahead(len(batch.records))
            async with self._turn(batch):
                started = time.monotonic()
                await self._commit(await self._handle(batch))
                elapsed_ms = (time.monotonic() - started) * 1000
                self._size.learn(self._taken, elapsed_ms, is_cut=self._is_cut)
            batch = await self._next()
        await self._committed()

    @asynccontextmanager
    async def _turn(self, batch: Batch) -> AsyncIterator[None]:
        """Hold a batch's turn until it is committed: a record that was about to run when a process ended runs alone.

        What else may have been in hand then does not: after a crash that is all that is read next, everywhere.
        """
        gate, activity = self._processor.gate, self._activity
        activity.batch = batch.records
        activity.waits_alone = 0 < batch.crashes < self._tuning.max_crashes  # at that it is dead, and does not run
        activity.waiting_since_ms = _now_ms()
        try:
            turn = (
                gate.alone(self._tell_of_suspect, self._intent.note_others) if activity.waits_alone else gate.together()
            )
            async with turn as self._intent.is_alone:
                activity.waiting_since_ms = None
                yield
        finally:
            activity.waiting_since_ms = None
            activity.batch = ()

    def _tell_of_suspect(self, text: str) -> None:
        cursor, suspect = self.cursor, self._activity.batch[0]
        logger.warning(
            "%s: %s, which may have ended the process before, %s", cursor, suspect.id, text, extra=fields_of(cursor)
        )

    async def _read_ahead(self, in_hand: int) -> None:
        if not self._left:
            await self._reads.go_ahead(in_hand)

    async def _next(self) -> Batch:
        """Return what is left of the last batch, else what was read; nothing, where that is not why it woke."""
        if self._left:
            left, self._left = self._left, ()
            return self._last._replace(records=left, size_bytes=None)
        self._last = await self._reads.take()
        return self._last

    # Handling

    async def _handle(self, batch: Batch) -> Commit | None:
        """Run a batch's handlers; return its commit, None where there is nothing to commit."""
        self._taken = 0
        if not batch.records:
            await self._executor.on_idle(self._reads.silence)
            if not self._executor.has_work:
                return None
            if self._held is not None:  # nothing was read, be it that a poll said so or none was asked
                batch = Batch((), self._held.position)
        run = self._run = self._begin(batch)
        self._activity.handling_since_ms = _now_ms()
        if batch.crashes >= self._tuning.max_crashes:
            run.fail(batch.records[0], _crashed(self._subscription, batch.crashes))
            taken = len(batch.records)
        else:
            if batch.crashes:
                self._tell_of_suspect(f"and so far {batch.crashes} of {self._tuning.max_crashes} times, runs again")
            if batch.suspect:
                await self._intent.note(batch.records)
            begun_ns = time.monotonic_ns()
            taken = await self._run_in_time(batch.records, run)
            run.handler_us = (time.monotonic_ns() - begun_ns) // 1000
        if self._is_given_up:
            raise asyncio.CancelledError  # a handler has swallowed it; what it did is not to count
        await drop_cancellations(run)
        run.taken = self._taken = taken
        self._is_cut = run.is_cut
        self._left = self._give_back(batch.records[taken:], run)
        if not taken and not run.failures and run.windows is None:
            return None
        commit = run.as_commit(batch.records[:taken], self._left, whole=self._subscription.handler.takes is Takes.BATCH)
        faults.reach("commit.built")
        return commit

    async def _run_in_time(self, records: Sequence[Record], run: BatchRun) -> int:
        """Run records until their time is up; return how many were taken."""
        if self._limit_s is None or not self._executor.can_be_cut:
            return await self._executor.run(records, run)
        limit = asyncio.get_running_loop().call_later(self._limit_s, run.cut)
        try:
            return await self._executor.run(records, run)
        finally:
            limit.cancel()

    def _give_back(self, left: Sequence[Record], run: BatchRun) -> Sequence[Record]:
        """Return which of the records not started to keep; others of a shared cursor go to any worker."""
        if not run.is_cut or not run.taken or self._held is not None:
            return left
        kept = self._size.fitting(run.taken, run.handler_us / 1000)
        for record in left[kept:]:
            run.put_off(record, 0, "given back: its batch took too long")
        return left[:kept]

    def _begin(self, batch: Batch) -> BatchRun:
        if self._state is not None and self._subscription.handler.takes_context:
            self._state.begin([record.raw_key for record in batch.records])
        run = BatchRun(
            self._subscription,
            batch,
            held=self._held,
            state=self._state,
            clock=self._processor.clock,
            limits=self._tuning.effects,
        )
        run.is_closed = self._stop.is_set
        run.on_overdue = self._note_overdue
        return run

    def _note_overdue(self, calls: int) -> None:
        activity = self._activity
        if calls and activity.overdue_since_ms is None:
            activity.overdue_since_ms = _now_ms()
            logger.error(
                "%s: %s goes on although its time is up and it was cancelled; nothing else of this batch runs",
                self.cursor,
                self._subscription.name,
                extra=fields_of(self.cursor),
            )
        elif not calls:
            activity.overdue_since_ms = None

    # Committing

    async def _commit(self, commit: Commit | None) -> None:
        """Commit, behind the commit before. Where that is sure to matter to no later batch, it goes on beside them."""
        await self._intent.settle()
        run, self._run = self._run, None
        self._activity.handling_since_ms = None
        if commit is not None or (self._committing is not None and self._committing.done()):
            await self._committed()
        if commit is None or run is None:
            return
        if not self._commits_aside or run.batch.suspect:
            await self._finish(commit, run)
        else:
            self._committing = asyncio.create_task(self._finish(commit, run), name=self._commit_name)
            self._committing.add_done_callback(self._on_committed)

    def _on_committed(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # seen, should nobody ask for the result any more
        self._wake.set()

    async def _committed(self) -> None:
        """Wait for the commit that is under way, and raise what it raised."""
        committing, self._committing = self._committing, None
        if committing is not None:
            await committing

    async def _finish(self, commit: Commit, run: BatchRun) -> None:
        """Commit, and again while it is not known whether it was; then tell what happened."""
        begun_ns = time.monotonic_ns()
        self._activity.committing_since_ms = begun_ns // 1_000_000
        lost = await self._insist("commit", lambda: self._write(commit))
        self._activity.committing_since_ms = None
        commit_us = (time.monotonic_ns() - begun_ns) // 1000
        if self._state is not None:
            self._state.settle()
        self._narrator.tell(run.failures, lost)
        gone = set(lost)
        failures = [failure for failure in run.failures if failure.record.offset not in gone]
        dead = sum(1 for failure in failures if failure.retry_ms is None)
        dead_records = dead - sum(1 for failure in failures if failure.is_result)
        finished = len(commit.done) - len(gone.intersection(commit.done))
        now_ms = self._processor.clock.now_ms()
        self._processor.telemetry.record_batch(
            self._subscription.topic,
            self._subscription.group,
            self._subscription.name,
            processed=finished - dead_records - run.passed,
            failed=len(failures),
            retried=len(failures) - dead,
            dead=dead,
            late=run.late,
            commit_ms=now_ms,
            times=_times_of(run, commit_us, finished, now_ms),
            emits={emit.topic for emit in commit.emits} if commit.emits else (),
        )

    async def _write(self, commit: Commit) -> Sequence[int]:
        if self._state is not None:
            await self._state.write()
        return await self._consumer.commit(commit)

    # Ending

    def finish(self) -> None:
        """Close the windows that are open, where there are any."""
        self._executor.finish()

    @property
    def due_ms(self) -> int:
        """The wall-clock time at which its operator has something to do."""
        return self._executor.due_ms

    @property
    def is_at_rest(self) -> bool:
        """Whether it has nothing in hand and waits for a read whose time is not up."""
        if self._run is not None or self._left or self._executor.has_work:
            return False
        if self._activity.committing_since_ms is not None:
            return False
        is_committed = self._committing is None or self._committing.done()
        return is_committed and self._reads.are_waiting

    def _on_stop(self) -> None:
        if self._run is not None:
            self._run.is_closed = True
        self._wake.set()

    async def close(self) -> None:
        """End the read that is under way, and give the cursor back."""
        self._stop.remove(self._on_stop)
        self._processor.telemetry.leave(self._activity)
        await self._reads.close()
        if self._committing is not None:  # given up half-way
            self._committing.cancel()
            await asyncio.wait([self._committing])
        if self._processor.is_abandoned:
            return
        try:
            await self._consumer.release()
        except BackendUnavailable as error:  # the assignment tries again; a shared one ends with its session
            cursor = self._consumer.cursor
            logger.warning("%s: can't give it back now: %s", cursor, error, extra=fields_of(cursor))


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def _times_of(run: BatchRun, commit_us: int, finished: int, now_ms: int) -> BatchTimes:
    if not run.taken:  # windows that closed, or one that is dead before it ran
        return BatchTimes(0, 0, commit_us, 0, 0, 0)
    first, last = run.batch.records[0], run.batch.records[run.taken - 1]
    handled = run.taken - len(run.unseen) - run.passed
    return BatchTimes(
        handled, run.handler_us, commit_us, finished, now_ms - first.timestamp_ms, now_ms - last.timestamp_ms
    )


async def _end(task: "asyncio.Task[None]") -> None:
    """Cancel a task and wait for its end, however often this is cancelled itself meanwhile."""
    while not task.done():
        task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.wait([task])
    if not task.cancelled():
        task.exception()  # seen: what it raised on its way out is of no more use


def _crashed(subscription: Subscription, crashes: int) -> HandlerCrashed:
    return HandlerCrashed(
        f"{subscription.name} ended its process {crashes} times at this record, with nothing else running"
    )
