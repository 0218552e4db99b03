"""THE loop: poll -> decode -> handle -> commit, a batch at a time, for one cursor."""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from pspf import faults
from pspf.clock import Clock, SystemClock
from pspf.connectors.base import Broker, Consumer
from pspf.context import StateSource
from pspf.errors import BackendUnavailable, HandlerCrashed
from pspf.execution import make_executor
from pspf.processing.batch_run import BatchRun
from pspf.processing.batch_size import BatchSize
from pspf.processing.batch_state import BatchState, StoreState
from pspf.processing.held_back import HeldBack
from pspf.processing.narration import Narrator
from pspf.processing.stop import Backoff, SoloGate, Stop
from pspf.records import Batch, Commit, NewRecord, Record
from pspf.schema import make_decoder
from pspf.settings import Settings
from pspf.state.base import StateStore
from pspf.subscription import Subscription, Takes
from pspf.telemetry import TelemetryManager

logger = logging.getLogger(__name__)

_POLL_MS: Final = 5_000
_EMPTY: Final = Batch((), 0)


@dataclass(frozen=True, slots=True)
class Tuning:
    """The numbers of the loop. Times are milliseconds, sizes bytes."""

    smallest_batch: int = 10
    largest_batch: int = 1_000
    target_commit_ms: int = 100
    batch_operations: int = 5_000
    batch_effect_bytes: int = 4 << 20
    record_operations: int = 50_000
    record_effect_bytes: int = 32 << 20
    state_cache_keys: int = 100_000
    max_crashes: int = 3
    max_held_back: int = 1_000

    @classmethod
    def from_settings(cls, settings: Settings) -> "Tuning":
        """Return the numbers in force."""
        return cls(
            smallest_batch=settings.MIN_BATCH_RECORDS,
            largest_batch=settings.MAX_BATCH_RECORDS,
            target_commit_ms=settings.TARGET_COMMIT_MS,
            batch_operations=settings.MAX_OPERATIONS,
            batch_effect_bytes=settings.MAX_EFFECT_BYTES,
            record_operations=settings.MAX_RECORD_OPERATIONS,
            record_effect_bytes=settings.MAX_RECORD_EFFECT_BYTES,
            state_cache_keys=settings.STATE_CACHE_KEYS,
            max_crashes=settings.MAX_CRASHES,
            max_held_back=settings.MAX_HELD_BACK,
        )


@dataclass(slots=True)
class _Around:
    """What the contexts of one cursor share."""

    default_topic: str
    max_operations: int
    max_effect_bytes: int
    state: StateSource | None
    no_state: str
    broker: Broker
    telemetry: TelemetryManager

    def check(self, record: NewRecord) -> None:
        self.broker.limits.check(record)

    def inject(self, headers: dict[str, str] | None) -> dict[str, str] | None:
        return self.telemetry.inject(headers)


@dataclass(slots=True)
class BatchProcessor:
    """Runs cursors. One per Stream: all its loops share the gate, the numbers and the instruments."""

    telemetry: TelemetryManager
    default_topic: str
    tuning: Tuning = field(default_factory=Tuning)
    clock: Clock = field(default_factory=SystemClock)
    gate: SoloGate = field(default_factory=SoloGate)
    state_store: StateStore | None = None

    async def run(self, subscription: Subscription, broker: Broker, consumer: Consumer, stop: Stop) -> None:
        """Process a cursor until `stop` is set, then give it back.

        Raises:
            CommitFenced: Another worker owns the cursor by now, or it was moved; what was in hand
                had no effect.
        """
        loop = _CursorLoop(self, subscription, broker, consumer, stop)
        try:
            await loop.run()
        finally:
            loop.close()
            await asyncio.shield(consumer.release())


