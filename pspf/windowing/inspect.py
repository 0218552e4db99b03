"""Windows as they are stored, read without the handler that made them: for people who look from outside.

What a reader has to know of a handler beside its windows (`tell`) is stored with its progress.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from pspf.errors import StateUnreadable
from pspf.windowing.aggregations import Aggregation, Collect, Count, Distinct, Last, Max, Mean, Min, Several, Sum, TopN
from pspf.windowing.definitions import SessionWindow, SlidingWindow, TumblingWindow, Window, Windowing
from pspf.windowing.event_time import Key, decode_key
from pspf.windowing.folds import ReadyFold
from pspf.windowing.session_rows import decode_sessions, read_rows
from pspf.windowing.sessions import SessionSpan

_SIMPLE: Final[Mapping[str, Callable[[str], Aggregation]]] = {
    "count": Count,
    "sum": Sum,
    "min": Min,
    "max": Max,
    "mean": Mean,
    "last": Last,
    "distinct": Distinct,
    "collect": Collect,
}
_FIELD: Final = "value"
"""Any name: what is read here has been taken out of its events already."""


@dataclass(frozen=True, slots=True)
class StoredWindow:
    """One window of a key. `value` is JSON: the result of a ready aggregation, else the state as it is stored.

    It is None where the state lies in slices that only the handler's own aggregation can merge. A window
    that is not open is closed and can still be read.
    """

    key: Key
    start_ms: int
    end_ms: int
    is_open: bool
    value: bytes | None


def tell(windowing: Windowing) -> dict[str, Any]:
    """Return what a reader has to know of a handler's windows; it may change from version to version of the app."""
    window = windowing.window
    due_after_ms: int | None = None
    if windowing.closes and not isinstance(window, SessionWindow):
        due_after_ms = window.size_ms + windowing.allowed_lateness_ms
    aggregation = windowing.aggregation
    return {"due_after_ms": due_after_ms, "ready": None if aggregation is None else _name_of(aggregation)}


def _name_of(aggregation: Aggregation) -> Any:
    """Return a ready aggregation as JSON, None for one that is the user's own."""
    kind = type(aggregation)
    if kind is Several and isinstance(aggregation, Several):
        parts = {name: _name_of(part) for name, part in aggregation.parts.items()}
        return None if None in parts.values() else parts
    if kind is TopN and isinstance(aggregation, TopN):
        return [aggregation.n, aggregation.keeps]
    return next((name for name, simple in _SIMPLE.items() if simple is kind), None)


def _aggregation_of(name: Any) -> Aggregation:
    if isinstance(name, dict):
        return Several({part: _aggregation_of(one) for part, one in name.items()})
    if isinstance(name, list):
        return TopN(_FIELD, name[0], _FIELD if name[1] else None)
    return _SIMPLE[name](_FIELD)


class View:
    """What a cursor's progress says of its windows, and how their states are read."""

    def __init__(self, tree: Mapping[str, Any]) -> None:
        sizes = tree["window"]
        self.window: Window
        match sizes["kind"]:
            case "tumbling":
                self.window = TumblingWindow(sizes["size_ms"])
                self._size_ms = self._slide_ms = sizes["size_ms"]
            case "sliding":
                self.window = SlidingWindow(sizes["size_ms"], sizes["slide_ms"])
                self._size_ms, self._slide_ms = sizes["size_ms"], sizes["slide_ms"]
            case _:
                self.window = SessionWindow(sizes["gap_ms"])
                self._size_ms = self._slide_ms = 0
        self._slice_ms: int | None = tree["slice_ms"]
        self._frontier_ms: int = tree["frontier_ms"]
        self._due_after_ms: int | None = tree.get("due_after_ms")
        self._withheld = {(start, key) for start, key in tree["withheld"]}
        closing = tree["closing"]
        self._closing: tuple[int, Key] | None = None if closing is None else (closing[0], closing[1])
        ready = tree.get("ready")
        self._fold = None if ready is None else ReadyFold(_aggregation_of(ready))

    @property
    def is_session(self) -> bool:
        """Whether windows are sessions: all of a key in one state, under slot 0."""
        return isinstance(self.window, SessionWindow)

    def starts(self, slots: Sequence[int]) -> list[int]:
        """Return the windows that slots are part of, in order; of sessions nothing but slots is known."""
        if self._slice_ms is None:
            return sorted(slots)
        found: list[int] = []
        for slot in sorted(slots):
            beyond = slot - self._size_ms
            first = beyond + self._slide_ms - beyond % self._slide_ms
            if found:
                first = max(first, found[-1] + self._slide_ms)
            found += range(first, slot + 1, self._slide_ms)
        return found

    def slots_of(self, start: int) -> range:
        """Return the slots that may hold a part of a window."""
        return (
            range(start, start + 1) if self._slice_ms is None else range(start, start + self._size_ms, self._slice_ms)
        )

    def is_closed(self, start: int) -> bool:
        """Return whether a window is closed for all keys but those that are withheld."""
        return self._due_after_ms is not None and start + self._due_after_ms <= self._frontier_ms

    def has_withheld(self, start: int) -> bool:
        """Return whether a closed window is still open for a key."""
        return any(withheld == start for withheld, _ in self._withheld)

    def read(self, start: int, stored_key: bytes, states: Sequence[bytes]) -> StoredWindow:
        """Return a window from the states of its slots for a key, in the slots' order."""
        key = decode_key(stored_key)
        is_open = not self.is_closed(start) or (start, key) in self._withheld
        if is_open and self._closing is not None and self._closing[0] == start:
            is_open = _order_of(key) > _order_of(self._closing[1])
        return StoredWindow(key, start, start + self._size_ms, is_open, self._merge(states))

    def read_sessions(self, stored_key: bytes, stored: bytes) -> list[StoredWindow]:
        """Return the sessions of a key that are stored together, by their beginning."""
        return self._tell_sessions(decode_key(stored_key), decode_sessions(stored, bytes, "", 0))

    def read_session_rows(self, rows: Sequence[tuple[bytes, bytes]]) -> list[StoredWindow]:
        """Return the sessions of a key from their rows, by their beginning."""
        found = list(read_rows(rows, bytes, "", 0))
        return self._tell_sessions(found[0][0], [session for _, session in found]) if found else []

    def _tell_sessions(self, key: Key, sessions: Sequence[SessionSpan]) -> list[StoredWindow]:
        assert isinstance(self.window, SessionWindow)
        gap_ms = self.window.gap_ms
        windows = [
            StoredWindow(key, one.first_ms, one.last_ms + gap_ms, not one.is_closed, self._merge([one.state]))
            for one in sessions
        ]
        return sorted(windows, key=lambda window: window.start_ms)

    def _merge(self, states: Sequence[bytes | None]) -> bytes | None:
        there = [state for state in states if state is not None]
        if self._fold is None:
            return there[0] if len(there) == 1 and self._slice_ms is None else None
        if not there:
            return None
        merged, *rest = map(self._fold.decode, there)
        for state in rest:
            merged = self._fold.merge(merged, state)
        return self._fold.to_json(merged)


def read_view(progress: bytes) -> View | None:
    """Return what a cursor's progress says of windows, None where it is not about windows."""
    try:
        tree = orjson.loads(progress)
        return View(tree) if "window" in tree else None
    except (ValueError, KeyError, TypeError) as error:
        raise StateUnreadable(
            f"what a handler remembers of its windows can't be read ({type(error).__name__}: {error}):"
            f" {progress!r:.120}; see `pspf groups inspect`, and seek its cursor with --reset-state"
        ) from error


def _order_of(key: Key) -> tuple[bool, str]:
    return key is not None, key or ""
