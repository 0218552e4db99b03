"""THE loop: poll -> decode -> handle -> commit, a batch at a time, for one cursor."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pspf import faults
from pspf.clock import Clock, SystemClock
from pspf.connectors.base import Broker, Consumer
from pspf.context import StateSource
from pspf.errors import BackendUnavailable, HandlerCrashed
from pspf.execution.choice import make_executor, make_windowed
from pspf.execution.executor import Executor
from pspf.execution.windowed import Room, Windowed
from pspf.processing.batch_run import BatchRun, EffectLimits
from pspf.processing.batch_size import BatchSize
from pspf.processing.batch_state import BatchState, StoreState
from pspf.processing.held_back import HeldBack
from pspf.processing.narration import Narrator, fields_of
from pspf.processing.silence import Silence
from pspf.processing.stop import Backoff, SoloGate, Stop
from pspf.records import Batch, Commit, Cursor, NewRecord, Record
from pspf.schema import make_decoder
from pspf.settings import Settings
from pspf.state.base import StateStore
from pspf.subscription import Subscription, Takes
from pspf.telemetry import BatchTimes, TelemetryManager

if TYPE_CHECKING:
    from pspf.tracing import HandlerSpans

logger = logging.getLogger(__name__)

T = TypeVar("T")

Inject = Callable[[str, dict[str, str] | None], dict[str, str] | None]
"""Gives the headers of an event that is emitted to a topic."""

_CANCEL_S: Final = 0.1
_TURNS_TO_SEND: Final = 2
"""How many turns of the event loop a read takes to be on its way: its task, and the broker's own."""
_EMPTY: Final = Batch((), 0)


