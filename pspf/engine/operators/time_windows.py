"""Tumbling and sliding windows on one cursor.

A record belongs to one slot (a tumbling window, or a slice that sliding windows share) or to a tuple of
them (sliding windows of a handler, which can't merge: each has a state of its own).
"""

from collections.abc import Mapping, Sequence
from contextvars import copy_context
from typing import Any, Final

from pspf.engine.batch_outcome import BatchRun
from pspf.engine.handlers.isolation import OwnContext
from pspf.engine.operators.budget import SECTION_RECORDS
from pspf.engine.operators.context import OperatorContext
from pspf.engine.operators.growth import StateGrowth
from pspf.engine.operators.operator import Operator
from pspf.engine.operators.places import Aside, Broken, Item, Mark, TooLate
from pspf.engine.operators.span_closing import SpanClosing
from pspf.engine.operators.span_state import SpanState
from pspf.engine.operators.span_updates import SpanUpdates
from pspf.engine.operators.window_results import WindowResults
from pspf.errors import StateUnreadable, TooManyEffects
from pspf.records import EntryChanges, EntryKind, Record
from pspf.windowing.definitions import Windowing
from pspf.windowing.event_time import Key
from pspf.windowing.folds import HandlerFold, ReadyFold
from pspf.windowing.progress import Progress, read_part
from pspf.windowing.spans import BEGINNING
from pspf.windowing.table import SlotEntries

_LOADED_RECORDS: Final = 1_000
"""The most records of a section whose states may have to be loaded: a read costs more than what it reads."""


