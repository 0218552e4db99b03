"""Executor of a handler with timers: its records, and its timers before, between and after them."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from pspf.clock import Clock
from pspf.connectors.contract.cursors import Consumer
from pspf.context.timers import TimerRequests
from pspf.engine.batch_outcome import BatchRun, Failure
from pspf.engine.handlers.executor import Executor
from pspf.engine.idleness import IdleTracker
from pspf.engine.key_order import KeyOrder
from pspf.engine.timers.firing import DueTimer, NotStarted, TimerCalls
from pspf.engine.timers.storage import StoredTimers
from pspf.engine.timers.ticker import Ticker
from pspf.engine.timers.watermark import Watermark
from pspf.errors import HandlerCrashed, text_of
from pspf.records import Record, state_key
from pspf.subscription import Subscription
from pspf.windowing.spans import BEGINNING, NEVER
from pspf.windowing.timers.rows import CLOCK, EVENT, TimerRow, key_and_name
from pspf.windowing.timers.table import TimerTable

_MOST_FIRED: Final = 500
"""How many timers a batch fires, at most: records get their turn, and so do those that are due next."""
_LONGEST_S: Final = 0.2
"""How long a batch fires timers, about."""
_READ_AT_ONCE: Final = 100


@dataclass(frozen=True, slots=True)
class TimerScope:
    """The surroundings of one cursor's timers: `wake` is called when one is due, `begin_state` with a batch's keys."""

    consumer: Consumer
    held: KeyOrder
    clock: Clock
    max_crashes: int
    wake: Callable[[], None]
    begin_state: Callable[[Iterable[bytes | None]], None]


class TimedExecutor(Executor):
    """Runs the records of a cursor with `inner`, and its timers.

    each batch:   timers due by the clock ──> timers due at the watermark of its first record
                  ──> records, up to the one that brings the watermark to where a timer is due, or after which
                      a timer is set that is due before the next one ──> those timers ──> further records
    left over:    whatever the batch had no room for is done by the next one; records and timers of the clock
                  take turns
    after a crash: the first timers run one by one, each alone in a batch, and noted in a commit before it runs
    """

    def __init__(
        self,
        subscription: Subscription,
        inner: Executor,
        calls: TimerCalls,
        watermark: Watermark,
        storage: StoredTimers,
        scope: TimerScope,
    ) -> None:
        assert subscription.timers is not None
        self.can_be_cut = inner.can_be_cut
        self._subscription = subscription
        self._definition = subscription.timers
        self._inner = inner
        self._calls = calls
        self._watermark = watermark
        self._storage = storage
        self._scope = scope
        self._table: TimerTable = storage.table
        schedule = subscription.timers.schedule
        self._ticker = None if schedule is None else Ticker(schedule, subscription.name, storage.table, scope.clock)
        self._run: BatchRun
        self._source = 0
        """The offset of the record that effects of timers are told to come from."""
        self._firing_ms: int | None = None
        """What the timer that runs was set for, of event time; None: none runs. One by the clock is behind all."""
        self._horizon_ms = BEGINNING
        """The watermark that the records in hand lead to: a timer that is set for it has its turn between them."""
        self._is_concurrent = subscription.concurrency > 1
        """Whether records run side by side: then a timer that one sets has its turn as no other of its key runs."""
        self._fired = 0
        self._begun_s = 0.0
        self._is_records_turn = False
        self._is_silent = False
        self._is_final = False
        self._final_ms: int | None = None
        self._suspects = 0
        """How many timers are still to run one by one."""
        self._armed: bytes | None = None
        """The timer that is noted to run next, alone."""
        self._crashes = 0
        scope.wake()

    # What there is to do

    @property
    def has_work(self) -> bool:
        if self._inner.has_work or not self._storage.is_open or self._is_final or self._armed is not None:
            return True
        return self._is_due or (self._ticker is not None and self._ticker.is_to_look)

    @property
    def _is_due(self) -> bool:
        """Whether a timer is due whose key is free, or may be one."""
        table, now_ms = self._table, self._scope.clock.now_ms()
        watermark_ms = max(self._watermark.at_ms, now_ms - self._behind_ms if self._is_silent else BEGINNING)
        if table.queues[CLOCK].due_ms <= now_ms or table.queues[EVENT].due_ms <= watermark_ms:
            return True
        return table.can_extend and any(queue.is_short for queue in table.queues.values())

    @property
    def due_ms(self) -> int:
        due_ms = min(self._inner.due_ms, self._table.queues[CLOCK].due_ms)
        event_ms = self._table.queues[EVENT].due_ms
        return due_ms if not self._is_silent or event_ms == NEVER else min(due_ms, event_ms + self._behind_ms)

    @property
    def crashes(self) -> int:
        return self._crashes

    @property
    def _behind_ms(self) -> int:
        """How far the watermark stays behind the clock while there is nothing to read."""
        return (self._definition.idle_timeout_ms or 0) + self._definition.watermark_delay_ms

    def finish(self) -> None:
        self._is_final = True
        self._scope.wake()

    def poll_timeout_ms(self, idle: IdleTracker, now_ms: int) -> int:
        longest_ms = self._inner.poll_timeout_ms(idle, now_ms)
        idle_ms = self._definition.idle_timeout_ms
        if idle_ms is None or idle.lasted_ms >= idle_ms:
            return longest_ms
        return min(longest_ms, idle.left_ms(idle_ms, now_ms))

    async def on_idle(self, idle: IdleTracker) -> None:
        await self._inner.on_idle(idle)
        idle_ms = self._definition.idle_timeout_ms
        self._is_silent = idle_ms is not None and idle.lasted_ms >= idle_ms

    # One batch

    async def prepare(self, records: Sequence[Record], run: BatchRun) -> bool:
        """Fire what is due before the records; return whether they can run in the same batch."""
        await self._begin(records, run)
        if not records and self._is_final:
            if self._final_ms is None:  # once: timers that set the next one would let it go on for ever
                self._final_ms = await self._storage.find_last_ms(self._watermark.at_ms)
            self._watermark.advance(self._final_ms)
        elif records:
            self._is_silent = False
            self._move_to(records[0])
        elif self._is_silent:
            self._watermark.advance(self._scope.clock.now_ms() - self._behind_ms)
        if self._suspects and (place := self._find_suspect()) is not None:
            await self._step(place, run)
        else:
            if await self._fire_due(run, is_records_turn=self._is_records_turn and bool(records)) and not (
                self._fired and run.batch.suspect
            ):
                return True
        await self._end(run, len(records))
        return False

    async def run(self, records: Sequence[Record], run: BatchRun) -> int:
        taken = await self._take(records, run)
        if not records and self._inner.has_work:
            await self._inner.run(records, run)
        self._table.release(self._is_held)
        if not self._is_careful and not run.is_closed:
            await self._fire(EVENT, self._watermark.at_ms, run)
        await self._end(run, len(records) - taken)
        return taken

    async def _begin(self, records: Sequence[Record], run: BatchRun) -> None:
        if not self._storage.is_open:
            await self._storage.open(self._watermark)
            lease = self._scope.consumer.lease
            self._suspects = _MOST_FIRED if lease is not None and lease.is_suspect else 0
        run.timers, self._run = self, run
        self._source = records[0].offset if records else run.batch.end
        self._fired, self._begun_s = 0, time.monotonic()
        self._watermark.begin()
        self._table.release(self._is_held)
        await self._storage.extend()
        ticker = self._ticker
        if ticker is not None and ticker.is_to_look:
            await self._storage.read([ticker.place])
            ticker.look(self._table.row_of(ticker.place))

    def _move_to(self, record: Record) -> None:
        """Move the watermark to where the first record of a batch brings it, where a timer is due there."""
        queue = self._table.queues[EVENT]
        end, watermark_ms = self._watermark.read([record], 0, self._scope.held.position, queue.due_ms)
        if end == 0:
            self._watermark.advance(watermark_ms)

    async def _take(self, records: Sequence[Record], run: BatchRun) -> int:
        """Run records, and between them what is due there; return how many were taken."""
        queue, watermark, position = self._table.queues[EVENT], self._watermark, self._scope.held.position
        taken = 0
        while taken < len(records) and not run.is_closed:
            end, to_ms = watermark.read(records, taken, position, queue.due_ms, one_per_key=self._is_concurrent)
            if end == taken:
                watermark.advance(to_ms)
            if queue.due_ms <= watermark.at_ms:
                if self._is_careful or not await self._fire(EVENT, watermark.at_ms, run):
                    break
                continue
            self._horizon_ms = BEGINNING if self._is_concurrent else to_ms
            done = await self._inner.run(records[taken:end], run)
            self._horizon_ms = BEGINNING
            if taken + done < end:
                to_ms = watermark.read(records[: taken + done], taken, position, NEVER)[1]
            taken += done
            watermark.advance(to_ms)
            self._table.release(self._is_held)
            if run.is_paused:
                run.resume()
        return taken

    @property
    def _is_careful(self) -> bool:
        """Whether timers have to have batches of their own: they, or the records, may have ended a process."""
        return self._suspects > 0 or self._run.batch.suspect

    async def _end(self, run: BatchRun, left: int) -> None:
        """Put what the batch has changed into its commit."""
        is_due = self._is_due
        if self._final_ms is not None and not is_due and self._armed is None and not left:
            self._is_final, self._final_ms = False, None
            self._storage.is_finished = True
        elif run.batch.records:
            self._storage.is_finished = False
        has_more = is_due if self._ticker is None else self._ticker.has_more
        await self._storage.store(run, self._watermark.at_ms, is_due=has_more)
        if self.has_work:
            self._scope.wake()

    # Firing

    def _is_held(self, key: bytes) -> bool:
        return self._scope.held.holds(key)

    async def _fire_due(self, run: BatchRun, *, is_records_turn: bool) -> bool:
        """Fire what is due at the watermark, and by the clock unless the records come first; False: not all of it."""
        self._is_records_turn = False
        if not await self._fire(EVENT, self._watermark.at_ms, run):
            return False
        if is_records_turn or await self._fire(CLOCK, self._scope.clock.now_ms(), run):
            return True
        self._is_records_turn = True
        return False

    async def _fire(self, namespace: int, until_ms: int, run: BatchRun) -> bool:
        """Fire what is due in a queue; return whether the batch had room for all of it."""
        table, queue = self._table, self._table.queues[namespace]
        while True:
            places = table.take_due(namespace, until_ms, _READ_AT_ONCE, self._is_held)
            if not places:
                return not queue.is_short or not table.can_extend
            await self._storage.read(places)
            self._scope.begin_state(
                [*(record.raw_key for record in run.batch.records), *(key_and_name(place)[0] for place in places)]
            )
            for place in places:
                if run.is_closed or self._is_over:
                    return False
                if queue.first_place != place:  # the one before has moved it, or set another that comes before it
                    break
                row = table.row_of(place)
                if row is None:
                    queue.discard(place)  # an entry without a row is about nothing
                else:
                    await self._fire_one(DueTimer(place, row), run)

    @property
    def _is_over(self) -> bool:
        """Whether the batch has fired as much as it should."""
        if not self._fired:
            return False
        return self._fired >= _MOST_FIRED or time.monotonic() - self._begun_s > _LONGEST_S

    async def _fire_one(self, due: DueTimer, run: BatchRun) -> None:
        if self._ticker is not None and due.place == self._ticker.place:
            self._fired += 1
            self._ticker.tick(due.row)
            return
        cursor = self._scope.consumer.cursor
        record = due.as_record(cursor.topic, cursor.partition, self._source)
        context = self._calls.make_context(record)
        self._fired += 1
        self._firing_ms = due.row.at_ms if due.row.is_event_time else NEVER
        try:
            error = await self._calls.call(due, record, context, run)
            if error is not None:
                context.close()
                self._fail(due, record, error, run)
                return
            self._table.remove(due.place)
            if not run.merge_effects(record, context):
                self._table.put(due.place, due.row)
                run.is_closed = True
        except NotStarted:
            context.close()
        finally:
            self._firing_ms = None

    def _fail(self, due: DueTimer, record: Record, error: BaseException, run: BatchRun) -> None:
        """Note a failure: the timer runs again later, or is a dead letter."""
        policy, attempts, text = self._subscription.retry, due.row.attempts + 1, text_of(error)
        if policy.gives_up(error, attempts):
            run.bury(Failure(record, error, attempts, None, text, is_result=True, timer=due.name))
            self._table.remove(due.place)
            return
        wait_ms = policy.wait_ms(attempts, error)
        run.failures.append(Failure(record, error, attempts, wait_ms, text, is_result=True, timer=due.name))
        row = replace(
            due.row,
            due_ms=self._scope.clock.now_ms() + wait_ms,
            queue=CLOCK,
            attempts=attempts,
            crashes=0,
            error=f"{type(error).__name__}: {text}",
        )
        self._table.put(due.place, row)

    def take(self, key: bytes, requests: TimerRequests) -> None:
        """Set and cancel timers that a call has asked for.

        One that a timer sets for an event time that has passed, and that is no later than its own, is due by the clock:
        a timer that sets itself again so would otherwise let no record have its turn.
        """
        firing_ms, watermark_ms = self._firing_ms, self._watermark.at_ms
        for name, request in requests.items():
            place = state_key(key, name)
            if request is None:
                self._table.remove(place)
                continue
            at_ms, is_event_time, payload = request
            if is_event_time and (firing_ms is None or at_ms > min(firing_ms, watermark_ms)):
                self._table.put(place, TimerRow(at_ms, True, at_ms, EVENT, payload))
                if at_ms <= self._horizon_ms:
                    self._run.pause()
            else:
                due_ms = self._scope.clock.now_ms() if is_event_time else at_ms
                self._table.put(place, TimerRow(at_ms, is_event_time, due_ms, CLOCK, payload))

    # After a crash

    def _find_suspect(self) -> bytes | None:
        """Return the timer to run next, one by one; None where none is due."""
        if self._armed is not None:
            return self._armed
        for namespace, until_ms in ((EVENT, self._watermark.at_ms), (CLOCK, self._scope.clock.now_ms())):
            for place in self._table.take_due(namespace, until_ms, 1, self._is_held):
                return place
        return None

    async def _step(self, place: bytes, run: BatchRun) -> None:
        """Note a timer that may end the process, or run the one that is noted."""
        await self._storage.read([place])
        row = self._table.row_of(place)
        if row is None:
            for queue in self._table.queues.values():
                queue.discard(place)
            return
        due = DueTimer(place, row)
        if self._armed is not None:
            self._armed, self._crashes = None, 0
            self._suspects -= 1
            await self._fire_one(due, run)
        elif row.crashes < self._scope.max_crashes:
            self._armed, self._crashes = place, row.crashes
            self._table.put(place, replace(row, crashes=row.crashes + 1))
        else:
            cursor = self._scope.consumer.cursor
            record = due.as_record(cursor.topic, cursor.partition, self._source)
            text = f"{self._subscription.name} ended its process {row.crashes} times at the timer {due.name!r}"
            self._suspects -= 1
            self._fail(due, record, HandlerCrashed(text), run)
