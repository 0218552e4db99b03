"""Which time and which grouping key a record has for a windowed aggregation."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import Any, Final

from pydantic_core import SchemaValidator, core_schema

from pspf import codec
from pspf.errors import EventRejected, SchemaError
from pspf.records import Record

Key = str | None
"""A grouping key; None: all records without one are together."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 (naive times are UTC)
_READ_EPOCH: Final[datetime] = SchemaValidator(core_schema.datetime_schema()).validate_json(b'"1970-01-01T00:00:00Z"')
"""The epoch in the zone object that UTC has where pydantic reads it."""
_READ_UTC: Final = _READ_EPOCH.tzinfo
_MS: Final = timedelta(milliseconds=1)
_SECONDS_BELOW: Final = 2e10
"""Numbers above are milliseconds: what events of PSPF's own model mean by a number, too."""
_MAX_MS: Final = 253_402_300_799_999  # the end of the year 9999


def time_of(event: Any, record: Record) -> int:
    """Return the event time of a record: its event's `timestamp`, else the record's own.

    A timestamp is a datetime (a naive one is UTC), ISO text, or seconds since the epoch.

    Raises:
        SchemaError: The timestamp is none of these.
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


def check_future(time_ms: int, max_future_ms: int, now_ms: int) -> None:
    """Raise SchemaError where an event time is further ahead of the clock than is taken."""
    if time_ms > now_ms + max_future_ms:
        raise SchemaError(f"event time {time_ms} is {time_ms - now_ms} ms ahead; at most {max_future_ms} are taken")


def _as_ms(value: object) -> int:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise SchemaError(f"timestamp {value!r:.80} is no ISO time") from error
    if isinstance(value, datetime):
        aware = value.replace(tzinfo=UTC) if value.tzinfo is None else value
        return (aware - _EPOCH) // _MS
    if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value):
        time_ms = round(value * 1_000_000) // 1_000 if abs(value) <= _SECONDS_BELOW else round(value)
        if abs(time_ms) <= _MAX_MS:
            return time_ms
    raise SchemaError(f"timestamp {value!r:.80} is no datetime, ISO text or seconds since the epoch")


KeyReader = Callable[[Any, Record], Key]


def make_key_reader(key: str | Callable[[Any], Any] | None) -> KeyReader:
    """Return what reads the grouping key: the field or function `key`, else the event's key or the record's.

    It raises SchemaError for a value that is no text, integer or UUID.
    """
    if key is None:
        return _own_key
    if isinstance(key, str):
        name = key
        return lambda event, record: _as_key(event.get(name) if isinstance(event, dict) else getattr(event, name, None))
    function = key

    def read(event: Any, record: Record) -> Key:
        found = _as_key(function(event))
        if found is not None:
            try:
                found.encode()
            except UnicodeEncodeError as error:
                raise SchemaError(f"key {found!r:.80} can't be written as UTF-8") from error
        return found

    return read


def _own_key(event: Any, record: Record) -> Key:
    key = event.get("key") if isinstance(event, dict) else getattr(event, "key", None)
    if type(key) is str:
        return key
    return record.key if key is None else _as_key(key)


def make_strict_key_reader(partitions: int) -> KeyReader:
    """Return what reads the grouping key on a topic of several partitions, where it has to be the record's own.

    Elsewhere one grouping key would be in two partitions, and be counted apart in each.
    """

    def read(event: Any, record: Record) -> Key:
        key = _own_key(event, record)
        if key is None:
            raise SchemaError(
                f"no key, and {record.topic} has {partitions} partitions: what has none would be counted apart in"
                " each; emit with a key, or give the window key="
            )
        if record.raw_key != key.encode("utf-8", "surrogatepass"):
            raise SchemaError(
                f"the event's key {key!r:.80} is not its record's, and {record.topic} has {partitions} partitions: it"
                ' would be counted apart in each; emit with that key, or give the window key="key"'
            )
        return key

    return read


def _as_key(value: object) -> Key:
    if value is None or type(value) is str:
        return value
    try:
        return codec.text_of("key", value)
    except EventRejected as error:
        raise SchemaError(str(error)) from error


_KEYLESS: Final = b""
_MARK: Final = b"="


def encode_key(key: Key) -> bytes:
    """Return a grouping key as it is stored; in the order of their bytes keys are in the order of their text."""
    return _KEYLESS if key is None else _MARK + key.encode()


def decode_key(stored: bytes) -> Key:
    """Return the grouping key that `encode_key` gave."""
    return stored[1:].decode() if stored else None