class TimeWindows(Operator):
    """Keeps a table of states by slot, and closes windows as they are due."""

    def __init__(self, context: OperatorContext) -> None:
        super().__init__(context)
        assert isinstance(context.definition, Windowing)
        self._windowing = windowing = context.definition
        self._growth = growth = StateGrowth(context.subscription, windowing)
        self._fold = growth.fold
        self.runs_in_thread = growth.runs_in_thread
        results = WindowResults(windowing, self._fold, context.results)
        self._state = state = SpanState(context, windowing, self._fold)
        self._updates = SpanUpdates(state, results)
        self._closing = SpanClosing(context, windowing, state, results, self._updates)
        self._emits_updates = windowing.emit == "updates"
        if self._emits_updates:
            context.budget.writes = 2
        self._is_multiple = state.spans.is_multiple
        self.stretch_ms = 0 if self._is_multiple else state.spans.slot_ms
        self._windows = -(-state.spans.size_ms // state.spans.slide_ms)
        """In how many windows a record is, at most."""
        states = self._windows if self._is_multiple else 1
        self.effects_per_record = states + (self._windows if self._emits_updates else 0)

    # What is stored

    async def restore(self, stored: Mapping[str, Any] | None) -> None:
        context, state = self.context, self._state
        progress = Progress() if stored is None else read_part(context.name, lambda: Progress.read(stored))
        slots = [] if stored is None else await context.entries.list_namespaces(EntryKind.WINDOWS)
        closed_ms = max(progress.closed_ms, progress.gone_ms) if self._windowing.closes else progress.closed_ms
        state.reset(slots, closed_ms)
        spans = state.spans
        self._closing.closing = progress.closing
        for start, key in progress.withheld:
            spans.withhold(start, key)
        for slot in slots:
            spans.open(slot, spans.frontier_ms)
        context.time.floor_ms = spans.frontier_ms
        if progress.closing is not None:  # some of its results are out already
            context.time.floor_ms = max(spans.frontier_ms, progress.closing[0] + spans.due_after_ms)
        if self._emits_updates and progress.emission != "updates":
            await self._mark_unsent(slots)

    async def _mark_unsent(self, slots: Sequence[int]) -> None:
        """Emit the open windows with the next commit: their updates were not asked for before.

        Raises:
            StateUnreadable: It is more than one commit may hold.
        """
        spans, table = self._state.spans, self._state.table
        count, most = 0, self.context.scope.limits.record_operations // 2
        for slot in slots:
            starts = [start for start in spans.starts_in(slot) if start > spans.closed_ms]
            if not starts:
                continue
            await self._state.load_slot(slot)
            entries = table.slots[slot].entries
            count += (1 + len(starts)) * len(entries)
            if count > most:
                raise StateUnreadable(
                    f"handler {self.context.name} has over {most:,} results of open windows to emit as updates, which"
                    " it did not emit before: give it another name=, or close its windows first by a worker with"
                    " --final"
                )
            table.slots[slot].dirty.update(entries)
            table.touched.add(slot)

    def take_changes(self) -> EntryChanges:
        return self._state.table.take_changes()

    def progress(self) -> Mapping[str, Any]:
        spans = self._state.spans
        withheld = [(start, key) for key, starts in spans.withheld.items() for start in sorted(starts)]
        return Progress(spans.frontier_ms, spans.closed_ms, closing=self._closing.closing, withheld=withheld).as_json()

    # Where records belong

    def place(self, time_ms: int, key: Key, at_ms: int) -> Any:
        spans, limits = self._state.spans, self.context.scope.limits
        if self.effects_per_record > limits.record_operations:
            return Broken(
                TooManyEffects(
                    f"each record is in {self._windows:,} windows, which makes {self.effects_per_record:,} effects; at"
                    f" most {limits.record_operations:,} are taken: let the window slide further, or take a ready"
                    " aggregation without updates"
                )
            )
        limit_ms = at_ms if spans.closes else self.context.time.floor_ms
        if self._is_multiple:
            return self._place_in_many(time_ms, limit_ms)
        slot = time_ms - (time_ms - spans.offset_ms) % spans.slot_ms
        start = slot if not spans.is_sliced else time_ms - (time_ms - spans.offset_ms) % spans.slide_ms
        if time_ms - start >= spans.size_ms:
            return Mark()  # in a gap between windows: it is late for nothing
        if start + spans.due_after_ms <= limit_ms and (spans.closes or not spans.is_withheld(start, key)):
            return TooLate(start, start + spans.size_ms, limit_ms - start - spans.due_after_ms)
        if slot not in self._state.table.slots:
            self._open_slot(slot, at_ms)
        return slot

    def _place_in_many(self, time_ms: int, limit_ms: int) -> Any:
        spans = self._state.spans
        starts: Sequence[int] = spans.starts_of(time_ms)
        if not starts:
            return Mark()  # in a gap between windows
        if limit_ms > BEGINNING:
            start = starts[-1]
            if start + spans.due_after_ms <= limit_ms:
                return TooLate(start, start + spans.size_ms, limit_ms - start - spans.due_after_ms)
            starts = [start for start in starts if start + spans.due_after_ms > limit_ms]
        for start in starts:
            if start not in self._state.table.slots:
                self._open_slot(start, limit_ms)
        return tuple(starts)

    def _open_slot(self, slot: int, at_ms: int) -> None:
        # All that was due at the watermark is closed; a record that was held back has an older one.
        self._state.table.open(slot)
        self._state.spans.open(slot, max(at_ms, self.context.time.watermark_ms))

    # Folding

    @property
    def section_records(self) -> int:
        few = self.context.budget.section_records
        return _LOADED_RECORDS if few == SECTION_RECORDS and self._state.table.has_partial else few

    async def load(self, section: Sequence[Item]) -> None:
        if not self._state.table.has_partial:
            return
        places: list[tuple[int, Key]] = []
        for _, _, key, where, _ in section:
            if type(where) is int:
                places.append((where, key))
            elif type(where) is tuple:
                places += [(start, key) for start in where]
        await self._state.load(places)

    async def fold(self, section: Sequence[Item], run: BatchRun) -> int:
        if self._is_multiple:
            return await super().fold(section, run)
        return await (self._fold_async(section, run) if self._growth.is_async else self._fold_sync(section, run))

    # The commonest cases, with nothing called per record but what aggregates.

    async def _fold_async(self, section: Sequence[Item], run: BatchRun) -> int:
        fold, growth, admission, budget = self._fold, self._growth, self.context.admission, self.context.budget
        assert isinstance(fold, HandlerFold)
        assert isinstance(growth.function, OwnContext)
        own, load, dump, call = growth.function, fold.load, fold.dump, admission.call
        function, clean, context = own if own.is_needed else own.alone, call.clean, copy_context
        slots, touched = self._state.table.slots, self._state.table.touched
        writes, most_bytes = budget.writes, budget.limits.effect_bytes
        asks = run.has_to_ask
        last: object = None
        for taken, item in enumerate(section):  # not `admitted` and `fold_one`: that costs 0.25 us more a record, of 8
            if run.is_closed:
                return taken
            record, event, key, where, _ = item
            if where != last:
                if type(where) is not int:
                    admission.put_aside(item, run)
                    asks = run.has_to_ask
                    continue
                slot = slots[where]
                entries, dirty, last = slot.entries, slot.dirty, where
                touched.add(where)
            if asks and not admission.admit(item, run):
                continue
            try:  # what an earlier call has left is looked for here: in a call of its own it would double the price
                if function is not own and context() != clean:
                    own.is_needed, function = True, own
            except Exception:  # a value's own comparison: then it is another value
                own.is_needed, function = True, own
            state = entries.get(key)
            call.record = record
            try:
                grown = dump(await function(event, None if state is None else load(state)))
                if grown is not None:
                    weight_bytes = budget.weight_bytes + writes * len(grown)
                    if weight_bytes < most_bytes:
                        budget.weight_bytes = weight_bytes
                    else:
                        budget.weigh(record, len(grown), run)
            except BaseException as error:  # the boundary of the record
                admission.fail(item, error, run)
                asks = run.has_to_ask
                continue
            if grown is None:
                entries.pop(key, None)
            else:
                entries[key] = grown
            dirty.add(key)
            if asks:
                self._succeed(item, run)
        return len(section)

    async def _fold_sync(self, section: Sequence[Item], run: BatchRun) -> int:
        fold, admission, budget = self._fold, self.context.admission, self.context.budget
        is_ready, keeps_values = isinstance(fold, ReadyFold), fold.keeps_values
        grow = fold.add if isinstance(fold, ReadyFold) else self._growth.grow_at_once
        slots, touched, call = self._state.table.slots, self._state.table.touched, admission.call
        slices, spans = self._state.slices, self._state.spans
        merged_ms = BEGINNING if slices is None else slices.merged_ms
        asks = run.has_to_ask
        last: object = None
        for taken, item in enumerate(section):  # not `admitted` and `fold_one`: that costs 0.25 us more a record, of 8
            if run.is_closed:
                return taken
            record, event, key, where, _ = item
            if where != last:
                if type(where) is not int:
                    admission.put_aside(item, run)
                    asks = run.has_to_ask
                    continue
                slot = slots[where]
                entries, dirty, last = slot.entries, slot.dirty, where
                touched.add(where)
            if slot.sizes and key in slot.sizes and key not in dirty and not budget.has_room(slot.sizes[key]):
                run.is_closed = True
                return taken
            if asks and not admission.admit(item, run):
                continue
            if slices is not None and spans.withheld and key in spans.withheld:
                await self._closing.release([key], item[4], record[2], run)  # those that this one is too late for
            call.record = record
            try:
                if slot.sizes or keeps_values:
                    self._weigh_growth(slot, key, record, run)
                grown = grow(event, record[2], entries.get(key))
                if not is_ready and grown is not None:
                    budget.weigh(record, len(grown), run)
            except BaseException as error:  # the boundary of the record
                admission.fail(item, error, run)
                asks = run.has_to_ask
                continue
            if grown is None:
                entries.pop(key, None)
            else:
                entries[key] = grown
            dirty.add(key)
            if slices is not None and where < merged_ms:
                slices.touch(key)
            if asks:
                self._succeed(item, run)
        return len(section)

    async def fold_one(self, item: Item, run: BatchRun) -> None:
        """Aggregate a record in all of its windows or none: one that fails in its last window has changed none."""
        record, event, key, starts, _ = item
        slots, grow = self._state.table.slots, self._growth.grow
        is_ready = isinstance(self._fold, ReadyFold)
        if is_ready:
            for start in starts:
                self._weigh_growth(slots[start], key, record, run)
        grown = [await grow(event, record, slots[start].entries.get(key)) for start in starts]
        if not is_ready:
            self.context.budget.weigh(record, sum([len(state) for state in grown if state is not None]), run)
        for start, state in zip(starts, grown, strict=True):
            slot = slots[start]
            if state is None:
                slot.entries.pop(key, None)
            else:
                slot.entries[key] = state
            slot.dirty.add(key)
            self._state.table.touched.add(start)
        if run.has_to_ask:
            self._withhold_due(item)

    def _weigh_growth(self, slot: SlotEntries, key: Key, record: Record, run: BatchRun) -> None:
        """Count what a state that grows with its records takes, about. Errors as in `Budget.weigh`."""
        before = slot.sizes.get(key, 0)
        self.context.budget.weigh_growth(record, before, run, whole=0 if key in slot.dirty else before)

    def _succeed(self, item: Item, run: BatchRun) -> None:
        self._withhold_due(item)
        run.succeed(item[0])

    def _withhold_due(self, item: Item) -> None:
        """Let the windows of a record that was asked for close at the end of the batch: they may have waited for it."""
        _, _, key, where, at_ms = item
        spans = self._state.spans
        if spans.closes:
            for start in spans.starts_in(where) if type(where) is int else where:
                if at_ms < start + spans.due_after_ms <= max(spans.frontier_ms, self.context.time.watermark_ms):
                    spans.withhold(start, key)

    def check_states(self, item: Item) -> None:
        key, where = item[2], item[3]
        if isinstance(where, Aside):
            return
        slots = self._state.table.slots
        for start in (where,) if type(where) is int else where:
            self._fold.check(slots[start].entries.get(key))

    def count_changes(self) -> int:
        count, spans = self._state.table.dirty, self._state.spans
        return count * len(spans.starts_in(0)) if self._emits_updates and spans.is_sliced else count

    # Time

    def due_watermark_ms(self) -> int:
        return self._state.spans.next_ms

    def last_due_watermark_ms(self) -> int | None:
        return self._state.spans.last_due_ms

    async def on_watermark(self, watermark_ms: int, source: int, run: BatchRun, *, may_pause: bool) -> bool:
        return await self._closing.close_due(watermark_ms, source, run, may_pause=may_pause)

    @property
    def is_behind(self) -> bool:
        return self._state.spans.is_paused

    async def end_batch(self, source: int, run: BatchRun) -> None:
        spans = self._state.spans
        if spans.next_ms > self.context.time.watermark_ms and not spans.is_paused:
            spans.pass_by(self.context.time.watermark_ms)
        await self._closing.release_free(source, run)
        if self._emits_updates:
            await self._updates.emit_changed(source, run)
