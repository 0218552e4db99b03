"""The values that travel between the rooms."""

import dataclasses
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pspf.errors import ConfigurationError, EventRejected, SchemaError
from pspf.records import (
    Appended,
    Commit,
    Cursor,
    Record,
    check_name,
    companion_source,
    decode_headers,
    encode_headers,
    format_id,
    parse_id,
    partition_of,
)


@pytest.mark.parametrize(
    ("partition", "offset", "text"),
    [
        (0, 42, "42"),
        (3, 42, "3:42"),
        (0, 1526919030474 << 64, "1526919030474-0"),
        (2, (5 << 64) + 7, "2:5-7"),
        (0, 0, "0"),
    ],
)
def test_an_id_names_a_partition_and_an_offset(partition: int, offset: int, text: str) -> None:
    assert format_id(partition, offset) == text
    assert parse_id(text) == (partition, offset)
    assert Appended(partition, offset).id == text


@given(st.integers(0, 999_999), st.integers(0, (1 << 127) - 1))
def test_every_id_reads_back(partition: int, offset: int) -> None:
    assert parse_id(format_id(partition, offset)) == (partition, offset)


@pytest.mark.parametrize("text", ["", "x", "-1", "1:", ":1", "1-", "1:2:3", "1 ", "9" * 30])
def test_what_is_no_id_is_explained(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is no record id"):
        parse_id(text)


@pytest.mark.parametrize("name", ["orders", "a.b_c-D9", "x" * 195])
def test_a_name_is_returned(name: str) -> None:
    assert check_name("topic", name) == name


@pytest.mark.parametrize("name", ["", "a b", "a/b", "ä", "a\n", "x" * 196])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="topic"):
        check_name("topic", name)


def test_companion_topics_name_their_source() -> None:
    assert companion_source("orders-dlq") == "orders"
    assert companion_source("orders-late") == "orders"
    assert companion_source("orders") is None
    assert companion_source("-dlq") is None


def test_a_key_always_goes_to_the_same_partition() -> None:
    assert partition_of(b"customer-7", 16) == zlib.crc32(b"customer-7") % 16 == 8
    assert {partition_of(b"%d" % n, 4) for n in range(100)} == {0, 1, 2, 3}


def a_record(raw_key: bytes | None = None, raw_headers: bytes | None = None) -> Record:
    return Record("orders", 3, 42, raw_key, b"{}", raw_headers, 0)


def test_a_record_has_its_id_key_and_headers_as_text() -> None:
    record = a_record("ä".encode(), b'{"a": "b"}')
    assert (record.id, record.key, record.headers) == ("3:42", "ä", {"a": "b"})
    assert (a_record().key, a_record().headers) == (None, {})


def test_a_key_that_is_not_utf_8_is_a_schema_error() -> None:
    with pytest.raises(SchemaError, match="3:42 is not UTF-8"):
        _ = a_record(b"\xff").key


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"a": 1}', b"\xff", b"null"])
def test_bad_headers_are_a_schema_error(raw: bytes) -> None:
    with pytest.raises(SchemaError, match="headers"):
        _ = a_record(raw_headers=raw).headers


def test_headers_read_back() -> None:
    assert encode_headers(None) is None
    assert encode_headers({}) is None
    assert decode_headers(encode_headers({"a": "ä"})) == {"a": "ä"}


@pytest.mark.parametrize("headers", [{"a": 1}, {1: "a"}, {"a": "\ud800"}, {"a": None}])
def test_headers_that_are_no_text_are_rejected(headers: dict[str, str]) -> None:
    with pytest.raises(EventRejected, match="headers"):
        encode_headers(headers)


def test_a_cursor_reads_well() -> None:
    assert str(Cursor("orders", "billing", None, 0)) == "orders:0 of billing"
    assert str(Cursor("orders", "billing", "app.total", 1)) == "orders:1 of billing/app.total"


def test_what_travels_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Commit(b"id").whole = True  # type: ignore[misc]