@dataclass(frozen=True, slots=True)
class Tuning:
    """The numbers of the loop. Times are milliseconds, sizes bytes."""

    smallest_batch: int = 10
    largest_batch: int = 1_000
    largest_window_batch: int = 5_000
    target_commit_ms: int = 100
    effects: EffectLimits = field(default_factory=EffectLimits)
    state_cache_keys: int = 100_000
    window_cache_states: int = 1_000_000
    max_crashes: int = 3
    max_held_back: int = 1_000

    @classmethod
    def from_settings(cls, settings: Settings) -> "Tuning":
        """Return the numbers in force."""
        return cls(
            smallest_batch=settings.MIN_BATCH_RECORDS,
            largest_batch=settings.MAX_BATCH_RECORDS,
            largest_window_batch=settings.MAX_WINDOW_BATCH_RECORDS,
            target_commit_ms=settings.TARGET_COMMIT_MS,
            effects=EffectLimits(
                operations=settings.MAX_OPERATIONS,
                effect_bytes=settings.MAX_EFFECT_BYTES,
                record_operations=settings.MAX_RECORD_OPERATIONS,
                record_effect_bytes=settings.MAX_RECORD_EFFECT_BYTES,
            ),
            state_cache_keys=settings.STATE_CACHE_KEYS,
            window_cache_states=settings.WINDOW_CACHE_STATES,
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
    warned: set[str]
    broker: Broker
    spans: "HandlerSpans | None"
    inject: Inject

    def check(self, record: NewRecord) -> None:
        self.broker.limits.check(record)


@dataclass(slots=True)
class BatchProcessor:
    """Runs cursors. One per Stream: all its loops share the gate, the numbers and the instruments."""

    telemetry: TelemetryManager
    default_topic: str
    tuning: Tuning = field(default_factory=Tuning)
    clock: Clock = field(default_factory=SystemClock)
    gate: SoloGate = field(default_factory=SoloGate)
    state_store: StateStore | None = None
    warned: set[str] = field(default_factory=set)
    """The handlers that were told that they emit past their commit."""
    is_abandoned: bool = False
    """Whether cursors are left as a killed process leaves them, instead of given back."""
    _loops: "set[_CursorLoop]" = field(default_factory=set)

    @property
    def is_at_rest(self) -> bool:
        """Whether every loop waits for its broker to have something for it, or for the clock."""
        return all(loop.is_at_rest for loop in self._loops)

    def finish(self, cursors: Collection[Cursor] | None = None) -> None:
        """Close the windows that are open on the cursors in hand, or on some of them, as at the end of the input."""
        for loop in self._loops:
            if cursors is None or loop.cursor in cursors:
                loop.finish()

    async def run(self, subscription: Subscription, broker: Broker, consumer: Consumer, stop: Stop) -> None:
        """Process a cursor until `stop` is set, then give it back.

        Raises:
            CommitFenced: Another worker owns the cursor by now, or it was moved; what was in hand
                had no effect.
        """
        loop = _CursorLoop(self, subscription, broker, consumer, stop)
        self._loops.add(loop)
        try:
            await loop.run()
        finally:
            self._loops.discard(loop)
            await asyncio.shield(loop.close())


class _CursorLoop:
    """One cursor in the loop's hands."""

    def __init__(
        self, processor: BatchProcessor, subscription: Subscription, broker: Broker, consumer: Consumer, stop: Stop
    ) -> None:
        tuning = processor.tuning
        self._processor = processor
        self._tuning = tuning
        self._subscription = subscription
        self._broker = broker
        self._consumer = consumer
        self._stop = stop
        self._narrator = Narrator(subscription)
        self._held = None if consumer.lease is None else HeldBack(consumer.lease.held, consumer.lease.position)
        self._state = self._make_state(processor.state_store)
        self._size = BatchSize(
            fixed=subscription.batch_size,
            smallest=tuning.smallest_batch,
            largest=tuning.largest_batch if subscription.windowing is None else tuning.largest_window_batch,
            target_ms=tuning.target_commit_ms,
        )
        around = _Around(
            processor.default_topic,
            tuning.effects.record_operations,
            tuning.effects.record_effect_bytes,
            None if subscription.handler.takes is Takes.BATCH else self._state,
            _why_no_state(subscription),
            processor.warned,
            broker,
            *_make_spans(processor.telemetry, subscription),
        )
        self._wake = asyncio.Event()
        """There is something to do: a read has ended, a late outcome is known, it is to stop."""
        self._executor = self._make_executor(around)
        self._last = _EMPTY
        self._left: Sequence[Record] = ()
        self._run: BatchRun | None = None
        self._committing: asyncio.Task[None] | None = None
        # In shared mode each record stands for itself, so that the next batch needn't wait for the outcome.
        self._commits_aside = consumer.is_remote and consumer.lease is None and self._state is None
        self._upcoming: asyncio.Task[Batch] | None = None
        self._was_full = False
        self._waits_until_ms: int | None = None
        self._silence = Silence()
        self._read_end = 0 if consumer.lease is None else consumer.lease.position
        self.cursor = cursor = consumer.cursor
        self._activity = processor.telemetry.enter(cursor.topic, cursor.group, subscription.name, cursor.partition)
        stop.add(self._on_stop)

    def _make_executor(self, around: _Around) -> Executor:
        subscription = self._subscription
        read = make_decoder(subscription.model)
        if subscription.windowing is None or self._held is None:
            return make_executor(subscription, read, around, self._wake.set)
        room = Room(
            self._consumer,
            self._held,
            self._insist,
            self._processor.clock,
            self._tuning.effects,
            self._tuning.window_cache_states,
            self._wake.set,
        )
        return make_windowed(subscription, read, around, room, self._read_other_times)

    async def _read_other_times(self) -> Mapping[int, int]:
        """Return the watermarks of this handler's cursors on the other partitions, of those that have one."""
        cursor = self._consumer.cursor
        infos = await self._broker.list_cursors(group=cursor.group, topic=cursor.topic)
        return {
            info.cursor.partition: info.watermark_ms
            for info in infos
            if info.cursor.handler == cursor.handler
            and info.cursor.partition != cursor.partition
            and info.watermark_ms is not None
        }

    def _make_state(self, store: StateStore | None) -> BatchState | StoreState | None:
        """Return where `ctx.state` is: in the cursor (ordered), in the user's store (shared), nowhere."""
        if self._consumer.lease is not None:
            return BatchState(self._read_state, self._tuning.state_cache_keys)
        return None if store is None else StoreState(store, self._subscription.name)

    async def run(self) -> None:
        batch = await self._next()
        while not self._stop.is_set:
            await self._read_ahead(len(batch.records))
            async with self._turn(batch):
                started = time.monotonic()
                await self._commit(await self._handle(batch))
                self._size.learn(len(batch.records) - len(self._left), (time.monotonic() - started) * 1000)
            batch = await self._next()
        await self._committed()

    def _turn(self, batch: Batch) -> AbstractAsyncContextManager[None]:
        """Return what to hold until a batch is committed: a record that is alone suspect runs alone."""
        gate = self._processor.gate
        return gate.alone() if batch.suspect and len(batch.records) == 1 else gate.together()

    # Reading

    async def _read_ahead(self, in_hand: int) -> None:
        """Start the next read, unless this worker should take no more before this batch is done."""
        is_slow = self._size.is_slow and self._held is None  # another worker could take what is read
        if not self._left and not is_slow and not self._is_full and self._upcoming is None:
            self._start_reading()
            is_behind = 2 * in_hand >= self._size.records
            if self._consumer.is_remote and is_behind:  # handlers may keep the loop busy: let it be sent before
                for _ in range(_TURNS_TO_SEND):
                    await asyncio.sleep(0)

    def _start_reading(self) -> asyncio.Task[Batch]:
        """Return the read that is under way."""
        if self._upcoming is None:
            self._upcoming = asyncio.create_task(self._poll(), name=f"poll {self._consumer.cursor}")
            self._upcoming.add_done_callback(self._on_done)
        return self._upcoming

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled():
            task.exception()  # seen, should nobody ask for the result any more
        self._wake.set()

    async def _next(self) -> Batch:
        """Return what is left of the last batch, else what was read; nothing, where that is not why it woke."""
        if self._left:
            left, self._left = self._left, ()
            return self._last._replace(records=left)
        upcoming = self._start_reading()
        await self._wake.wait()
        self._wake.clear()
        if not upcoming.done():
            return _EMPTY
        self._upcoming = None
        self._last = upcoming.result()
        return self._last

    @property
    def _is_full(self) -> bool:
        """Whether so much is held back that nothing new is to be read."""
        return self._held is not None and len(self._held) >= self._tuning.max_held_back

    async def _poll(self) -> Batch:
        is_full = self._is_full
        if is_full and not self._was_full:
            logger.warning(
                "%s: %d records are held back; nothing new is read until one of them is done",
                self._consumer.cursor,
                self._tuning.max_held_back,
                extra=fields_of(self._consumer.cursor),
            )
        self._was_full = is_full
        self._activity.reading_since_ms = _now_ms()
        try:
            batch = await self._insist("read", lambda: self._read(retries_only=is_full))
        finally:
            self._activity.reading_since_ms = None
        if is_full or batch.end != self._read_end:  # retries break no silence
            self._silence.end()
        elif not batch.records:
            self._silence.go_on()
        self._read_end = batch.end
        return batch

    async def _read(self, *, retries_only: bool) -> Batch:
        now_ms = self._processor.clock.monotonic_ms()
        self._silence.begin_read(now_ms)
        timeout_ms = self._executor.patience_ms(self._silence, now_ms)
        self._waits_until_ms = now_ms + timeout_ms
        try:
            return await self._consumer.poll(
                max_records=self._size.records, timeout_ms=timeout_ms, retries_only=retries_only
            )
        except BackendUnavailable:
            self._silence.end()
            raise
        finally:
            self._waits_until_ms = None

    async def _read_state(self, keys: Sequence[bytes]) -> Mapping[bytes, Mapping[str, bytes]]:
        # A broker that is away for a moment is no failure of the record.
        return await self._insist("read state", lambda: self._consumer.read_state(keys))

    # Handling

    async def _handle(self, batch: Batch) -> Commit | None:
        """Run a batch's handlers; return its commit, None where there is nothing to commit."""
        if not batch.records:
            await self._executor.notice(self._silence)
            if not self._executor.has_late:
                return None
            if self._held is not None:  # nothing was read, be it that a poll said so or none was asked
                batch = Batch((), self._held.position)
        run = self._run = self._begin(batch)
        self._activity.records = len(batch.records)
        self._activity.handling_since_ms = _now_ms()
        if batch.crashes >= self._tuning.max_crashes:
            run.fail(batch.records[0], _crashed(self._subscription, batch.crashes))
            taken = len(batch.records)
        else:
            if batch.suspect:
                offsets = [record.offset for record in batch.records]
                await self._insist("note what is about to run", lambda: self._consumer.intend(offsets))
            begun_ns = time.monotonic_ns()
            taken = await self._executor.run(batch.records, run)
            run.handler_us = (time.monotonic_ns() - begun_ns) // 1000
        if _is_cancelled():
            raise asyncio.CancelledError  # a handler has swallowed it; what it did is not to count
        run.taken = taken
        self._left = batch.records[taken:]
        if not taken and not run.failures and run.windows is None:
            return None
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
            limits=self._tuning.effects,
        )
        run.is_closed = self._stop.is_set
        return run

    # Committing

    async def _commit(self, commit: Commit | None) -> None:
        """Commit, behind the commit before. Where that is sure to matter to no later batch, it goes on beside them."""
        run, self._run = self._run, None
        self._activity.handling_since_ms = None
        if commit is not None or (self._committing is not None and self._committing.done()):
            await self._committed()
        if commit is None or run is None:
            return
        if not self._commits_aside or run.batch.suspect:
            await self._finish(commit, run)
        else:
            self._committing = asyncio.create_task(self._finish(commit, run), name=f"commit {self._consumer.cursor}")
            self._committing.add_done_callback(self._on_done)

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
        finished = len(commit.done) - len(gone.intersection(commit.done))
        now_ms = self._processor.clock.now_ms()
        self._processor.telemetry.record_batch(
            self._subscription.topic,
            self._subscription.group,
            self._subscription.name,
            processed=finished - dead - run.passed,
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

    async def _insist(self, doing: str, act: Callable[[], Awaitable[T]]) -> T:
        """Do something with the broker, and again while it is not there."""
        if self._processor.is_abandoned:
            raise asyncio.CancelledError  # the handlers of a killed process get nothing done any more
        backoff = Backoff()
        while True:
            try:
                return await act()
            except BackendUnavailable as error:
                if backoff.is_first:
                    cursor = self._consumer.cursor
                    logger.warning("%s: can't %s, will try again: %s", cursor, doing, error, extra=fields_of(cursor))
                await asyncio.sleep(backoff.next_ms() / 1000)

    # Ending

    def finish(self) -> None:
        """Close the windows that are open, where there are any."""
        if isinstance(self._executor, Windowed):
            self._executor.finish()

    @property
    def is_at_rest(self) -> bool:
        """Whether it has nothing in hand and waits for a read whose time is not up."""
        if self._run is not None or self._left or self._executor.has_late:
            return False
        if self._activity.committing_since_ms is not None:
            return False
        is_committed = self._committing is None or self._committing.done()
        until_ms = self._waits_until_ms
        return is_committed and until_ms is not None and until_ms > self._processor.clock.monotonic_ms()

    def _on_stop(self) -> None:
        if self._run is not None:
            self._run.is_closed = True
        self._wake.set()

    async def close(self) -> None:
        """End the read that is under way, and give the cursor back."""
        self._stop.remove(self._on_stop)
        self._processor.telemetry.leave(self._activity)
        while self._upcoming is not None and not self._upcoming.done():
            self._upcoming.cancel()
            # Again, should it have been lost: asyncio.wait_for drops one that meets its result.
            await asyncio.wait([self._upcoming], timeout=_CANCEL_S)
        if self._committing is not None:  # given up half-way
            self._committing.cancel()
            await asyncio.wait([self._committing])
        if self._processor.is_abandoned:
            return
        try:
            await self._consumer.release()
        except BackendUnavailable as error:  # the session's end gives it back, or the end of its lease
            cursor = self._consumer.cursor
            logger.warning("%s: can't give it back now: %s", cursor, error, extra=fields_of(cursor))


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def _times_of(run: BatchRun, commit_us: int, finished: int, now_ms: int) -> BatchTimes:
    if not run.taken:  # windows that closed, or one that is dead before it ran
        return BatchTimes(0, 0, commit_us, 0, 0, 0)
    first, last = run.batch.records[0], run.batch.records[run.taken - 1]
    return BatchTimes(
        run.taken, run.handler_us, commit_us, finished, now_ms - first.timestamp_ms, now_ms - last.timestamp_ms
    )


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _make_spans(telemetry: TelemetryManager, subscription: Subscription) -> "tuple[HandlerSpans | None, Inject]":
    """Return what spans a handler's calls, and what gives its emits their headers: nothing where nobody could see it.

    Chosen once a cursor, so that without tracing no event pays for it.
    """
    spans = telemetry.find_spans()
    if spans is None:
        return None, _as_they_are
    own = spans.of_handler(subscription.topic, subscription.group, subscription.name, subscription.retry.gives_up)
    return own, spans.create


def _as_they_are(topic: str, headers: dict[str, str] | None) -> dict[str, str] | None:
    return headers


def _why_no_state(subscription: Subscription) -> str:
    if subscription.handler.takes is Takes.BATCH:
        return f"handler {subscription.name} takes whole batches, and state belongs to a key: take one event at a time"
    return f'handler {subscription.name} is not ordered, and state is: subscribe(..., ordering="key")'


def _crashed(subscription: Subscription, crashes: int) -> HandlerCrashed:
    return HandlerCrashed(
        f"{subscription.name} ended its process {crashes} times at this record, with nothing else running"
    )
