"""Updates of tumbling and sliding windows: what changed in a batch is emitted at its end."""

from operator import itemgetter
from typing import Any

from pspf.engine.batch_outcome import BatchRun
from pspf.engine.operators.span_state import SpanState
from pspf.engine.operators.window_results import WindowResults
from pspf.windowing.event_time import Key


class SpanUpdates:
    """Emits each window and key that changed, once a batch."""

    def __init__(self, state: SpanState, results: WindowResults) -> None:
        self._state = state
        self._results = results

    async def emit_changed(self, source: int, run: BatchRun) -> None:
        """Emit what changed in all windows."""
        if self._state.slices is not None:
            await self._emit_sliced(source, run)
            return
        for start in sorted(self._state.table.touched):
            self.emit_slot(start, source, run)

    def emit_slot(self, start: int, source: int, run: BatchRun) -> None:
        """Emit what changed in a window that has a slot of its own."""
        state = self._state
        slot = state.table.slots[start]
        for key in sorted(slot.dirty, key=lambda key: key or ""):
            value = slot.entries.get(key)
            if value is not None and state.takes_updates(start, key):
                self._results.emit(key, start, start + state.spans.size_ms, value, source, run)

    async def _emit_sliced(self, source: int, run: BatchRun) -> None:
        """Emit what changed in windows that share slices: a changed slice changes each window that it is part of."""
        state = self._state
        spans, table, slices = state.spans, state.table, state.slices
        assert slices is not None
        changed: dict[Key, set[int]] = {}
        for slot in table.touched:
            for key in table.slots[slot].dirty:
                starts = [start for start in spans.starts_in(slot) if state.takes_updates(start, key)]
                changed.setdefault(key, set()).update(starts)
        ordered = {key: sorted(starts) for key, starts in changed.items()}
        if table.has_partial:
            await state.load([(slot, key) for key, starts in ordered.items() for slot in slices.slots_of(starts)])
        news: list[tuple[int, str, Key, Any]] = []
        for key, starts in ordered.items():
            news += [
                (start, key or "", key, value) for start, value in slices.combine_key(key, starts, table.slots).items()
            ]
        news.sort(key=itemgetter(0, 1))
        for start, _, key, value in news:
            self._results.emit(key, start, start + spans.size_ms, value, source, run)
