"""Event time: taken from an event's `timestamp` or from its record."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import SchemaValidator, core_schema

from pspf.clock import Clock
from pspf.errors import SchemaError
from pspf.loggers import get_logger
from pspf.records import Record

logger = get_logger(__name__)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 (naive times are UTC)
_TEXT: Final = SchemaValidator(core_schema.datetime_schema())
_READ_EPOCH: Final[datetime] = _TEXT.validate_json(b'"1970-01-01T00:00:00Z"')
"""The epoch in the zone object that UTC has where pydantic reads it."""
_READ_UTC: Final = _READ_EPOCH.tzinfo
_MS: Final = timedelta(milliseconds=1)
_SECONDS_BELOW: Final = 2e10
"""Numbers above are milliseconds: what events of PSPF's own model mean by a number, too."""
_WARN_EVERY_S: Final = 60.0
_MAX_MS: Final = 253_402_300_799_999  # the end of the year 9999


def time_of(event: Any, record: Record) -> int:
    """Return the event time of a record: its event's `timestamp`, else the record's own.

    A timestamp is a datetime (a naive one is UTC), ISO text, or seconds since the epoch.

    Raises:
        SchemaError: The timestamp has another form.
    """
    value = event.get("timestamp") if isinstance(event, dict) else getattr(event, "timestamp", None)
    if type(value) is datetime:
        # Of two times whose zones are one object the difference is taken without asking it: a fifth of the price.
        zone = value.tzinfo
        if zone is _READ_UTC:
            return (value - _READ_EPOCH) // _MS
        if zone is None:
            return (value - _NAIVE_EPOCH) // _MS
    return record.timestamp_ms if value is None else _as_ms(value)


NO_LIMIT_MS: Final = 1 << 62


def find_latest_ms(max_future_ms: int | None, clock: Clock) -> int:
    """Return the latest event time that is taken: so far ahead of the clock, or of the real time under a test's."""
    if max_future_ms is None:
        return NO_LIMIT_MS
    return max(clock.now_ms(), time.time_ns() // 1_000_000) + max_future_ms


class FutureGuard:
    """Refuses event times that are too far ahead, and warns of them once a minute at most."""

    def __init__(self, handler: str) -> None:
        self._handler = handler
        self._warned_s = -_WARN_EVERY_S
        self._untold = 0

    def refuse(self, record: Record, time_ms: int, latest_ms: int) -> SchemaError:
        """Return the failure of a record whose event time is behind `latest_ms`."""
        at = datetime_of(time_ms)
        shown = str(time_ms) if at is None else at.isoformat()
        if time.monotonic() - self._warned_s >= _WARN_EVERY_S:
            logger.warning(
                "%s, partition %d, offset %s: its event time %s is beyond what max_future_ms= of %s takes, by %d ms;"
                " it closes no window and becomes a dead letter%s",
                record.topic,
                record.partition,
                record.id,
                shown,
                self._handler,
                time_ms - latest_ms,
                f" ({self._untold} more since the last warning)" if self._untold else "",
                extra={
                    "topic": record.topic,
                    "partition": record.partition,
                    "id": record.id,
                    "handler": self._handler,
                    "event_time_ms": time_ms,
                },
            )
            self._warned_s, self._untold = time.monotonic(), 0
        else:
            self._untold += 1
        return SchemaError(
            f"event time {shown} is {time_ms - latest_ms:,} ms further ahead of the clock than max_future_ms= of its"
            " window takes: it would close all windows before it; mend its timestamp, or give another max_future_ms="
            " (None takes all)"
        )


def ms_of(value: object) -> int:
    """Return a time as milliseconds: of a datetime (a naive one is UTC), ISO text, or seconds since the epoch.

    Raises:
        SchemaError: It has another form.
    """
    return _as_ms(value)


def _as_ms(value: object) -> int:
    if isinstance(value, str):
        value = _read_text(value)
    if isinstance(value, datetime):
        aware = value.replace(tzinfo=UTC) if value.tzinfo is None else value
        return (aware - _EPOCH) // _MS
    if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value):
        time_ms = round(value * 1_000_000) // 1_000 if abs(value) <= _SECONDS_BELOW else round(value)
        if abs(time_ms) <= _MAX_MS:
            return time_ms
    raise SchemaError(f"timestamp {value!r:.80} is no datetime, ISO text or seconds since the epoch")


def _read_text(value: str) -> datetime:
    """Return the time that text names, as models read it: ISO 8601, or a number, which counts as one."""
    try:
        found: datetime = _TEXT.validate_python(value)
    except ValidationError:
        try:  # forms of ISO 8601 that only the standard library knows
            found = datetime.fromisoformat(value)
        except ValueError as error:
            raise SchemaError(f"timestamp {value!r:.80} is no ISO time") from error
    return found


def datetime_of(time_ms: int) -> datetime | None:
    """Return a time as a datetime; None outside of the years 1 to 9999."""
    try:
        return _EPOCH + timedelta(milliseconds=time_ms)
    except OverflowError:
        return None


def latest_of(events: Sequence[Any], records: Sequence[Record]) -> int:
    """Return the latest event time of some records; what has none that can be read counts by its record's."""
    return max(_time_or_own(event, record) for event, record in zip(events, records, strict=True))


def _time_or_own(event: Any, record: Record) -> int:
    try:
        return time_of(event, record)
    except SchemaError:
        return record.timestamp_ms
