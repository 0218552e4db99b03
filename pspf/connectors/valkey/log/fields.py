"""Conversion between stream entries and records, and the packed values of other keys.

Of ours, an entry has the fields `data` (the payload, JSON as a rule), `key`, `headers` (a JSON
object) and `ts` (its time, where that is not when it was stored), the last three where there are
any. An entry of another program that has other fields is read as one flat event: the JSON object of
its fields, as text. One that has our fields and an invalid time is kept as text that says so, with
all of its fields: no decoder takes it for an event, and so it becomes a dead letter.

An offset is an entry's id: the milliseconds above 64 bits of sequence number.
"""

import re
from collections.abc import Sequence
from functools import partial
from itertools import repeat
from operator import itemgetter
from typing import Any, Final

import orjson

from pspf.connectors.valkey.connection.scripts import Argument
from pspf.records import NewRecord, Record, Retry

_BITS: Final = 64
_MASK: Final = (1 << _BITS) - 1
_TIME: Final = re.compile(rb"-?[0-9]{1,15}")
LATEST_MS: Final = 253_402_300_799_999
"""The last millisecond that a datetime can be: of the year 9999."""
EARLIEST_MS: Final = -62_135_596_800_000
_OURS: Final = frozenset({b"data", b"key", b"headers", b"ts"})
_HEADS: Final = {2: [b"data"], 4: [b"data", b"key"]}
"""The names of the fields that most entries have, by how long they are with their values."""
_new_record: Final[Any] = partial(tuple.__new__, Record)  # two thirds of the price of a NamedTuple's own constructor
_second: Final = itemgetter(1)
_fourth: Final = itemgetter(3)

Entry = Sequence[Any]
"""[id, [field, value, ...]] as the server answers it; the fields are None where the entry was deleted."""


def parse_entry_id(raw: bytes) -> int:
    """Return the offset of an entry's id."""
    high, _, low = raw.partition(b"-")
    return int(high) << _BITS | int(low)


def format_entry_id(offset: int) -> bytes:
    """Return the entry id of an offset."""
    return b"%d-%d" % (offset >> _BITS, offset & _MASK)


def decode_entries(topic: str, partition: int, entries: Sequence[Entry]) -> list[Record]:
    """Return the records of entries in order; deleted ones (without fields) are passed over."""
    if len(entries) < 2:
        return [] if not entries else _decode_only(topic, partition, entries[0])
    ids, fields = zip(*entries, strict=True)
    offsets, times = _parse_ids(ids)
    head = _HEADS.get(len(fields[0] or ()))
    if head is None or any(each is None or each[::2] != head for each in fields):
        return _decode_one_by_one(topic, partition, offsets, fields, times)
    values = map(_second, fields)
    keys = repeat(None) if len(head) == 1 else map(_fourth, fields)
    columns = (repeat(topic), repeat(partition), offsets, keys, values, repeat(None), times, repeat(0))
    return list(map(_new_record, zip(*columns, strict=False)))  # by column: no loop of Python's per record


def _decode_only(topic: str, partition: int, entry: Entry) -> list[Record]:
    """Return what `decode_entries` does for one entry: an idle worker gets them so."""
    raw_id, fields = entry
    high, _, low = raw_id.partition(b"-")
    ms = int(high)
    offset = (ms << _BITS) + int(low)
    ms = min(ms, LATEST_MS)
    if fields and fields[0] == b"data":
        if len(fields) == 2:
            return [_new_record((topic, partition, offset, None, fields[1], None, ms, 0))]
        if len(fields) == 4 and fields[2] == b"key":
            return [_new_record((topic, partition, offset, fields[3], fields[1], None, ms, 0))]
    return _decode_one_by_one(topic, partition, (offset,), (fields,), (ms,))


def _parse_ids(ids: Sequence[bytes]) -> tuple[list[int], list[int]]:
    """Return the offsets and the times of ids, many of which share their millisecond."""
    parts = b"-".join(ids).split(b"-")
    if len(set(parts[::2])) == 1:
        ms = int(parts[0])
        base = ms << _BITS
        return [base + low for low in map(int, parts[1::2])], [min(ms, LATEST_MS)] * len(ids)
    times = list(map(int, parts[::2]))
    offsets = [(ms << _BITS) + low for ms, low in zip(times, map(int, parts[1::2]), strict=True)]
    return offsets, times if max(times) <= LATEST_MS else [min(ms, LATEST_MS) for ms in times]


def _decode_one_by_one(
    topic: str,
    partition: int,
    offsets: Sequence[int],
    fields: Sequence[Sequence[bytes] | None],
    times: Sequence[int],
) -> list[Record]:
    records: list[Record] = []
    for offset, each, ms in zip(offsets, fields, times, strict=True):
        if each is None:
            continue
        head = each[::2]
        if head == _HEADS[2]:
            records.append(_new_record((topic, partition, offset, None, each[1], None, ms, 0)))
        elif head == _HEADS[4]:
            records.append(_new_record((topic, partition, offset, each[3], each[1], None, ms, 0)))
        else:
            records.append(_decode_rare(topic, partition, offset, each, ms))
    return records


def _decode_rare(topic: str, partition: int, offset: int, fields: Sequence[bytes], ms: int) -> Record:
    pairs = dict(zip(fields[::2], fields[1::2], strict=True))
    raw_ts = pairs.get(b"ts")
    is_ours = b"data" in pairs and pairs.keys() <= _OURS
    at_ms = ms if raw_ts is None else _parse_time(raw_ts)
    if is_ours and at_ms is not None:
        return Record(topic, partition, offset, pairs.get(b"key"), pairs[b"data"], pairs.get(b"headers"), at_ms)
    flat = orjson.dumps({_as_text(name): _as_text(value) for name, value in pairs.items()})
    if is_ours:
        flat = b"the field ts is no time in milliseconds: " + flat
    return Record(topic, partition, offset, pairs.get(b"key"), flat, None, ms)


def _parse_time(raw: bytes) -> int | None:
    """Return a time in milliseconds, None where no datetime can hold it."""
    at_ms = int(raw) if _TIME.fullmatch(raw) else None
    return at_ms if at_ms is not None and EARLIEST_MS <= at_ms <= LATEST_MS else None


def _as_text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def pack_records(records: Sequence[NewRecord]) -> tuple[bytes, list[Argument]]:
    """Return records as `append_records` of common.lua takes them: their shapes, and their parts in order.

    A shape is one character a record: 0, plus 1 with a key, 2 with headers, 4 with a time. The
    parts are payload, key, headers and time, each where there is one.
    """
    if len(records) == 1:
        raw_key, value, raw_headers, timestamp_ms, _ = records[0]
        if raw_headers is None and timestamp_ms is None:
            return (b"0", [value]) if raw_key is None else (b"1", [value, raw_key])
    keys, values, headers, times, _ = zip(*records, strict=True) if records else ((),) * 5
    count = len(records)
    if headers.count(None) == count and times.count(None) == count:
        if keys.count(None) == count:
            return b"0" * count, list(values)
        if None not in keys:
            return b"1" * count, [part for pair in zip(values, keys, strict=True) for part in pair]
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
