"""Definitions of windows: tumbling, sliding, session; size, lateness and emit policy. Values only.

A window is `[start, end)`, aligned to the epoch, before it too. Settings are durations, kept
in whole milliseconds; `assign_windows` speaks seconds, as a user who holds a timestamp does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import gcd, isfinite
from typing import Any, ClassVar, Final, Literal, NamedTuple

from pspf.errors import ConfigurationError
from pspf.events.durations import Duration, as_ms, describe_ms
from pspf.events.fields import check_field
from pspf.loggers import get_logger
from pspf.records import check_name, companion_source
from pspf.windowing.aggregation import Aggregation
from pspf.windowing.aggregations import Count
from pspf.windowing.operator_definition import OperatorDefinition

logger = get_logger(__name__)

Emission = Literal["final", "updates"]
Span = tuple[float, float]

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
_SECOND_MS: Final = 1_000
_MAX_MS: Final = 100 * 366 * DAY_MS


def _as_span(where: str, name: str, value: Duration) -> int:
    """Return a window's size or gap in milliseconds; a bare number below a second is warned about."""
    span_ms = as_ms(where, name, value)
    _check_ms(where, name, span_ms, 1)
    if type(value) is int and value < _SECOND_MS:
        logger.warning(
            '%s(%s=%d) is %d milliseconds: write "%ds" where seconds are meant, "%dms" where they are not',
            where,
            name,
            value,
            value,
            value,
            value,
        )
    return span_ms


def _check_ms(where: str, name: str, value: object, least: int) -> None:
    if type(value) is not int or not least <= value <= _MAX_MS:
        raise ConfigurationError(f"{where}: {name}={value!r}; use whole milliseconds, {least} or more")


def _as_ms(seconds: float) -> int:
    """Return epoch seconds as milliseconds, rounded down; floats are taken to the microsecond."""
    if not isfinite(seconds):
        raise ConfigurationError(f"{seconds!r} is no time")
    return round(seconds * 1_000_000) // 1_000


def _as_offset(offset_ms: int) -> dict[str, int]:
    """Return an offset as it is stored: not at all where there is none, as before there were any."""
    return {"offset": offset_ms} if offset_ms else {}


def _describe_offset(offset_ms: int) -> str:
    return f" at {describe_ms(offset_ms)}" if offset_ms else ""


@dataclass(frozen=True, slots=True, init=False)
class TumblingWindow:
    """Windows of `size_ms`, one after the other without gap or overlap: `TumblingWindow("10s")`.

    They begin `offset` behind multiples of their size since the epoch: with `TumblingWindow("1h", offset="15m")` at a
    quarter past each hour, with `TumblingWindow("1d", offset=timedelta(hours=-8))` at midnight of UTC+8.
    """

    kind: ClassVar[str] = "tumbling"
    size_ms: int
    offset_ms: int

    def __init__(self, size_ms: Duration, *, offset: Duration = 0) -> None:
        object.__setattr__(self, "size_ms", _as_span("TumblingWindow", "size_ms", size_ms))
        object.__setattr__(self, "offset_ms", as_ms("TumblingWindow", "offset", offset) % self.size_ms)

    @property
    def slide_ms(self) -> int:
        """From one window's start to the next one's."""
        return self.size_ms

    @property
    def slice_ms(self) -> int:
        """The longest stretch of which every window is made up whole."""
        return self.size_ms

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes as they are stored."""
        return {"size_ms": self.size_ms} | _as_offset(self.offset_ms)

    def starts_of(self, time_ms: int) -> range:
        """Return the start of the window that holds a time."""
        start = time_ms - (time_ms - self.offset_ms) % self.size_ms
        return range(start, start + 1)

    def assign_windows(self, timestamp: float) -> list[Span]:
        """Return the window of a time: epoch seconds in, `(start, end)` in seconds out."""
        time_ms = _as_ms(timestamp)
        start_ms = time_ms - (time_ms - self.offset_ms) % self.size_ms
        return [(start_ms / 1000, (start_ms + self.size_ms) / 1000)]

    def __str__(self) -> str:
        return f"tumbling {describe_ms(self.size_ms)}{_describe_offset(self.offset_ms)}"


@dataclass(frozen=True, slots=True, init=False)
class SlidingWindow:
    """Windows of `size_ms` that start every `slide_ms` (hopping windows): `SlidingWindow("1h", "5m")`.

    They begin `offset` behind multiples of `slide_ms` since the epoch.
    """

    kind: ClassVar[str] = "sliding"
    size_ms: int
    slide_ms: int
    offset_ms: int

    def __init__(self, size_ms: Duration, slide_ms: Duration, *, offset: Duration = 0) -> None:
        slide = as_ms("SlidingWindow", "slide_ms", slide_ms)
        _check_ms("SlidingWindow", "slide_ms", slide, 1)
        object.__setattr__(self, "size_ms", _as_span("SlidingWindow", "size_ms", size_ms))
        object.__setattr__(self, "slide_ms", slide)
        object.__setattr__(self, "offset_ms", as_ms("SlidingWindow", "offset", offset) % slide)

    def starts_of(self, time_ms: int) -> range:
        """Return the starts of the windows that hold a time, in order; none where windows leave gaps."""
        last = time_ms - (time_ms - self.offset_ms) % self.slide_ms
        beyond = time_ms - self.size_ms  # a window that starts here ends just before the time
        first = beyond + self.slide_ms - (beyond - self.offset_ms) % self.slide_ms
        return range(first, last + 1, self.slide_ms)

    @property
    def slice_ms(self) -> int:
        """The longest stretch of which every window is made up whole."""
        return gcd(self.size_ms, self.slide_ms)

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes as they are stored."""
        return {"size_ms": self.size_ms, "slide_ms": self.slide_ms} | _as_offset(self.offset_ms)

    def assign_windows(self, timestamp: float) -> list[Span]:
        """Return the windows of a time, in order: epoch seconds in, `(start, end)` in seconds out."""
        starts = self.starts_of(_as_ms(timestamp))
        return [(start_ms / 1000, (start_ms + self.size_ms) / 1000) for start_ms in starts]

    def __str__(self) -> str:
        size, slide = describe_ms(self.size_ms), describe_ms(self.slide_ms)
        return f"sliding {size} by {slide}{_describe_offset(self.offset_ms)}"


