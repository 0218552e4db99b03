"""Between entries of a stream and records; and the packed forms that keys hold.

Of ours, an entry has the fields `data` (the payload, JSON as a rule), `key`, `headers` (a JSON
object) and `ts` (its time, where that is not when it was stored), the last three where there are
any. An entry of another program that has other fields is read as one flat event: the JSON object of
its fields, as text.

An offset is an entry's id: the milliseconds above 64 bits of sequence number.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import orjson

from pspf.connectors.valkey.scripts import Argument
from pspf.records import NewRecord, Record, Retry

_BITS: Final = 64
_MASK: Final = (1 << _BITS) - 1
_OURS: Final = frozenset({b"data", b"key", b"headers", b"ts"})
_new: Final[Any] = tuple.__new__  # two thirds of the price of a NamedTuple's own constructor

Entry = Sequence[Any]
"""[id, [field, value, ...]] as the server answers it; the fields are None where the entry was deleted."""


def parse_entry_id(raw: bytes) -> int:
    """Return the offset of an entry's id."""
    high, _, low = raw.partition(b"-")
    return int(high) << _BITS | int(low)


def format_entry_id(offset: int) -> bytes:
    """Return the entry id of an offset."""
    return b"%d-%d" % (offset >> _BITS, offset & _MASK)


def decode_entries(topic: str, partition: int, entries: Iterable[Entry]) -> list[Record]:
    """Return the records of entries in order; deleted ones (without fields) are passed over."""
    records: list[Record] = []
    append = records.append
    high, ms, base = b"", 0, 0
    for raw_id, fields in entries:
        head, _, tail = raw_id.partition(b"-")
        if head != high:
            high, ms = head, int(head)
            base = ms << _BITS
        if fields is None:
            continue
        if fields[0] == b"data":
            count = len(fields)
            if count == 2:
                append(_new(Record, (topic, partition, base + int(tail), None, fields[1], None, ms, 0)))
                continue
            if count == 4 and fields[2] == b"key":
                append(_new(Record, (topic, partition, base + int(tail), fields[3], fields[1], None, ms, 0)))
                continue
        append(_decode_rare(topic, partition, base + int(tail), fields, ms))
    return records


def _decode_rare(topic: str, partition: int, offset: int, fields: Sequence[bytes], ms: int) -> Record:
    pairs = dict(zip(fields[::2], fields[1::2], strict=True))
    raw_ts = pairs.get(b"ts")
    is_ours = b"data" in pairs and pairs.keys() <= _OURS and (raw_ts is None or raw_ts.lstrip(b"-").isdigit())
    if is_ours:
        at_ms = ms if raw_ts is None else int(raw_ts)
        return Record(topic, partition, offset, pairs.get(b"key"), pairs[b"data"], pairs.get(b"headers"), at_ms)
    flat = {_as_text(name): _as_text(value) for name, value in pairs.items()}
    return Record(topic, partition, offset, pairs.get(b"key"), orjson.dumps(flat), None, ms)


def _as_text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def pack_records(records: Sequence[NewRecord]) -> tuple[bytes, list[Argument]]:
    """Return records as `append_records` of common.lua takes them: their shapes, and their parts in order.

    A shape is one character a record: 0, plus 1 with a key, 2 with headers, 4 with a time. The
    parts are payload, key, headers and time, each where there is one.
    """
    shapes = bytearray()
    parts: list[Argument] = []
    for raw_key, value, raw_headers, timestamp_ms, _ in records:
        shape = 48
        parts.append(value)
        if raw_key is not None:
            shape += 1
            parts.append(raw_key)
        if raw_headers is not None:
            shape += 2
            parts.append(raw_headers)
        if timestamp_ms is not None:
            shape += 4
            parts.append(timestamp_ms)
        shapes.append(shape)
    return bytes(shapes), parts


def pack_retry(attempts: int, taker: str | None, key: bytes | None, error: str) -> bytes:
    """Return what `retry` hashes hold: `attempts taker key-length key error`, taker `-` and length -1 for none."""
    return b"%d %b %d %b%b" % (
        attempts,
        (taker or "-").encode(),
        -1 if key is None else len(key),
        key or b"",
        error.encode("utf-8", "backslashreplace"),
    )


def unpack_retry(packed: bytes) -> tuple[int, str | None, bytes | None, str]:
    """Return (attempts, taker, key, error)."""
    attempts, taker, length, rest = packed.split(b" ", 3)
    size = int(length)
    key = None if size < 0 else rest[:size]
    return int(attempts), None if taker == b"-" else taker.decode(), key, rest[max(size, 0) :].decode()


def make_retry(raw_id: bytes, packed: bytes, due: bytes | None) -> Retry:
    """Return a retry from its two places; `due` is the score as the server prints it, `inf` for held back."""
    attempts, _, key, error = unpack_retry(packed)
    due_ms = None if due is None or due == b"inf" else int(float(due))
    return Retry(parse_entry_id(raw_id), key, attempts, due_ms, error)