class _CursorLoop:
    """One cursor in the loop's hands."""

    def __init__(
        self, processor: BatchProcessor, subscription: Subscription, broker: Broker, consumer: Consumer, stop: Stop
    ) -> None:
        tuning = processor.tuning
        self._processor = processor
        self._tuning = tuning
        self._subscription = subscription
        self._consumer = consumer
        self._stop = stop
        self._narrator = Narrator(subscription)
        self._held = None if consumer.lease is None else HeldBack(consumer.lease.held, consumer.lease.position)
        self._state = self._make_state(processor.state_store)
        self._size = BatchSize(
            fixed=subscription.batch_size,
            smallest=tuning.smallest_batch,
            largest=tuning.largest_batch,
            target_ms=tuning.target_commit_ms,
        )
        around = _Around(
            processor.default_topic,
            tuning.record_operations,
            tuning.record_effect_bytes,
            None if subscription.handler.takes is Takes.BATCH else self._state,
            _why_no_state(subscription),
            broker,
            processor.telemetry,
        )
        self._executor = make_executor(subscription, make_decoder(subscription.model), around)
        self._last = _EMPTY
        self._left: Sequence[Record] = ()
        self._run: BatchRun | None = None
        self._upcoming: asyncio.Task[Batch] | None = None
        stop.add(self._close_run)

    def _make_state(self, store: StateStore | None) -> BatchState | StoreState | None:
        """Return where `ctx.state` is: in the cursor (ordered), in the user's store (shared), nowhere."""
        if self._consumer.lease is not None:
            return BatchState(self._consumer.read_state, self._tuning.state_cache_keys)
        return None if store is None else StoreState(store, self._subscription.name)

    async def run(self) -> None:
        batch = await self._next()
        while not self._stop.is_set:
            self._read_ahead()
            started = time.monotonic()
            commit = await self._handle(batch)
            await self._commit(commit)
            self._size.learn(len(batch.records), (time.monotonic() - started) * 1000)
            batch = await self._next()

    # Reading

    def _read_ahead(self) -> None:
        """Start the next read, unless one record at a time is all that this worker should take."""
        if self._upcoming is None and not self._left and not (self._size.is_slow and self._held is None):
            self._upcoming = asyncio.create_task(self._poll(), name=f"poll {self._consumer.cursor}")

    async def _next(self) -> Batch:
        """Return what is left of the last batch, else what was read ahead."""
        if self._left:
            left, self._left = self._left, ()
            return self._last._replace(records=left)
        upcoming = self._upcoming or asyncio.create_task(self._poll(), name=f"poll {self._consumer.cursor}")
        self._upcoming = upcoming
        self._stop.add(self._stop_reading)
        try:
            self._last = await upcoming
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._stop.is_set or (task is not None and task.cancelling()):
                raise
            return _EMPTY
        finally:
            self._stop.remove(self._stop_reading)
            self._upcoming = None
        return self._last

    def _stop_reading(self) -> None:
        if self._upcoming is not None:
            self._upcoming.cancel()

    async def _poll(self) -> Batch:
        backoff = Backoff()
        while True:
            is_full = self._held is not None and len(self._held) >= self._tuning.max_held_back
            try:
                return await self._consumer.poll(
                    max_records=self._size.records, timeout_ms=_POLL_MS, retries_only=is_full
                )
            except BackendUnavailable as error:
                await self._wait(backoff, "read", error)

    # Handling

    async def _handle(self, batch: Batch) -> Commit | None:
        """Run a batch's handlers; return its commit, None where there is nothing to commit."""
        if not batch.records:
            return None
        run = self._run = self._begin(batch)
        if batch.crashes >= self._tuning.max_crashes:
            run.fail(batch.records[0], _crashed(self._subscription, batch.crashes))
            taken = len(batch.records)
        elif batch.suspect:
            await self._consumer.intend([record.offset for record in batch.records])
            gate = self._processor.gate.alone() if len(batch.records) == 1 else self._processor.gate.together()
            async with gate:
                taken = await self._executor.run(batch.records, run)
        else:
            async with self._processor.gate.together():
                taken = await self._executor.run(batch.records, run)
        self._left = batch.records[taken:]
        commit = run.as_commit(batch.records[:taken], self._left, whole=self._subscription.handler.takes is Takes.BATCH)
        faults.reach("commit.built")
        return commit

    def _begin(self, batch: Batch) -> BatchRun:
        if self._state is not None and self._subscription.handler.takes_context:
            self._state.begin([record.raw_key for record in batch.records])
        run = BatchRun(
            self._subscription,
            batch,
            held=self._held,
            state=self._state,
            clock=self._processor.clock,
            max_operations=self._tuning.batch_operations,
            max_effect_bytes=self._tuning.batch_effect_bytes,
        )
        run.is_closed = self._stop.is_set
        return run

    def _close_run(self) -> None:
        if self._run is not None:
            self._run.is_closed = True

    # Committing

    async def _commit(self, commit: Commit | None) -> None:
        """Commit, and again while it is not known whether it was; then tell what happened."""
        run = self._run
        if commit is None or run is None:
            return
        backoff = Backoff()
        if self._state is not None:
            await self._state.write()
        while True:
            try:
                lost = await self._consumer.commit(commit)
                break
            except BackendUnavailable as error:
                await self._wait(backoff, "commit", error)
        if self._state is not None:
            self._state.settle()
        self._run = None
        self._narrator.tell(run.failures, lost)
        self._processor.telemetry.record_batch(
            self._subscription.topic,
            self._subscription.group,
            self._subscription.name,
            processed=len(commit.done) - len(commit.dead) - len(lost),
            failed=len(run.failures),
            retried=sum(1 for failure in run.failures if failure.retry_ms is not None),
            dead=len(commit.dead),
            commit_ms=self._processor.clock.now_ms(),
        )

    async def _wait(self, backoff: Backoff, doing: str, error: BackendUnavailable) -> None:
        if backoff.is_first:
            logger.warning("%s: can't %s, will try again: %s", self._consumer.cursor, doing, error)
        await asyncio.sleep(backoff.next_ms() / 1000)

    def close(self) -> None:
        """Let go of what was read ahead."""
        self._stop.remove(self._close_run)
        self._stop_reading()


def _why_no_state(subscription: Subscription) -> str:
    if subscription.handler.takes is Takes.BATCH:
        return f"handler {subscription.name} takes whole batches, and state belongs to a key: take one event at a time"
    return f'handler {subscription.name} is not ordered, and state is: subscribe(..., ordering="key")'


def _crashed(subscription: Subscription, crashes: int) -> HandlerCrashed:
    return HandlerCrashed(
        f"{subscription.name} ended its process {crashes} times at this record, with nothing else running"
    )