@dataclass(frozen=True, slots=True, init=False)
class SessionWindow:
    """Windows of activity: records of a key whose times differ by at most `gap_ms` are together.

    A session's window is `[first, last + gap)`.
    """

    kind: ClassVar[str] = "session"
    gap_ms: int

    def __init__(self, gap_ms: Duration) -> None:
        object.__setattr__(self, "gap_ms", _as_span("SessionWindow", "gap_ms", gap_ms))

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes as they are stored."""
        return {"gap_ms": self.gap_ms}

    def assign_windows(self, timestamp: float) -> list[Span]:
        """Return the session that one record alone makes: epoch seconds in, `(start, end)` in seconds out."""
        time_ms = _as_ms(timestamp)
        return [(time_ms / 1000, (time_ms + self.gap_ms) / 1000)]

    def __str__(self) -> str:
        return f"session {describe_ms(self.gap_ms)}"


Window = TumblingWindow | SlidingWindow | SessionWindow


_NOTHING: Final = Count()


class WindowResult(NamedTuple):
    """What a window has come to, for a key (None: all records share one)."""

    key: str | None
    window_start_ms: int
    window_end_ms: int
    value: Any


@dataclass(frozen=True, slots=True)
class Windowing(OperatorDefinition):
    """How a subscription aggregates; times are milliseconds.

    `aggregation` None: the subscription's handler folds, and its state is read as `state_model` (None:
    as JSON is). `key` is the name of a field, or a function of the event; None: the event's key.
    `idle_timeout_ms` of nothing new to read, by the clock, close all that is open; None: event time alone does.
    """

    window: Window
    aggregation: Aggregation | None = None
    state_model: Any = None
    key: str | Callable[[Any], Any] | None = None
    to: str | None = None
    emit: Emission | None = None
    result: Callable[..., Any] | None = None
    merge: Callable[[Any, Any], Any] | None = None
    upcast: Callable[[Any], Any] | None = None
    watermark_delay_ms: int = 0
    allowed_lateness_ms: int = 0
    idle_timeout_ms: int | None = None
    max_future_ms: int | None = HOUR_MS
    own_retention_ms: int | None = None

    @property
    def kind(self) -> str:
        return self.window.kind

    def __str__(self) -> str:
        return str(self.window)

    @property
    def calls_handler(self) -> bool:
        return self.aggregation is None

    @property
    def functions(self) -> dict[str, Any]:
        return {"key": self.key, "result": self.result, "merge": self.merge}

    def as_json(self) -> dict[str, Any]:
        key = self.key
        return {
            "window": str(self.window),
            "aggregation": None if self.aggregation is None else self.aggregation.name,
            "key": getattr(key, "__name__", "a function") if callable(key) else key,
            "emit": self.emit,
            "to": self.to,
            "watermark_delay_ms": self.watermark_delay_ms,
            "allowed_lateness_ms": self.allowed_lateness_ms,
            "idle_timeout_ms": self.idle_timeout_ms,
            "retention_ms": self.retention_ms,
        }

    def check(self, where: str) -> None:
        given: object = self.window
        if not isinstance(given, TumblingWindow | SlidingWindow | SessionWindow):
            raise ConfigurationError(
                f"{where}: window={given!r:.80}; use TumblingWindow(size_ms), SlidingWindow(size_ms, slide_ms)"
                " or SessionWindow(gap_ms)"
            )
        _check_ms(where, "watermark_delay_ms", self.watermark_delay_ms, 0)
        _check_ms(where, "allowed_lateness_ms", self.allowed_lateness_ms, 0)
        for name, value in (
            ("idle_timeout_ms", self.idle_timeout_ms),
            ("max_future_ms", self.max_future_ms),
            ("retention_ms", self.own_retention_ms),
        ):
            if value is not None:
                _check_ms(where, name, value, 1 if name == "idle_timeout_ms" else 0)
        if self.idle_timeout_ms is not None and not self.closes:
            raise ConfigurationError(
                f"{where}: idle_timeout_ms closes windows, and these stay open: give emit='final',"
                " watermark_delay_ms= or allowed_lateness_ms="
            )
        self._check_results(where)
        if self.key is not None and not (callable(self.key) or (self.key and isinstance(self.key, str))):
            raise ConfigurationError(f"{where}: key={self.key!r:.80}; use a field's name or a function of the event")
        if self.merge is not None and not (isinstance(given, SessionWindow) and callable(self.merge)):
            raise ConfigurationError(f"{where}: merge= is a function of two states, for session windows")
        upcast: object = self.upcast
        if upcast is not None and (self.state_model is None or not callable(upcast)):
            raise ConfigurationError(
                f"{where}: upcast= is a function from a stored state, as JSON has it, to one of the model that the"
                " handler's state is annotated with"
            )
        if self.merge is not None and self.aggregation is not None:
            raise ConfigurationError(f"{where}: a ready aggregation merges by itself; leave merge= out")

    def check_fields(self, where: str, model: Any) -> None:
        """Raise ConfigurationError for a field's name that events of a model can't have."""
        named = [*((self.key,) if isinstance(self.key, str) else ()), *(self.aggregation or _NOTHING).fields]
        for name in named:
            check_field(where, model, name)

    def _check_results(self, where: str) -> None:
        if self.emit not in (None, "final", "updates"):
            raise ConfigurationError(f"{where}: emit={self.emit!r}; use 'final', 'updates' or None")
        if (self.emit is None) != (self.to is None):
            raise ConfigurationError(f"{where}: emit= says when results go out and to= where; give both or none")
        if self.result is not None and (self.to is None or not callable(self.result)):
            raise ConfigurationError(f"{where}: result= is a model or a function of a WindowResult, and needs to=")
        if self.to is not None and companion_source(check_name("topic", self.to)) is not None:
            raise ConfigurationError(f"{where}: to={self.to!r}; -dlq and -late are written by PSPF alone")

    @property
    def closes(self) -> bool:
        """Whether windows close and records can be late."""
        return self.emit == "final" or self.watermark_delay_ms > 0 or self.allowed_lateness_ms > 0

    @property
    def due_after_ms(self) -> int:
        """From a window's start (a session's last record) to the watermark at which it is due, or ends."""
        if isinstance(self.window, SessionWindow):
            return self.window.gap_ms + (self.allowed_lateness_ms + 1 if self.closes else 0)
        return self.window.size_ms + self.allowed_lateness_ms

    @property
    def retention_ms(self) -> int:
        """How long after its close (without closing: after its end) a window can still be read."""
        if self.own_retention_ms is not None:
            return self.own_retention_ms
        return 0 if self.closes else DAY_MS

    @property
    def is_sliced(self) -> bool:
        """Whether overlapping windows share slices instead of each having its own state.

        Only what knows how to merge can; and a closed window that stays readable must not change
        with the records that are late for it alone.
        """
        if not isinstance(self.window, SlidingWindow) or self.aggregation is None:
            return False
        return not (self.closes and self.retention_ms > 0)

    @property
    def slice_ms(self) -> int | None:
        """The length of the slices that windows share, None where each has its own state."""
        return self.window.slice_ms if isinstance(self.window, SlidingWindow) and self.is_sliced else None
