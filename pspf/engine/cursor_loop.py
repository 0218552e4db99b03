"""Loop of a cursor: poll -> decode -> handle -> commit, a batch at a time."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from pspf import faults
from pspf.concurrency.shielding import end
from pspf.engine.batch_outcome import BatchRun
from pspf.engine.commits import CursorCommits
from pspf.engine.crash_intent import Intent
from pspf.engine.cursor_scope import CursorScope
from pspf.engine.failure_log import fields_of
from pspf.engine.handlers.executor import drop_cancellations
from pspf.engine.solo_gate import SoloGate
from pspf.engine.stop import Stop
from pspf.errors import BackendUnavailable, CommitStale, HandlerCrashed
from pspf.loggers import get_logger
from pspf.records import Batch, Commit, Cursor, Record
from pspf.subscription import Subscription, Takes
from pspf.windowing.spans import NEVER

logger = get_logger(__name__)


class CursorLoop:
    """The loop of one cursor.

        reading --a batch--> waiting for its turn --the gate--> handling --all taken, or cut--> committing
           ^                                                       ^                                 |
           |                                                       +---records are left of it--------+
           +----------------------------------------------------------------------nothing is left----+

    One batch is read ahead while the one before is handled. In shared mode on a remote broker a commit goes on beside
    the next batch.
    """

    def __init__(self, scope: CursorScope, gate: SoloGate, stop: Stop) -> None:
        self.cursor = cursor = scope.consumer.cursor
        self._scope = scope
        self._gate = gate
        self._tuning = scope.tuning
        self._subscription = subscription = scope.subscription
        self._consumer = scope.consumer
        self._stop = stop
        self._insist = scope.insist
        self._wake = scope.wake
        self._held = scope.held
        self._intent = Intent(scope.consumer, scope.insist)
        self._state = scope.make_state()
        self._uses_state = self._state if subscription.handler.takes_context else None
        self._steps = scope.make_steps(lambda commit: self._commits.keep_step(commit))
        if self._steps is not None:
            self._steps.on_refusal = self._give_up_run
        self._executor = scope.make_executor(self._state, self._steps)
        self._size = scope.make_size()
        self._activity = scope.telemetry.enter(
            cursor.topic, cursor.group, subscription.name, cursor.partition, (cursor.topic, *subscription.beside)
        )
        self._reads = scope.make_reads(self._executor, self._size, self._activity, lambda: self.due_ms)
        self._commits = CursorCommits(scope, self._state, self._activity)
        self._last: Batch
        self._left: Sequence[Record] = ()
        self._taken = 0
        """How many records of the last batch were handled."""
        self._is_cut = False
        """Whether that batch ended because its time was up."""
        self._limit_s = None if self._size.limit_ms is None else self._size.limit_ms / 1000
        self._run: BatchRun | None = None
        self._is_given_up = False
        stop.add(self._on_stop)

    @property
    def is_refused(self) -> bool:
        """Whether the broker takes nothing of this cursor at the moment."""
        return self._insist.is_failing

    async def run_apart(self) -> None:
        """Run in a task of its own, which only this method cancels.

        That distinguishes a cancellation that a handler leaves with its task from one that is meant: time-outs of
        older libraries leave theirs counted.

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
            await end(task)
            raise
        if task.cancelled() and not self._scope.is_abandoned:
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
        await self._commits.wait()

    @asynccontextmanager
    async def _turn(self, batch: Batch) -> AsyncIterator[None]:
        """Hold a batch's turn until it is committed: a record that was about to run when a process ended runs alone.

        The records that ran beside it do not: after a crash every cursor reads first what its batch was then.
        """
        gate, activity = self._gate, self._activity
        activity.batch = batch.records
        crashes = batch.crashes or self._executor.crashes
        activity.waits_alone = 0 < crashes < self._tuning.max_crashes  # at that it is dead, and does not run
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
        cursor, batch = self.cursor, self._activity.batch
        suspect = "a timer" if self._executor.crashes or not batch else batch[0].id
        logger.warning(
            "%s: %s, which may have ended the process before, %s", cursor, suspect, text, extra=fields_of(cursor)
        )

    async def _read_ahead(self, in_hand: int) -> None:
        if not self._left:
            await self._reads.go_ahead(in_hand)

    async def _next(self) -> Batch:
        """Return the rest of the last batch, else the one that was read; an empty one where something else woke it."""
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
            if not self._executor.has_work and self._state_due_ms > self._scope.clock.now_ms():
                return None
            if self._held is not None:  # nothing was read, be it that a poll said so or none was asked
                batch = Batch((), self._held.position)
        run = self._run = self._begin(batch)
        self._activity.handling_since_ms = _now_ms()
        if batch.crashes >= self._tuning.max_crashes:
            run.fail(batch.records[0], _crashed(self._subscription, batch.crashes))
            taken = len(batch.records)
        elif not await self._executor.prepare(batch.records, run):
            taken = 0
        else:
            if batch.crashes:
                self._tell_of_suspect(f"and so far {batch.crashes} of {self._tuning.max_crashes} times, runs again")
            if batch.suspect:
                await self._intent.note(batch.records)
            begun_ns = time.monotonic_ns()
            taken = await self._run_with_steps(batch.records, run)
            run.handler_us = (time.monotonic_ns() - begun_ns) // 1000
        if self._is_given_up:
            raise asyncio.CancelledError  # a handler has swallowed it; what it did is not to count
        await drop_cancellations(run)
        run.taken = self._taken = taken
        self._is_cut = run.is_cut
        self._left = self._give_back(batch.records[taken:], run)
        if self._uses_state is not None:
            await self._uses_state.prepare()
        if not taken and not run.failures and run.progress is None and not self._frees_state:
            return None
        commit = run.as_commit(batch.records[:taken], self._left, whole=self._subscription.handler.takes is Takes.BATCH)
        faults.reach("commit.built")
        return commit

    async def _run_with_steps(self, records: Sequence[Record], run: BatchRun) -> int:
        """Run records; return how many were taken.

        Raises:
            CommitFenced: A step could not be kept, as the cursor is another owner's or was moved. Nothing of the batch
                takes effect, and no record is charged.
        """
        steps = self._steps
        if steps is None:
            return await self._run_in_time(records, run)
        await steps.load(self._is_unfinished)
        try:
            return await self._run_in_time(records, run)
        except BaseException:
            if steps.error is not None:  # calls side by side raise it in a group
                raise steps.error from None
            raise

    def _is_unfinished(self, topic: str, offset: int) -> bool:
        assert self._held is not None
        offset = self._consumer.place_of(topic, offset)
        return offset >= self._held.position or self._held.is_waiting(offset)

    def _give_up_run(self) -> None:
        if self._run is not None:
            self._run.give_up()

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
        if self._uses_state is not None:
            self._uses_state.begin([record.raw_key for record in batch.records])
        run = BatchRun(
            self._subscription,
            batch,
            held=self._held,
            state=self._state,
            clock=self._scope.clock,
            limits=self._tuning.effects,
            steps=self._steps,
        )
        if self._stop.is_set:
            run.end()
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

    async def _commit(self, commit: Commit | None) -> None:
        await self._intent.settle()
        run, self._run = self._run, None
        self._activity.handling_since_ms = None
        await self._commits.add(commit, run)

    # Ending

    def finish(self) -> None:
        """Close the windows that are open, where there are any."""
        self._executor.finish()

    @property
    def due_ms(self) -> int:
        """The wall-clock time at which its operator has something to do, or a value of its state expires."""
        return min(self._executor.due_ms, self._state_due_ms)

    @property
    def _state_due_ms(self) -> int:
        return NEVER if self._uses_state is None else self._uses_state.due_ms

    @property
    def _frees_state(self) -> bool:
        return self._uses_state is not None and self._uses_state.frees

    @property
    def waiting_cursors(self) -> Sequence[Cursor]:
        """Its cursors whose next records wait for those of a slower topic."""
        return self._consumer.waiting_cursors

    @property
    def is_at_rest(self) -> bool:
        """Whether no batch runs and its read waits within its time."""
        if self._run is not None or self._left or self._executor.has_work:
            return False
        return self._commits.are_done and self._reads.are_waiting

    def _on_stop(self) -> None:
        if self._run is not None:
            self._run.end()
        self._wake.set()

    async def close(self) -> None:
        """End the read that is under way, and give the cursor back."""
        self._stop.remove(self._on_stop)
        self._scope.telemetry.leave(self._activity)
        await self._reads.close()
        if self._steps is not None:
            await self._steps.close()
        await self._commits.close()
        if self._scope.is_abandoned:
            return
        try:
            await self._consumer.release()
        except BackendUnavailable as error:  # the assignment tries again; a shared one ends with its session
            cursor = self._consumer.cursor
            logger.warning("%s: can't give it back now: %s", cursor, error, extra=fields_of(cursor))


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def _crashed(subscription: Subscription, crashes: int) -> HandlerCrashed:
    return HandlerCrashed(
        f"{subscription.name} ended its process {crashes} times at this record, with nothing else running"
    )
