"""Tumbling and sliding windows on one cursor.

A record belongs to one slot (a tumbling window, or a slice that sliding windows share) or to a tuple of
them (sliding windows of a handler, which can't merge: each has a state of its own).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextvars import copy_context
from operator import itemgetter
from typing import Any, Final

from pspf.context import HandlerScope
from pspf.engine.batch_outcome import BatchRun
from pspf.engine.handlers.isolation import OwnContext
from pspf.engine.operators.host import BREATH_RECORDS, Aside, Broken, Item, Mark, OperatorHost, OperatorScope, TooLate
from pspf.errors import StateUnreadable, TooManyEffects
from pspf.events.decoding import Decoder, SectionDecoder
from pspf.records import Record
from pspf.subscription import Subscription
from pspf.windowing.definitions import SlidingWindow
from pspf.windowing.event_time import Key, encode_key
from pspf.windowing.folds import HandlerFold, ReadyFold
from pspf.windowing.progress import Progress
from pspf.windowing.slices import Slices
from pspf.windowing.spans import BEGINNING, NEVER, SpanIndex
from pspf.windowing.table import Changes, SlotEntries, Table

_PAGE: Final = 1_000
_RESULTS: Final = 64
"""How many results are made at once, at most."""
_LOADED_RECORDS: Final = 1_000
"""The most records of a section whose states may have to be loaded: a read costs more than what it reads."""


Entry = tuple[Key, Any]
"""A grouping key and its state."""


class TimeWindows(OperatorHost):
    """Keeps a table of states by slot, and closes windows as they are due."""

    def __init__(
        self,
        subscription: Subscription,
        decode: Decoder,
        read: SectionDecoder,
        around: HandlerScope,
        room: OperatorScope,
    ) -> None:
        super().__init__(subscription, decode, read, around, room)
        self._spans = SpanIndex(self.windowing)
        self._table = Table(self.fold.encode_all, self.fold.decode, room.max_entries, ())
        self._slices = self._make_slices()
        self._closing: tuple[int, Key] | None = None
        self._left: tuple[int, list[Entry]] | None = None
        """The states of the window at `closing` that are in memory and still to be emitted, the next one last."""
        self._is_pausing = False
        """Whether a window that is closed takes half of a batch, and records the rest."""
        self._chunk = max(1, min(_RESULTS, room.limits.operations // 4))
        window = self.windowing.window
        self._many = window if isinstance(window, SlidingWindow) and not self._spans.is_sliced else None
        self.stretch_ms = 0 if self._many is not None else self._spans.slot_ms
        self._updates = self.windowing.emit == "updates"
        self._windows = -(-self._spans.size_ms // self._spans.slide_ms)
        """In how many windows a record is, at most."""
        states = 1 if self._many is None else self._windows
        self.most_effects = states + (self._windows if self._updates else 0)

    def _make_slices(self) -> Slices | None:
        spans = self._spans
        return Slices(spans, self.fold.merge, self.room.max_entries) if spans.is_sliced else None

    async def restore(self, progress: Progress, *, is_new: bool) -> None:
        slots = [] if is_new else await self.ask("read windows", self.room.consumer.read_slots)
        self._table = Table(self.fold.encode_all, self.fold.decode, self.room.max_entries, slots)
        closed_ms = max(progress.closed_ms, progress.gone_ms) if self.windowing.closes else progress.closed_ms
        spans = self._spans = SpanIndex(self.windowing, closed_ms)
        self._slices = self._make_slices()
        self._closing = progress.closing
        spans.restore_withheld(progress.withheld)
        for slot in slots:
            spans.open(slot, spans.frontier_ms)
        self.floor_ms = spans.frontier_ms
        if self._closing is not None:  # some of its results are out already
            self.floor_ms = max(self.floor_ms, self._closing[0] + spans.due_after_ms)
        if self._updates and progress.emission != "updates":
            await self._mark_unsent(slots)

    async def _mark_unsent(self, slots: Sequence[int]) -> None:
        """Let what is open go out with the next commit: its updates were not asked for before.

        Raises:
            StateUnreadable: It is more than one commit may hold.
        """
        spans, table = self._spans, self._table
        count, most = 0, self.room.limits.record_operations // 2
        for slot in slots:
            starts = [start for start in spans.starts_in(slot) if start > spans.closed_ms]
            if not starts:
                continue
            await self._make_whole(slot)
            entries = table.slots[slot].entries
            count += (1 + len(starts)) * len(entries)
            if count > most:
                raise StateUnreadable(
                    f"handler {self._name} has over {most:,} results of open windows to emit as updates, which it did"
                    " not emit before: give it another name=, or close its windows first by a worker with --final"
                )
            table.slots[slot].dirty.update(entries)
            table.touched.add(slot)

    def next_ms(self) -> int:
        return self._spans.next_ms

    def last_due_ms(self) -> int:
        last_ms = self._spans.last_due_ms
        return self.watermark_ms if last_ms is None else last_ms

    # Where records belong

    def place(self, time_ms: int, key: Key, at_ms: int) -> Any:
        spans = self._spans
        if self.most_effects > self.room.limits.record_operations:
            return Broken(
                TooManyEffects(
                    f"each record is in {self._windows:,} windows, which makes {self.most_effects:,} effects; at most"
                    f" {self.room.limits.record_operations:,} are taken: let the window slide further, or take a ready"
                    " aggregation without updates"
                )
            )
        if self._many is not None:
            return self._place_in_many(self._many, time_ms, at_ms if spans.closes else self.floor_ms)
        slot = time_ms - time_ms % spans.slot_ms
        start = slot if not spans.is_sliced else time_ms - time_ms % spans.slide_ms
        if time_ms - start >= spans.size_ms:
            return Mark()  # in a gap between windows: it is late for nothing
        limit_ms = at_ms if spans.closes else self.floor_ms
        if start + spans.due_after_ms <= limit_ms and (spans.closes or not spans.is_withheld(start, key)):
            return TooLate(start, start + spans.size_ms, limit_ms - start - spans.due_after_ms)
        if slot not in self._table.slots:
            self._open_slot(slot, at_ms)
        return slot

    def _place_in_many(self, window: SlidingWindow, time_ms: int, limit_ms: int) -> Any:
        spans = self._spans
        starts: Sequence[int] = window.starts_of(time_ms)
        if not starts:
            return Mark()  # in a gap between windows
        if limit_ms > BEGINNING:
            start = starts[-1]
            if start + spans.due_after_ms <= limit_ms:
                return TooLate(start, start + spans.size_ms, limit_ms - start - spans.due_after_ms)
            starts = [start for start in starts if start + spans.due_after_ms > limit_ms]
        for start in starts:
            if start not in self._table.slots:
                self._open_slot(start, limit_ms)
        return tuple(starts)

    def _open_slot(self, slot: int, at_ms: int) -> None:
        # All that was due at the watermark is closed; a record that was held back has an older one.
        self._table.open(slot)
        self._spans.open(slot, max(at_ms, self.watermark_ms))

    # Folding

    @property
    def section_records(self) -> int:
        few = super().section_records
        return _LOADED_RECORDS if self._table.has_partial and few == BREATH_RECORDS else few

    async def load(self, section: Sequence[Item]) -> None:
        table = self._table
        if not table.has_partial:
            return
        places: list[tuple[int, Key]] = []
        for _, _, key, where, _ in section:
            if type(where) is int:
                places.append((where, key))
            elif type(where) is tuple:
                places += [(start, key) for start in where]
        await self._load_places(places)

    async def _load_places(self, places: Sequence[tuple[int, Key]]) -> None:
        missing = self._table.missing(places)
        if missing:
            consumer = self.room.consumer
            self._table.fill(await self.ask("read windows", lambda: consumer.read_windows(missing)))

    async def fold_section(self, section: Sequence[Item], run: BatchRun) -> int:
        if self._many is not None:
            return await self._fold_many(section, run)
        return await (self._fold_async(section, run) if self.is_async else self._fold_sync(section, run))

    # The commonest cases, with nothing called per record but what aggregates.

    async def _fold_async(self, section: Sequence[Item], run: BatchRun) -> int:
        fold = self.fold
        assert isinstance(fold, HandlerFold)
        assert isinstance(self.function, OwnContext)
        own, load, dump, call = self.function, fold.load, fold.dump, self.call
        function, clean, context = own if own.is_needed else own.alone, call.clean, copy_context
        slots, touched = self._table.slots, self._table.touched
        writes, most_bytes = self._writes, self.room.limits.effect_bytes
        asks = run.has_to_ask
        last: object = None
        await self.breathe(run)
        for taken, item in enumerate(section):
            if run.is_closed:
                return taken
            record, event, key, where, _ = item
            if where != last:
                if type(where) is not int:
                    await self._fold_odd(item, run)
                    asks = run.has_to_ask
                    continue
                slot = slots[where]
                entries, dirty, last = slot.entries, slot.dirty, where
                touched.add(where)
            if asks and not self.admit(item, run):
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
                    weight_bytes = self._weight_bytes + writes * len(grown)
                    if weight_bytes < most_bytes:
                        self._weight_bytes = weight_bytes
                    else:
                        self.weigh(record, len(grown), run)
            except BaseException as error:  # the boundary of the record
                self.fail(item, error, run)
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
        is_ready = isinstance(self.fold, ReadyFold)
        grow = self.fold.add if isinstance(self.fold, ReadyFold) else self.fold_one
        keeps_values = self.fold.keeps_values
        slots, touched, call = self._table.slots, self._table.touched, self.call
        slices, spans = self._slices, self._spans
        merged_ms = BEGINNING if slices is None else slices.merged_ms
        asks = run.has_to_ask
        last: object = None
        await self.breathe(run)
        for taken, item in enumerate(section):
            if run.is_closed:
                return taken
            record, event, key, where, _ = item
            if where != last:
                if type(where) is not int:
                    await self._fold_odd(item, run)
                    asks = run.has_to_ask
                    continue
                slot = slots[where]
                entries, dirty, last = slot.entries, slot.dirty, where
                touched.add(where)
            if slot.sizes and key in slot.sizes and key not in dirty and not self.has_room(slot.sizes[key]):
                run.is_closed = True
                return taken
            if asks and not self.admit(item, run):
                continue
            if slices is not None and spans.withheld and key in spans.withheld:
                await self._release([key], item[4], record[2], run)  # those that this one is too late for
            call.record = record
            try:
                if slot.sizes or keeps_values:
                    self._weigh_growth(slot, key, record, run)
                grown = grow(event, record[2], entries.get(key))
                if not is_ready and grown is not None:
                    self.weigh(record, len(grown), run)
            except BaseException as error:  # the boundary of the record
                self.fail(item, error, run)
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

    async def _fold_many(self, section: Sequence[Item], run: BatchRun) -> int:
        slots, touched, call = self._table.slots, self._table.touched, self.call
        grow, is_ready = self.grow, isinstance(self.fold, ReadyFold)
        await self.breathe(run)
        for taken, item in enumerate(section):
            if run.is_closed:
                return taken
            record, event, key, where, _ = item
            if isinstance(where, Aside):
                await self._fold_odd(item, run)
                continue
            if run.has_to_ask and not self.admit(item, run):
                continue
            call.record = record
            starts: Sequence[int] = where
            try:
                # All windows of a record or none: one that fails in its last window has changed none.
                if is_ready:
                    for start in starts:
                        self._weigh_growth(slots[start], key, record, run)
                grown = [await grow(event, record, slots[start].entries.get(key)) for start in starts]
                if not is_ready:
                    self.weigh(record, sum([len(state) for state in grown if state is not None]), run)
            except BaseException as error:  # the boundary of the record
                self.fail(item, error, run)
                continue
            for start, state in zip(starts, grown, strict=True):
                slot = slots[start]
                if state is None:
                    slot.entries.pop(key, None)
                else:
                    slot.entries[key] = state
                slot.dirty.add(key)
                touched.add(start)
            if run.has_to_ask:
                self._succeed(item, run)
        return len(section)

    def _weigh_growth(self, slot: SlotEntries, key: Key, record: Record, run: BatchRun) -> None:
        """Count what a state that grows with its records takes, about. Errors as in `weigh`."""
        before = slot.sizes.get(key, 0)
        self.weigh_growth(record, before, run, whole=0 if key in slot.dirty else before)

    async def _fold_odd(self, item: Item, run: BatchRun) -> None:
        if not run.has_to_ask or self.admit(item, run):
            self.set_aside(item, run)

    def _succeed(self, item: Item, run: BatchRun) -> None:
        """Note the success of a record that was asked for; its windows may have been waiting for it alone."""
        record, _, key, where, at_ms = item
        spans = self._spans
        if spans.closes:
            for start in spans.starts_in(where) if type(where) is int else where:
                if at_ms < start + spans.due_after_ms <= max(spans.frontier_ms, self.watermark_ms):
                    spans.withhold(start, key)
        run.succeed(record)

    def states_of(self, item: Item) -> Iterable[Any]:
        key, where = item[2], item[3]
        if isinstance(where, Aside):
            return ()
        slots = self._table.slots
        return [slots[start].entries.get(key) for start in ((where,) if type(where) is int else where)]

    def count_dirty(self) -> int:
        count = self._table.dirty
        return count * len(self._spans.starts_in(0)) if self._updates and self._spans.is_sliced else count

    # Closing

    @property
    def is_behind(self) -> bool:
        return self._spans.is_paused

    async def settle(self, watermark_ms: int, source: int, run: BatchRun, *, may_pause: bool) -> bool:
        spans = self._spans
        if spans.next_ms > watermark_ms and not spans.is_paused:
            spans.pass_by(watermark_ms)
            return True
        # What comes beside must not change the window: no slice is shared, no record that belongs to it is held back.
        self._is_pausing = may_pause and not spans.is_sliced and len(self.room.held) == 0
        while (start := spans.get_due(watermark_ms)) is not None:
            close = self._close_sliced if spans.is_sliced else self._close
            if not await close(start, source, run):
                if run.is_closed:
                    return False
                spans.pause()
                return True
            spans.close(start)
        for slot in spans.take_drops(watermark_ms):
            self._drop(slot, source, run)
        spans.pass_by(watermark_ms)
        return True

    async def _close(self, start: int, source: int, run: BatchRun) -> bool:
        """Emit a window that is due, but for keys that are held back; return whether all of it had room."""
        has_held = len(self.room.held) > 0
        if self.windowing.emit is None and not has_held:
            return True
        slot = self._table.slots[start]
        if not slot.is_whole:
            return await self._close_stored(start, source, run)
        dirty = slot.dirty if self._updates else None
        return self._emit_all(start, self._left_of(start, slot.entries), dirty, source, run)

    def _emit_all(
        self, start: int, left: list[Entry], dirty: Collection[Key] | None, source: int, run: BatchRun
    ) -> bool:
        """Emit the states of a window, from the end of `left`, of those that are `dirty` if that is given.

        Return whether all had room, or half of it where it is pausing; then nothing is left. What is dirty always has:
        it is no more than the batch changed.
        """
        end = start + self._spans.size_ms
        has_held = len(self.room.held) > 0
        while left:
            if not has_held and dirty is None:
                some = left[: -self._chunk - 1 : -1]
                done = self.emit_all(start, end, some, source, run)
                key = some[done - 1][0]
                del left[-done:]
            else:
                key, state = left.pop()
                is_withheld = has_held and self.is_held(key)
                if is_withheld:
                    self._spans.withhold(start, key)
                if not is_withheld and (dirty is None or key in dirty):
                    self.emit(key, start, end, state, source, run)
                if dirty is not None:
                    continue
            if run.is_closed or (self._is_pausing and run.is_half_full):
                self._closing, self._left = (start, key), (start, left)
                return False
        self._closing = self._left = None
        return True

    def _left_of(self, start: int, states: Mapping[Key, Any]) -> list[Entry]:
        """Return the states of a window that were not emitted yet, the first key of them last."""
        if self._left is not None and self._left[0] == start:
            return self._left[1]
        order = _text_of if None in states else itemgetter(0)
        ordered = sorted(states.items(), key=order, reverse=True)
        if self._closing is not None and self._closing[0] == start:  # by the owner before
            last = _text_of((self._closing[1], None))
            ordered = [entry for entry in ordered if _text_of(entry) > last]
        return ordered

    async def _close_stored(self, start: int, source: int, run: BatchRun) -> bool:
        """Close a window of which not all is in memory, page by page."""
        table, consumer, slot = self._table, self.room.consumer, self._table.slots[start]
        closing = self._closing
        low = encode_key(closing[1]) if closing is not None and closing[0] == start else None
        while True:
            begin = low
            page = await self.ask(
                "read windows",
                lambda: consumer.scan_windows(start, after=begin, max_entries=_PAGE),  # noqa: B023 (awaited here)
            )
            is_last = len(page) < _PAGE
            states = [*table.overlay(start, page, low, is_last=is_last)][::-1]
            if not self._emit_all(start, states, slot.dirty if self._updates else None, source, run):
                self._left = None
                return False
            if is_last:
                return True
            low = page[-1][0]

    async def _close_sliced(self, start: int, source: int, run: BatchRun) -> bool:
        """Emit a window that is made up of slices; return whether all of it had room."""
        if self.windowing.emit is None:
            return True
        table, slices = self._table, self._slices
        assert slices is not None
        if self._left is not None and self._left[0] == start:
            return self._emit_all(start, self._left[1], None, source, run)
        dirty: Collection[Key] | None = None
        if self._updates:
            end = start + self._spans.size_ms
            dirty = {key for slot in table.touched if start <= slot < end for key in table.slots[slot].dirty}
            wanted = dirty | self.held_keys()  # of what is held back a window stays open, changed or not
            if wanted and table.has_partial:
                slots = [slot for slot in self._spans.slots_of(start) if slot in table.slots]
                await self._load_places([(slot, key) for slot in slots for key in wanted])
            combined = {key: slices.combine_one(start, key, table.slots) for key in wanted}
            states = {key: state for key, state in combined.items() if state is not None}
        else:
            whole, places = slices.wanted(start)
            for slot in whole:
                if slot in table.slots:
                    await self._make_whole(slot)
            await self._load_places([place for place in places if place[0] in table.slots])
            states = slices.combine(start, table.slots)
        return self._emit_all(start, self._left_of(start, states), dirty, source, run)

    async def _make_whole(self, slot: int) -> None:
        table, consumer = self._table, self.room.consumer
        if table.slots[slot].is_whole:
            return
        after: bytes | None = None
        while True:
            begin = after
            page = await self.ask(
                "read windows",
                lambda: consumer.scan_windows(slot, after=begin, max_entries=_PAGE),  # noqa: B023 (awaited here)
            )
            table.fill_page(slot, page)
            if len(page) < _PAGE:
                break
            after = page[-1][0]
        table.make_whole(slot)

    def _drop(self, slot: int, source: int, run: BatchRun) -> None:
        spans, table = self._spans, self._table
        if self._updates and not spans.closes and not spans.is_sliced:
            self._update_slot(slot, source, run)
        table.drop(slot)

    # Once a batch

    async def conclude(self, source: int, run: BatchRun) -> None:
        if self._spans.next_ms > self.watermark_ms and not self._spans.is_paused:
            self._spans.pass_by(self.watermark_ms)
        if self._spans.withheld:
            free = [key for key in self._spans.withheld if not self.is_held(key)]
            await self._release(sorted(free, key=lambda key: key or ""), NEVER, source, run)
        for slot in self._spans.take_postponed():
            if slot in self._table.slots:
                self._table.drop(slot)
        if self._updates:
            await self._update(source, run)

    async def _release(self, keys: Sequence[Key], watermark_ms: int, source: int, run: BatchRun) -> None:
        """Close the windows that waited for keys, those that were due at a watermark."""
        spans, table = self._spans, self._table
        places = [(start, key) for key in keys for start in spans.take_withheld(key, watermark_ms)]
        slots_of = {start: [slot for slot in spans.slots_of(start) if slot in table.slots] for start, _ in places}
        await self._load_places([(slot, key) for start, key in places for slot in slots_of[start]])
        for start, key in places:
            state = self._state_of(start, key)
            is_news = not self._updates or any(key in table.slots[slot].dirty for slot in slots_of[start])
            if state is not None and is_news:
                self.emit(key, start, start + spans.size_ms, state, source, run)

    def _state_of(self, start: int, key: Key) -> Any:
        """Return the state of a window for a key; None where it has none. It is loaded."""
        if self._slices is not None:
            return self._slices.combine_one(start, key, self._table.slots)
        slot = self._table.slots.get(start)
        return None if slot is None else slot.entries.get(key)

    def _is_told(self, start: int, key: Key) -> bool:
        """Return whether a change of a window is told now: what is closed was told of when it was."""
        spans = self._spans
        return not spans.closes or start + spans.due_after_ms > spans.frontier_ms or spans.is_withheld(start, key)

    async def _update(self, source: int, run: BatchRun) -> None:
        spans, table = self._spans, self._table
        if not spans.is_sliced:
            for start in sorted(table.touched):
                self._update_slot(start, source, run)
            return
        slices = self._slices
        assert slices is not None
        changed: dict[Key, set[int]] = {}
        for slot in table.touched:
            for key in table.slots[slot].dirty:
                told = [start for start in spans.starts_in(slot) if self._is_told(start, key)]
                changed.setdefault(key, set()).update(told)
        ordered = {key: sorted(starts) for key, starts in changed.items()}
        if table.has_partial:
            places = ((slot, key) for key, starts in ordered.items() for slot in slices.slots_of(starts))
            await self._load_places([place for place in places if place[0] in table.slots])
        news: list[tuple[int, str, Key, Any]] = []
        for key, starts in ordered.items():
            news += [
                (start, key or "", key, state) for start, state in slices.combine_key(key, starts, table.slots).items()
            ]
        news.sort(key=itemgetter(0, 1))
        for start, _, key, state in news:
            self.emit(key, start, start + spans.size_ms, state, source, run)

    def _update_slot(self, start: int, source: int, run: BatchRun) -> None:
        slot = self._table.slots[start]
        for key in sorted(slot.dirty, key=lambda key: key or ""):
            state = slot.entries.get(key)
            if state is not None and self._is_told(start, key):
                self.emit(key, start, start + self._spans.size_ms, state, source, run)

    # For the commit

    def take_changes(self) -> Changes:
        return self._table.take_changes()

    def note(self, held_ms: Mapping[int, int]) -> Progress:
        withheld = [(start, key) for key, starts in self._spans.withheld.items() for start in sorted(starts)]
        spans = self._spans
        return Progress(
            self.watermark_ms,
            spans.frontier_ms,
            spans.closed_ms,
            closing=self._closing,
            withheld=withheld,
            held=held_ms,
        )


def _text_of(entry: Entry) -> tuple[bool, str]:
    """Return what entries are sorted by: the keyless one first."""
    key = entry[0]
    return key is not None, key or ""
