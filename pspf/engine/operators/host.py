"""The host of an operator: runs it on the batches of a cursor, and does what all operators have in common.

Records are taken in sections. A section ends where the watermark makes something due: that is done before
the record that moved it is aggregated, so that results are a function of the input in its order, whatever
the batches were. What is not in memory is loaded before a section is folded; folding never waits.
"""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, TypeVar

import orjson

from pspf.concurrency.background import run_in_thread
from pspf.context import HandlerScope
from pspf.engine.batch_outcome import BatchRun
from pspf.engine.handlers.executor import Executor, YieldPoint, enter_call
from pspf.engine.handlers.threads import THREAD_NAME
from pspf.engine.handlers.traced import Span
from pspf.engine.idleness import IdleTracker
from pspf.engine.operators.context import OperatorContext
from pspf.engine.operators.operator import Operator
from pspf.engine.operators.sections import SectionReader
from pspf.errors import ConfigurationError, StateUnreadable
from pspf.records import OperatorProgress, Record
from pspf.windowing.progress import HostProgress, read_due_after_ms, read_part
from pspf.windowing.spans import BEGINNING, NEVER

T = TypeVar("T")

BESIDE_RECORDS: Final = 2_000
"""How many records a batch takes beside half a batch of results: a large window is closed before long."""


