"""Records of a test: events as they are emitted, with the test's own time."""

from datetime import datetime
from math import isfinite
from typing import Any, Final

import orjson

from pspf.errors import ConfigurationError
from pspf.events.durations import Duration, as_ms
from pspf.events.encoding import encode, encode_at, has_own_timestamp
from pspf.events.event import BaseEvent
from pspf.events.timestamps import datetime_of, ms_of
from pspf.events.topic import DeclaredTopic
from pspf.records import NewRecord

_ROUNDING_MS: Final = 1e-6


def make_record(
    event: Any,
    key: str | None,
    timestamp: datetime | float | str | None,
    raw_headers: bytes | None,
    declared: DeclaredTopic | None,
) -> NewRecord:
    """Return the record of an event; bytes are stored as they are. Without a `timestamp` it has the clock's.

    It goes under the key of a `declared` topic. Whether it fits the topic's schema is not asked: handlers are to be
    tested with what does not.
    """
    if isinstance(event, bytes):
        record = NewRecord(None if key is None else key.encode(), event, raw_headers)
    else:
        record = encode(event, key=key, raw_headers=raw_headers)
        if declared is not None and declared.key is not None:
            record = declared.under_key(event, record)
    if timestamp is not None:
        time_ms = ms_of(timestamp)  # rounded as that of an event is
        value = record.value if isinstance(event, bytes) else _with_timestamp(record.value, datetime_of(time_ms))
        return record._replace(value=value, timestamp_ms=time_ms)
    if isinstance(event, BaseEvent) and "timestamp" not in event.model_fields_set:
        return record._replace(value=_with_timestamp(record.value, None))  # the real time says nothing in a test
    return record


def _with_timestamp(value: bytes, at: datetime | None) -> bytes:
    """Return an event whose `timestamp`, where it has one, is another one, written alike; None leaves it out."""
    fields = orjson.loads(value)
    before = fields.pop("timestamp", None)
    if before is None:
        return value
    if at is not None:
        fields["timestamp"] = at.isoformat() if isinstance(before, str) else at.timestamp()
    return orjson.dumps(fields)


def has_time(event: Any) -> bool:
    """Return whether an event has a time that was set; of bytes it is not known."""
    return isinstance(event, bytes) or has_own_timestamp(event)


def at_time(event: Any, record: NewRecord, time_ms: int) -> NewRecord:
    """Return the record of an event that has no time of its own, at a time."""
    timed = encode_at(event, time_ms, raw_headers=record.raw_headers)
    return timed._replace(raw_key=record.raw_key)


def parse_step(name: str, by: Duration | float) -> int:
    """Return milliseconds to move a clock by; a float may be off by what its kind can't hold.

    Raises:
        ConfigurationError: It is no whole number of milliseconds, 0 or more, a timedelta or text such as `10s`.
    """
    whole: object = by
    if isinstance(by, float) and isfinite(by) and abs(by - round(by)) < _ROUNDING_MS:
        whole = round(by)
    if isinstance(whole, float) or (type(whole) is int and whole < 0):
        raise ConfigurationError(f"{name}: a clock goes on by whole milliseconds, 0 or more, not by {by!r:.80}")
    by_ms = as_ms("StreamTester", name, whole)
    if by_ms < 0:
        raise ConfigurationError(f"{name}: a clock goes on by whole milliseconds, 0 or more, not by {by!r:.80}")
    return by_ms
