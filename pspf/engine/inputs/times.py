"""Event time of a record that is not decoded yet, for the order among several topics."""

import time
from typing import Final

import orjson

from pspf.clock import Clock
from pspf.engine.inputs.merge import ReadTime
from pspf.errors import SchemaError
from pspf.events.timestamps import find_latest_ms, time_of
from pspf.records import Record

_FUTURE_MS: Final = 3_600_000
"""A time so far ahead of the clock is a mistake: its record would wait until all other topics are empty."""


def make_read_time(clock: Clock) -> ReadTime:
    """Return what reads the `timestamp` of a record's JSON object, else takes its record's time. It raises nothing.

    One that is too far ahead of the clock counts as what is read now.
    """

    def read(record: Record) -> int:
        time_ms = _time_of(record)
        if time_ms <= find_latest_ms(_FUTURE_MS, clock):
            return time_ms
        return max(clock.now_ms(), time.time_ns() // 1_000_000)

    return read


def _time_of(record: Record) -> int:
    if b"timestamp" not in record.value:
        return record.timestamp_ms
    try:
        event = orjson.loads(record.value)
        return time_of(event, record) if isinstance(event, dict) else record.timestamp_ms
    except (ValueError, RecursionError, SchemaError):  # its own handler says what is wrong with it
        return record.timestamp_ms
