"""Entries and records, ids and offsets, and what keys hold packed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pspf.connectors.valkey.log.fields import (
    LATEST_MS,
    decode_entries,
    format_entry_id,
    make_retry,
    pack_records,
    pack_retry,
    parse_entry_id,
    unpack_retry,
)
from pspf.errors import SchemaError
from pspf.events.decoding import decode_raw
from pspf.records import NewRecord, Record, Retry, format_id

halves = st.integers(0, 2**64 - 1)


@given(halves, halves)
def test_an_offset_and_its_entry_id_are_one(ms: int, sequence: int) -> None:
    raw_id = b"%d-%d" % (ms, sequence)
    offset = parse_entry_id(raw_id)
    assert format_entry_id(offset) == raw_id
    assert offset == ms << 64 | sequence
    if ms:
        assert format_id(0, offset) == raw_id.decode()


def decode(*entries: tuple[bytes, list[bytes] | None]) -> list[Record]:
    return list(decode_entries("orders", 2, [list(entry) for entry in entries]))


def test_our_entries_come_back_as_they_were_given() -> None:
    records = decode(
        (b"5-0", [b"data", b"1"]),
        (b"5-1", [b"data", b"2", b"key", b"k"]),
        (b"6-0", [b"data", b"3", b"key", b"", b"headers", b"{}", b"ts", b"-7"]),
        (b"6-1", [b"data", b"4", b"ts", b"9"]),
    )
    assert [record[2:] for record in records] == [
        (5 << 64, None, b"1", None, 5, 0),
        (5 << 64 | 1, b"k", b"2", None, 5, 0),
        (6 << 64, b"", b"3", b"{}", -7, 0),
        (6 << 64 | 1, None, b"4", None, 9, 0),
    ]
    assert {record[:2] for record in records} == {("orders", 2)}


def test_deleted_entries_are_passed_over() -> None:
    assert [record.value for record in decode((b"1-0", None), (b"2-0", [b"data", b"x"]), (b"3-0", None))] == [b"x"]


@pytest.mark.parametrize(
    "fields",
    [
        {"order_id": "7", "amount": "12.5"},
        {"data": "x", "order_id": "7"},
        {"key": "k", "order_id": "7"},
        {"ü": "☃", "": ""},
    ],
)
def test_entries_of_others_are_flat_events(fields: dict[str, str]) -> None:
    raw = [part.encode() for pair in fields.items() for part in pair]
    (record,) = decode((b"8-1", raw))
    assert json.loads(record.value) == fields
    assert record.raw_key == (fields["key"].encode() if "key" in fields else None)
    assert (record.raw_headers, record.timestamp_ms) == (None, 8)


@pytest.mark.parametrize("text", ["soon", "--5", "5" * 5_000, "", "9" * 15])
def test_an_entry_of_ours_whose_time_is_none_is_no_event_and_keeps_its_fields(text: str) -> None:
    (record,) = decode((b"8-1", [b"data", b"{}", b"ts", text.encode()]))
    with pytest.raises(SchemaError):
        decode_raw(record)
    assert json.loads(record.value.partition(b": ")[2]) == {"data": "{}", "ts": text}


def test_a_time_beyond_the_year_9999_is_its_last_millisecond() -> None:
    late = b"18446744073709551614-1"
    assert [r.timestamp_ms for r in decode((b"7-0", [b"data", b"1"]), (late, [b"data", b"2"]))] == [7, LATEST_MS]
    assert [r.timestamp_ms for r in decode((late, [b"data", b"2"]))] == [LATEST_MS]


def test_bytes_of_others_that_are_no_text_are_shown() -> None:
    (record,) = decode((b"8-1", [b"image", b"\xff\x00"]))
    assert json.loads(record.value) == {"image": "\\xff\x00"}


def test_a_mixed_batch_is_decoded_record_by_record() -> None:
    ours, theirs = (b"1-0", [b"data", b"x", b"key", b"k"]), (b"1-1", [b"a", b"b"])
    assert [record.value for record in decode(ours, theirs, ours)] == [b"x", b'{"a":"b"}', b"x"]


KINDS = [
    NewRecord(None, b"v"),
    NewRecord(b"k", b"v"),
    NewRecord(None, b"v", b"{}"),
    NewRecord(b"k", b"v", b"{}", 3),
    NewRecord(None, b"v", None, 3, "id"),
]


def test_records_are_packed_by_shape() -> None:
    assert pack_records(KINDS) == (
        b"01274",
        [b"v", b"v", b"k", b"v", b"{}", b"v", b"k", b"{}", 3, b"v", 3],
    )
    assert pack_records([]) == (b"", [])


@pytest.mark.parametrize("fields", [(), (b"data", b"x"), (b"data", b"x", b"key", b"k"), (b"key", b"k"), (b"data",) * 4])
def test_an_entry_alone_is_decoded_as_among_others(fields: tuple[bytes, ...]) -> None:
    entry = (b"1-1", list(fields) or None)
    assert decode(entry) == decode(entry, (b"2-0", None))


@pytest.mark.parametrize("record", KINDS)
@pytest.mark.parametrize("count", [1, 3])
def test_records_of_one_shape_are_packed_as_among_others(record: NewRecord, count: int) -> None:
    shapes, parts = pack_records([record] * count)
    mixed_shapes, mixed_parts = pack_records([record] * count + KINDS)
    assert (mixed_shapes[:count], mixed_parts[: len(parts)]) == (shapes, parts)


@given(st.integers(0, 99), st.none() | st.binary(), st.text())
def test_a_packed_retry_is_what_was_packed(attempts: int, key: bytes | None, error: str) -> None:
    packed = pack_retry(attempts, None, key, error)
    expected = error.encode("utf-8", "backslashreplace").decode()
    assert unpack_retry(packed) == (attempts, None, key, expected)
    assert make_retry(b"1-2", packed, b"55") == Retry(1 << 64 | 2, key, attempts, 55, expected)
    assert make_retry(b"1-2", packed, b"inf").due_ms is None
