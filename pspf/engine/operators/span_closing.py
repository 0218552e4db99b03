"""Closing of tumbling and sliding windows that are due: their results, in bounded parts."""

from collections.abc import Collection, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final

from pspf.engine.batch_outcome import BatchRun
from pspf.engine.operators.admission import Admission
from pspf.engine.operators.context import OperatorContext
from pspf.engine.operators.span_state import PAGE, SpanState
from pspf.engine.operators.span_updates import SpanUpdates
from pspf.engine.operators.window_results import WindowResults
from pspf.windowing.definitions import Windowing
from pspf.windowing.event_time import Key, encode_key
from pspf.windowing.spans import NEVER

_RESULTS: Final = 64
"""How many results are made at once, at most."""

Entry = tuple[Key, Any]
"""A grouping key and its state."""


class SpanClosing:
    """Closes the windows of one cursor, each once for each key."""

    def __init__(
        self,
        context: OperatorContext,
        windowing: Windowing,
        state: SpanState,
        results: WindowResults,
        updates: SpanUpdates,
    ) -> None:
        self._state = state
        self._results = results
        self._updates = updates
        self._admission: Admission = context.admission
        self._emits = windowing.emit is not None
        self._emits_updates = windowing.emit == "updates"
        self._chunk = max(1, min(_RESULTS, context.scope.limits.operations // 4))
        self.closing: tuple[int, Key] | None = None
        """The window that is being closed, and the last key of it that is done."""
        self._left: tuple[int, list[Entry]] | None = None
        """The states of the window at `closing` that are in memory and still to be emitted, the next one last."""
        self._is_pausing = False
        """Whether a window that is closed takes half of a batch, and records the rest."""

    async def close_due(self, watermark_ms: int, source: int, run: BatchRun, *, may_pause: bool) -> bool:
        """Close all that is due; return whether records can go on: not where the batch had no room for it."""
        spans = self._state.spans
        if spans.next_ms > watermark_ms and not spans.is_paused:
            spans.pass_by(watermark_ms)
            return True
        # What comes beside must not change the window: no slice is shared, no record that belongs to it is held back.
        self._is_pausing = may_pause and not spans.is_sliced and len(self._admission.held) == 0
        while (start := spans.get_due(watermark_ms)) is not None:
            close = self._close_sliced if spans.is_sliced else self._close
            if not await close(start, source, run):
                if run.is_closed:
                    return False
                spans.pause()
                return True
            spans.close(start)
        for slot in spans.take_drops(watermark_ms):
            if self._emits_updates and not spans.closes and not spans.is_sliced:
                self._updates.emit_slot(slot, source, run)
            self._state.table.drop(slot)
        spans.pass_by(watermark_ms)
        return True

    async def _close(self, start: int, source: int, run: BatchRun) -> bool:
        """Emit a window that is due, but for keys that are held back; return whether all of it had room."""
        if not self._emits and len(self._admission.held) == 0:
            return True
        slot = self._state.table.slots[start]
        if not slot.is_whole:
            return await self._close_stored(start, source, run)
        dirty = slot.dirty if self._emits_updates else None
        return self._emit_left(start, self._left_of(start, slot.entries), dirty, source, run)

    def _emit_left(
        self, start: int, left: list[Entry], dirty: Collection[Key] | None, source: int, run: BatchRun
    ) -> bool:
        """Emit the states of a window, from the end of `left`, of those that are `dirty` if that is given.

        Return whether all had room, or half of it where it is pausing; then nothing is left. What is dirty always has:
        it is no more than the batch changed.
        """
        end = start + self._state.spans.size_ms
        has_held = len(self._admission.held) > 0
        while left:
            if not has_held and dirty is None:
                some = left[: -self._chunk - 1 : -1]
                done = self._results.emit_all(start, end, some, source, run)
                key = some[done - 1][0]
                del left[-done:]
            else:
                key, state = left.pop()
                is_withheld = has_held and self._admission.is_held(key)
                if is_withheld:
                    self._state.spans.withhold(start, key)
                if not is_withheld and (dirty is None or key in dirty):
                    self._results.emit(key, start, end, state, source, run)
                if dirty is not None:
                    continue
            if run.is_closed or (self._is_pausing and run.is_half_full):
                self.closing, self._left = (start, key), (start, left)
                return False
        self.closing = self._left = None
        return True

    def _left_of(self, start: int, states: Mapping[Key, Any]) -> list[Entry]:
        """Return the states of a window that were not emitted yet, the first key of them last."""
        if self._left is not None and self._left[0] == start:
            return self._left[1]
        order = _text_of if None in states else itemgetter(0)
        ordered = sorted(states.items(), key=order, reverse=True)
        if self.closing is not None and self.closing[0] == start:  # by the owner before
            last = _text_of((self.closing[1], None))
            ordered = [entry for entry in ordered if _text_of(entry) > last]
        return ordered

    async def _close_stored(self, start: int, source: int, run: BatchRun) -> bool:
        """Close a window of which not all is in memory, page by page."""
        table, slot, closing = self._state.table, self._state.table.slots[start], self.closing
        low = encode_key(closing[1]) if closing is not None and closing[0] == start else None
        while True:
            page = await self._state.scan_slot(start, low)
            is_last = len(page) < PAGE
            states = [*table.overlay(start, page, low, is_last=is_last)][::-1]
            if not self._emit_left(start, states, slot.dirty if self._emits_updates else None, source, run):
                self._left = None
                return False
            if is_last:
                return True
            low = page[-1][0]

    async def _close_sliced(self, start: int, source: int, run: BatchRun) -> bool:
        """Emit a window that is made up of slices; return whether all of it had room."""
        if not self._emits:
            return True
        if self._left is not None and self._left[0] == start:
            return self._emit_left(start, self._left[1], None, source, run)
        state = self._state
        table, slices = state.table, state.slices
        assert slices is not None
        dirty: Collection[Key] | None = None
        if self._emits_updates:
            # Only what changed since the last commit is news, so that no other key is merged.
            end = start + state.spans.size_ms
            dirty = {key for slot in table.touched if start <= slot < end for key in table.slots[slot].dirty}
            # Of what is held back a window stays open, changed or not.
            wanted = dirty | self._admission.held_keys()
            if wanted and table.has_partial:
                await state.load([(slot, key) for slot in state.spans.slots_of(start) for key in wanted])
            combined = {key: slices.combine_one(start, key, table.slots) for key in wanted}
            states = {key: value for key, value in combined.items() if value is not None}
        else:
            # The slices know which slots they have merged already: the others are loaded whole.
            whole, places = slices.wanted(start)
            for slot in whole:
                if slot in table.slots:
                    await state.load_slot(slot)
            await state.load(places)
            states = slices.combine(start, table.slots)
        return self._emit_left(start, self._left_of(start, states), dirty, source, run)

    # Windows that stayed open for a key of which a record was not done

    async def release_free(self, source: int, run: BatchRun) -> None:
        """Close the windows that waited for keys of which all records are done, and drop the slots they kept."""
        spans, table = self._state.spans, self._state.table
        if spans.withheld:
            free = [key for key in spans.withheld if not self._admission.is_held(key)]
            await self.release(sorted(free, key=lambda key: key or ""), NEVER, source, run)
        for slot in spans.take_postponed():
            if slot in table.slots:
                table.drop(slot)

    async def release(self, keys: Sequence[Key], watermark_ms: int, source: int, run: BatchRun) -> None:
        """Close the windows that waited for keys, those that were due at a watermark."""
        state = self._state
        spans = state.spans
        places = [(start, key) for key in keys for start in spans.take_withheld(key, watermark_ms)]
        await state.load([(slot, key) for start, key in places for slot in spans.slots_of(start)])
        for start, key in places:
            value = state.state_of(start, key)
            is_news = not self._emits_updates or state.is_dirty(start, key)
            if value is not None and is_news:
                self._results.emit(key, start, start + spans.size_ms, value, source, run)


def _text_of(entry: Entry) -> tuple[bool, str]:
    """Return what entries are sorted by: the keyless one first."""
    key = entry[0]
    return key is not None, key or ""
