"""Stored form of results and late records."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from itertools import repeat
from typing import Any, Final

import orjson
from pydantic import BaseModel

from pspf.errors import SchemaError
from pspf.events.encoding import encode_at
from pspf.records import NewRecord, Record, decode_headers, encode_headers
from pspf.windowing.definitions import WindowResult
from pspf.windowing.event_time import Key

RESULT_TYPE: Final = "WindowResult"
"""The `event_type` of results that go out as they are."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_new_record: Final[Callable[[Any], NewRecord]] = partial(tuple.__new__, NewRecord)  # half the price of NewRecord(...)


@lru_cache(64)  # the keys of a window share it
def _head(start_ms: int, end_ms: int) -> bytes:
    """Return the beginning of a window's results; their time is the last that the window holds."""
    fields: dict[str, Any] = {"event_type": RESULT_TYPE}
    try:
        at = _EPOCH + timedelta(milliseconds=end_ms - 1)
        fields["timestamp"] = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except OverflowError:
        pass  # outside of the years 1 to 9999; then its record's time counts
    fields |= {"window_start_ms": start_ms, "window_end_ms": end_ms}
    return orjson.dumps(fields)[:-1]


def encode_results(start_ms: int, end_ms: int, keys: Sequence[Key], values: Sequence[bytes]) -> list[NewRecord]:
    """Return what a window has come to for some keys as events; values are JSON."""
    head = _head(start_ms, end_ms)
    raw_keys = [None if key is None else key.encode() for key in keys]
    events = [
        b'%b,"key":%b,"value":%b}' % (head, orjson.dumps(key), value) for key, value in zip(keys, values, strict=True)
    ]
    return list(map(_new_record, zip(raw_keys, events, repeat(None), repeat(None), repeat(None), strict=False)))


def encode_result(key: Key, start_ms: int, end_ms: int, value: bytes) -> NewRecord:
    """Return a result as its event; `value` is JSON."""
    return encode_results(start_ms, end_ms, (key,), (value,))[0]


class _Skip:
    """The type of SKIP."""

    def __repr__(self) -> str:
        return "pspf.SKIP"

    def __reduce__(self) -> str:
        return "SKIP"


SKIP: Final = _Skip()
"""What a function of `result=` returns for a result that does not go out."""

Encoder = Callable[[Key, int, int, bytes], NewRecord | None]
"""From key, start, end and the value's JSON to the record; None where it does not go out."""


def make_encoder(result: Callable[..., Any] | None, check: Callable[[NewRecord], NewRecord] | None = None) -> Encoder:
    """Return what turns results into records: as they are, by the user's model, or by the user's function.

    `check` gives each record back, or raises. What it raises is the user's.
    """
    if check is None:
        return _make_encoder(result)
    encode, checked = _make_encoder(result), check

    def encode_checked(key: Key, start_ms: int, end_ms: int, value: bytes) -> NewRecord | None:
        record = encode(key, start_ms, end_ms, value)
        return None if record is None else checked(record)

    return encode_checked


def _make_encoder(result: Callable[..., Any] | None) -> Encoder:
    if result is None:
        return encode_result
    if isinstance(result, type) and issubclass(result, BaseModel):
        model = result

        def by_model(key: Key, start_ms: int, end_ms: int, value: bytes) -> NewRecord:
            fields = {"key": key, "window_start_ms": start_ms, "window_end_ms": end_ms, "value": orjson.loads(value)}
            return _keyed(encode_at(model.model_validate(fields), end_ms - 1), key)

        return by_model
    function: Callable[[WindowResult], Any] = result

    def by_function(key: Key, start_ms: int, end_ms: int, value: bytes) -> NewRecord | None:
        event = function(WindowResult(key, start_ms, end_ms, orjson.loads(value)))
        return None if event is SKIP else _keyed(encode_at(event, end_ms - 1), key)

    return by_function


def _keyed(record: NewRecord, key: Key) -> NewRecord:
    return record if record.raw_key is not None or key is None else record._replace(raw_key=key.encode())


def encode_late(record: Record, told: Mapping[str, object]) -> NewRecord:
    """Return a record that came too late: as it was, with `told` among its headers as `pspf-late-...`."""
    headers: dict[str, str] = {}
    try:
        headers.update(decode_headers(record.raw_headers))
    except SchemaError:
        headers["pspf-late-raw-headers"] = repr(record.raw_headers)
    headers.update({f"pspf-late-{name}": str(value) for name, value in told.items()})
    return NewRecord(record.raw_key, record.value, encode_headers(headers), record.timestamp_ms)
