"""Event time and grouping key of a record in a windowed aggregation."""

from collections.abc import Callable
from typing import Any, Final

from pspf.errors import EventRejected, SchemaError
from pspf.events import codec
from pspf.records import Record

Key = str | None
"""A grouping key; None: all records without one are together."""

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
