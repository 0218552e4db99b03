"""Stored form of sessions: one entry for times and state, and pages of records.

A commit writes the first row of what changed, and of its pages the last one; a full page is written once. Before, all
sessions of a key were one value under the key, which can still be read.
"""

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from pspf.records import Record
from pspf.windowing.event_time import Key, decode_key, encode_key
from pspf.windowing.sessions import SessionSpan

TOGETHER: Final = 0
"""The slot of sessions that are stored with their key's others."""
ROWS: Final = 1
"""The slot of rows."""
PAGE_BYTES: Final = 16 << 10
"""A page that is longer is full."""

_HEAD: Final = struct.Struct("<qqBqq")  # first, last, is closed; bytes of the state, number of records (-1: none)
_RECORD: Final = struct.Struct("<16sqqqq")  # offset; time; bytes of key, headers (-1: none) and value
_PLACE: Final = struct.Struct(">QI")  # number of the session, number of the row
_END: Final = b"\0\0"
"""Behind the key, whose own NULs are escaped: rows so are in the order of keys, of which one may begin as another."""
_NUL, _ESCAPED_NUL = b"\0", b"\0\xff"


def row_key(key: Key, number: int, row: int) -> bytes:
    """Return the key of a session's row."""
    return before_rows(key) + _PLACE.pack(number, row)


def before_rows(key: Key) -> bytes:
    """Return what all keys of a grouping key's rows come after, and begin with."""
    return encode_key(key).replace(_NUL, _ESCAPED_NUL) + _END


def split_row_key(stored_key: bytes) -> tuple[Key, int, int]:
    """Return the grouping key, the session's number and the row's.

    Raises:
        ValueError, struct.error: PSPF has not written it.
    """
    stored, _, place = stored_key.partition(_END)
    number, row = _PLACE.unpack(place)
    return decode_key(stored.replace(_ESCAPED_NUL, _NUL)), number, row


def rows_of(session: SessionSpan, key: Key, encode: Callable[[Any], bytes]) -> dict[bytes, bytes | None]:
    """Return the rows of a session that changed, None for those to be removed, and note that they are stored."""
    if session.is_gone:
        rows: dict[bytes, bytes | None] = {row_key(key, session.number, row): None for row in range(session.rows)}
        session.rows = 0
        return rows
    state = None if session.state is None else encode(session.state)
    kept = session.records
    head = _HEAD.pack(
        session.first_ms,
        session.last_ms,
        session.is_closed,
        -1 if state is None else len(state),
        -1 if kept is None else len(kept),
    )
    rows = {row_key(key, session.number, 0): head + (state or b"")}
    session.size_bytes += len(head) + len(state or b"") - session.state_bytes
    session.state_bytes = len(head) + len(state or b"")
    if kept is None:
        rows.update((row_key(key, session.number, row), None) for row in range(1, session.rows))
        session.rows, session.size_bytes = 1, session.state_bytes
        return rows
    page: list[bytes] = []
    size_bytes = 0
    row, paged = session.pages + 1, session.paged
    for at in range(session.paged, len(kept)):
        encoded = _encode_record(kept[at])
        page.append(encoded)
        size_bytes += len(encoded)
        if size_bytes >= PAGE_BYTES:
            rows[row_key(key, session.number, row)] = b"".join(page)
            page, size_bytes, row, paged = [], 0, row + 1, at + 1
    session.pages, session.paged = row - 1, paged
    if page:
        rows[row_key(key, session.number, row)] = b"".join(page)
        row += 1
    session.rows = row
    return rows