class OperatorHost(Executor):
    """One operator on one cursor.

        new ──run, on_idle──> open             stored progress and entries are read

        open, at the start of each batch, with records or without:
            due by the watermark or the clock ──> on_watermark, on_due ──no room──> rest: the next batch goes on
        then, section by section:
            read ──> load ──> fold ──all taken──> watermark moves on ──due──> on_watermark ──> next section
                                └──batch closed, or no room──> end of the batch
        end of the batch ──> end_batch ──> changes and progress ──> the commit

        finish ──> final: a batch without records moves the watermark to where all that is open is due
        idle for idle_timeout_ms ──> the same, without being final

    While something is left to do (`has_work`) it runs again, be it without records.
    """

    def __init__(
        self,
        context: OperatorContext,
        operator: Operator,
        reader: SectionReader,
        around: HandlerScope,
        told: Mapping[str, Any],
        check: Callable[[bytes], None],
        span: Callable[[Sequence[Record]], Span],
    ) -> None:
        self._context = context
        self._operator = operator
        self._reader = reader
        self._around = around
        self._told = told
        """The description of the operator, which is stored with its progress."""
        self._check = check
        """Raises ConfigurationError where stored progress is another operator's."""
        self._span = span
        self._yield_point = None if operator.runs_in_thread else YieldPoint()
        self._is_open = False
        self._has_more = True  # of what the owner before has left: not known before it is read
        self._is_final = False
        self._is_finished = False
        context.admission.serve(operator.check_states, by_grouping_key=operator.orders_by_grouping_key)
        context.budget.plan(operator.effects_per_record)
        context.scope.wake()

    # One batch

    async def run(self, records: Sequence[Record], run: BatchRun) -> int:
        with self._span(records):
            if self._yield_point is not None:
                await self._yield_point.take()  # a window may close over many batches that read nothing
                return await self._work(records, run)
            # In the thread only reading entries waits, and it blocks: the coroutine runs through in one go.
            with self._context.entries.asked_from_thread():

                def work() -> int:
                    return _drive(self._work(records, run))

                return await run_in_thread(work, THREAD_NAME, lambda: run.is_closed) or 0

    @property
    def has_work(self) -> bool:
        return self._has_more or self._is_final or self._operator.has_work or self._is_due_by_clock

    @property
    def due_ms(self) -> int:
        return self._operator.due_ms() if self._is_open else NEVER

    @property
    def _is_due_by_clock(self) -> bool:
        due_ms = self.due_ms
        return due_ms != NEVER and due_ms <= self._context.scope.clock.now_ms()

    def finish(self) -> None:
        if self._operator.moves_watermark:
            self._is_final = True
            self._context.scope.wake()

    def poll_timeout_ms(self, idle: IdleTracker, now_ms: int) -> int:
        longest_ms = self._operator.poll_timeout_ms(idle, super().poll_timeout_ms(idle, now_ms))
        idle_ms = self._idle_timeout_ms
        if idle_ms is None or idle.lasted_ms >= idle_ms:
            return longest_ms
        return min(longest_ms, idle.left_ms(idle_ms, now_ms))

    @property
    def _idle_timeout_ms(self) -> int | None:
        return self._context.definition.idle_timeout_ms if self._operator.moves_watermark else None

    async def on_idle(self, idle: IdleTracker) -> None:
        await self._open()
        await self._operator.on_idle(idle)
        idle_ms, time = self._idle_timeout_ms, self._context.time
        last_ms = self._operator.last_due_watermark_ms()
        if idle_ms is not None and idle.lasted_ms >= idle_ms and last_ms is not None and last_ms > time.watermark_ms:
            time.advance(last_ms)
            self._has_more = True

    async def _work(self, records: Sequence[Record], run: BatchRun) -> int:
        await self._open()
        context, operator, time = self._context, self._operator, self._context.time
        context.admission.call = enter_call(context.name, self._around.warned)
        context.source.records = records
        context.budget.begin()
        context.late.begin()
        is_final = self._is_final and not records
        if is_final:
            time.advance(operator.last_due_watermark_ms())
        elif not records and not self.has_work:
            return 0
        first = records[0].offset if records else run.batch.end
        fits = await self._do_due(first, run, may_pause=bool(records))
        taken, fits = await self._take(records, run) if fits else (0, False)
        await operator.end_batch(run.batch.end if not records else records[max(taken, 1) - 1].offset, run)
        if fits and is_final:
            self._is_final = False
        self._is_finished = fits and (is_final or (self._is_finished and not records))
        self._has_more = operator.is_behind or (not fits and taken == len(records))
        self._store(run)
        if self.has_work:
            context.scope.wake()
        return taken

    async def _do_due(self, source: int, run: BatchRun, *, may_pause: bool) -> bool:
        """Do what is due by the watermark and by the wall clock; return whether the batch had room for it."""
        operator = self._operator
        if not await operator.on_watermark(self._context.time.watermark_ms, source, run, may_pause=may_pause):
            return False
        if not self._is_due_by_clock:
            return True
        return await operator.on_due(self._context.scope.clock.now_ms(), source, run)

    async def _take(self, records: Sequence[Record], run: BatchRun) -> tuple[int, bool]:
        """Take records section by section; return how many, and whether the batch had room for all that was due."""
        operator, reader, time = self._operator, self._reader, self._context.time
        taken, fits = 0, True
        while fits and taken < len(records) and not run.is_closed:
            if operator.is_behind and taken >= BESIDE_RECORDS:
                break
            section, ahead_ms, stops = reader.read(records, taken)
            await operator.load(section)
            await self._leave_room(run)
            done = await operator.fold(section, run)
            taken += done
            reader.note_taken(done)
            if done < len(section):
                # Nothing gets due within a section, and what its records are judged by may be ahead of the watermark.
                judged_ms = max((item[4] for item in section[:done]), default=time.watermark_ms)
                ahead_ms = min(ahead_ms, judged_ms, operator.due_watermark_ms() - 1)
                fits = stops = False
            if operator.moves_watermark:
                time.advance(ahead_ms)
            if stops:
                fits = await operator.on_watermark(time.watermark_ms, records[taken].offset, run, may_pause=True)
        return taken, fits

    async def _leave_room(self, run: BatchRun) -> None:
        """Let others run now and then, and end the batch where its states are as much as a commit should hold."""
        operator = self._operator
        reach = operator.section_records * operator.effects_per_record
        self._context.budget.close_if_full(run, operator.count_changes(), reach)
        if self._yield_point is not None:
            await self._yield_point.take()

    # What is stored

    async def _open(self) -> None:
        """Take over what the last commit stored, unless that is done."""
        if self._is_open:
            return
        context, operator, name = self._context, self._operator, self._context.name
        stored = await context.entries.read_progress()
        tree: Mapping[str, Any] | None = None
        progress = HostProgress()
        if stored is not None:
            tree, progress = self._read(stored)
            # What waits is judged as it was when it was read, by the lateness of then.
            before_ms = read_part(name, lambda: read_due_after_ms(tree))
            now_ms = self._told.get("closes_after_ms")
            later_ms = 0 if before_ms is None or now_ms is None else now_ms - before_ms
            context.time.held_ms.update({offset: at_ms + later_ms for offset, at_ms in progress.held.items()})
        context.time.watermark_ms = progress.watermark_ms
        await operator.restore(tree)
        self._reader.restore(dict(progress.source_times))
        is_due = operator.due_watermark_ms() <= context.time.watermark_ms or operator.count_changes() > 0
        self._has_more, self._is_finished = progress.has_more or is_due, progress.is_finished
        self._is_open = True

    def _read(self, stored: bytes) -> tuple[Mapping[str, Any], HostProgress]:
        try:
            self._check(stored)
        except ConfigurationError as error:  # since this worker has begun: another version of the app is at work
            raise StateUnreadable(str(error)) from error
        topic = self._context.source.topic
        return read_part(self._context.name, lambda: ((tree := orjson.loads(stored)), HostProgress.read(tree, topic)))

    def _store(self, run: BatchRun) -> None:
        context, operator, time = self._context, self._operator, self._context.time
        context.admission.forget_done()
        changes = operator.take_changes()
        host = HostProgress(
            time.watermark_ms, time.held_ms, self._has_more, self._is_finished, self._reader.source_times
        )
        progress = orjson.dumps({**self._told, **host.as_json(), **operator.progress()})
        watermark_ms = None if time.watermark_ms == BEGINNING else time.watermark_ms
        run.changes, run.progress = changes, OperatorProgress(watermark_ms, progress)
        run.late_records = context.late.take()


def _drive(work: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine that never waits returns."""
    try:
        work.send(None)
    except StopIteration as stop:
        found: T = stop.value
        return found
    raise RuntimeError("a windowed handler waited in its thread")
