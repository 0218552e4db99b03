"""Results of windows: what a window has come to for a key, as the app wants it."""

from collections.abc import Sequence
from typing import Any

from pspf.engine.batch_outcome import BatchRun
from pspf.engine.operators.results import Results
from pspf.windowing.definitions import Windowing
from pspf.windowing.event_time import Key
from pspf.windowing.folds import Fold
from pspf.windowing.results import encode_result, encode_results, make_encoder


class WindowResults:
    """The results of one windowed handler."""

    def __init__(self, windowing: Windowing, fold: Fold, results: Results) -> None:
        self._topic = windowing.to
        declared = results.find_schema(windowing.to)
        self._is_plain = windowing.result is None and declared is None
        self._encode = make_encoder(windowing.result, None if declared is None else declared.check)
        self._fold = fold
        self._results = results

    def emit(self, key: Key, start_ms: int, end_ms: int, state: Any, source: int, run: BatchRun) -> None:
        """Emit what a window has come to for a key."""
        if self._topic is None:
            return
        result = key, start_ms, end_ms, self._fold.to_json(state)
        self._results.emit(self._topic, self._encode, result, source, run, encode_result)

    def emit_all(
        self, start_ms: int, end_ms: int, states: Sequence[tuple[Key, Any]], source: int, run: BatchRun
    ) -> int:
        """Emit what a window has come to for some keys; return for how many the batch had room, one at least."""
        topic = self._topic
        if topic is None:
            return len(states)
        if self._is_plain:
            keys, values = zip(*states, strict=True)
            if self._results.emit_all(
                topic, lambda: encode_results(start_ms, end_ms, keys, self._fold.to_json_all(values)), source, run
            ):
                return len(states)
        for done, (key, state) in enumerate(states, 1):
            self.emit(key, start_ms, end_ms, state, source, run)
            if run.is_closed:
                return done
        return len(states)
