"""Records of a test: events as they are emitted, with the test's own time."""

from datetime import datetime
from typing import Any

import orjson

from pspf.events.encoding import encode
from pspf.events.event import BaseEvent
from pspf.events.timestamps import datetime_of, ms_of
from pspf.events.topic import DeclaredTopic
from pspf.records import NewRecord


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
