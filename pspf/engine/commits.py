"""Commits of a cursor, in order; a batch is counted once the broker has stored its commit."""

import asyncio
import time
from collections.abc import Sequence

from pspf.engine.batch_outcome import BatchRun
from pspf.engine.batch_state import BatchState, StoreState
from pspf.engine.cursor_scope import CursorScope
from pspf.engine.failure_log import FailureLog
from pspf.observability.telemetry import Activity, BatchTimes
from pspf.records import Commit


class CursorCommits:
    """Writes what the batches of one cursor did.

    In shared mode on a remote broker each record stands for itself, so that a commit goes on beside the next batch:
    nothing in that depends on the outcome. Elsewhere `add` returns when the commit is written.
    """

    def __init__(self, scope: CursorScope, state: BatchState | StoreState | None, activity: Activity) -> None:
        self._scope = scope
        self._consumer = scope.consumer
        self._insist = scope.insist
        self._state = state
        self._activity = activity
        self._failures = FailureLog(scope.subscription)
        self._runs_aside = scope.consumer.is_remote and scope.consumer.lease is None and state is None
        self._under_way: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        """Held by a commit of an ordered cursor: those of steps and of the batch come one after the other."""
        self._task_name = f"commit {scope.consumer.cursor}"

    @property
    def are_done(self) -> bool:
        """Whether no commit is under way."""
        if self._activity.committing_since_ms is not None:
            return False
        return self._under_way is None or self._under_way.done()

    async def add(self, commit: Commit | None, run: BatchRun | None) -> None:
        """Commit what a batch did, behind the commit before; None where there is nothing to commit."""
        if commit is not None or (self._under_way is not None and self._under_way.done()):
            await self.wait()
        if commit is None or run is None:
            return
        if not self._runs_aside or run.batch.suspect:
            await self._finish(commit, run)
        else:
            self._under_way = asyncio.create_task(self._finish(commit, run), name=self._task_name)
            self._under_way.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # retrieved, in case no task asks for the result
        self._scope.wake.set()

    async def wait(self) -> None:
        """Wait for the commit that is under way, and raise what it raised."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            await under_way

    async def close(self) -> None:
        """Give up the commit that is under way."""
        if self._under_way is not None:
            self._under_way.cancel()
            await asyncio.wait([self._under_way])

    async def _finish(self, commit: Commit, run: BatchRun) -> None:
        """Commit, and again while the outcome is unknown; then log and count what happened."""
        begun_ns = time.monotonic_ns()
        self._activity.committing_since_ms = begun_ns // 1_000_000
        async with self._turn:
            lost = await self._insist("commit", lambda: self._write(commit))
        self._activity.committing_since_ms = None
        commit_us = (time.monotonic_ns() - begun_ns) // 1000
        if self._state is not None:
            self._state.settle()
        if run.steps is not None:
            run.steps.settle(commit.done)
        self._failures.tell(run.failures, lost)
        if run.failures and self._scope.on_failures is not None:
            self._scope.on_failures(run.failures)
        self._count(commit, run, lost, commit_us)

    async def keep_step(self, commit: Commit) -> None:
        """Commit the result of a step, apart from its batch.

        Raises:
            CommitFenced: The cursor is another owner's, or was moved; nothing was written.
        """
        async with self._turn:
            await self._insist("keep a step", lambda: self._consumer.commit(commit))

    async def _write(self, commit: Commit) -> Sequence[int]:
        if self._state is not None:
            await self._state.write()
        return await self._consumer.commit(commit)

    def _count(self, commit: Commit, run: BatchRun, lost: Sequence[int], commit_us: int) -> None:
        """Add a batch to the counters; `lost` are the records that were another worker's by then."""
        gone = set(lost)
        failures = [failure for failure in run.failures if failure.record.offset not in gone]
        dead = sum(1 for failure in failures if failure.retry_ms is None)
        dead_records = dead - sum(1 for failure in failures if failure.is_result)
        finished = len(commit.done) - len(gone.intersection(commit.done))
        now_ms = self._scope.clock.now_ms()
        subscription = self._scope.subscription
        self._scope.telemetry.record_batch(
            subscription.topic,
            subscription.group,
            subscription.name,
            processed=finished - dead_records - run.passed,
            failed=len(failures),
            retried=len(failures) - dead,
            dead=dead,
            late=run.late,
            commit_ms=now_ms,
            times=_times_of(run, commit_us, finished, now_ms),
            emits={emit.topic for emit in commit.emits} if commit.emits else (),
        )


def _times_of(run: BatchRun, commit_us: int, finished: int, now_ms: int) -> BatchTimes:
    if not run.taken:  # windows that closed, or one that is dead before it ran
        return BatchTimes(0, 0, commit_us, 0, 0, 0)
    first, last = run.batch.records[0], run.batch.records[run.taken - 1]
    handled = run.taken - len(run.unseen) - run.passed
    return BatchTimes(
        handled, run.handler_us, commit_us, finished, now_ms - first.timestamp_ms, now_ms - last.timestamp_ms
    )