def read_rows(
    stored: Iterable[tuple[bytes, bytes]], decode: Callable[[bytes], Any], topic: str, partition: int
) -> Iterator[tuple[Key, SessionSpan]]:
    """Give the sessions of rows, which come in the order of their keys; errors as in `decode_sessions`."""
    found: tuple[Key, SessionSpan, int] | None = None
    for stored_key, value in stored:
        key, number, row = split_row_key(stored_key)
        if row == 0:
            if found is not None:
                yield _checked(*found)
            session, records = _read_head(value, decode)
            session.number, session.rows = number, 1
            found = key, session, records
            continue
        if found is None or found[1].number != number or found[1].records is None or found[1].rows != row:
            raise ValueError(f"a page of records without the session that it belongs to: {stored_key!r:.80}")
        session = found[1]
        kept = found[1].records
        kept += decode_records(value, topic, partition)
        session.rows += 1
        session.size_bytes += len(value)
        if len(value) >= PAGE_BYTES:
            session.pages, session.paged = row, len(kept)
    if found is not None:
        yield _checked(*found)


def _read_head(stored: bytes, decode: Callable[[bytes], Any]) -> tuple[SessionSpan, int]:
    first_ms, last_ms, is_closed, state_bytes, records = _HEAD.unpack_from(stored)
    if len(stored) != _HEAD.size + max(state_bytes, 0):
        raise ValueError(f"a state of {state_bytes} bytes in a row of {len(stored)}")
    state = None if state_bytes < 0 else decode(stored[_HEAD.size :])
    session = SessionSpan(first_ms, last_ms, state, None if records < 0 else [])
    session.is_closed = bool(is_closed)
    session.state_bytes = session.size_bytes = len(stored)
    return session, records


def _checked(key: Key, session: SessionSpan, records: int) -> tuple[Key, SessionSpan]:
    if session.records is not None and len(session.records) != records:
        raise ValueError(f"{len(session.records)} records of a session that had {records}")
    return key, session


def _encode_record(record: Record) -> bytes:
    key, headers = record.raw_key, record.raw_headers
    lengths = (-1 if key is None else len(key), -1 if headers is None else len(headers), len(record.value))
    head = _RECORD.pack(record.offset.to_bytes(16, "big"), record.timestamp_ms, *lengths)
    return b"".join((head, key or b"", headers or b"", record.value))


def decode_records(stored: bytes, topic: str, partition: int) -> list[Record]:
    """Return the records of a page."""
    records: list[Record] = []
    at = 0
    while at < len(stored):
        record, at = _read_record(stored, at, topic, partition)
        records.append(record)
    return records


def _read_record(stored: bytes, at: int, topic: str, partition: int) -> tuple[Record, int]:
    raw_offset, timestamp_ms, *lengths = _RECORD.unpack_from(stored, at)
    at += _RECORD.size
    parts: list[bytes | None] = []
    for length in lengths:
        parts.append(None if length < 0 else stored[at : at + length])
        at += max(length, 0)
    if at > len(stored):
        raise ValueError(f"a record that ends {at - len(stored)} bytes behind its page")
    key, headers, value = parts
    return Record(topic, partition, int.from_bytes(raw_offset, "big"), key, value or b"", headers, timestamp_ms), at


def decode_sessions(stored: bytes, decode: Callable[[bytes], Any], topic: str, partition: int) -> Sequence[SessionSpan]:
    """Return the sessions of a key that are stored together.

    Raises:
        ValueError, struct.error, OverflowError: It is damaged.
    """
    sessions: list[SessionSpan] = []
    at = 0
    while at < len(stored):
        begin = at
        first_ms, last_ms, is_closed, state_bytes, records = _HEAD.unpack_from(stored, at)
        at += _HEAD.size
        state = None if state_bytes < 0 else decode(stored[at : at + state_bytes])
        at += max(state_bytes, 0)
        kept: list[Record] | None = None if records < 0 else []
        for _ in range(records):
            record, at = _read_record(stored, at, topic, partition)
            assert kept is not None
            kept.append(record)
        session = SessionSpan(first_ms, last_ms, state, kept)
        session.is_closed = bool(is_closed)
        session.size_bytes = at - begin
        sessions.append(session)
    return sessions
