"""Choosing pending records, and saying why some were left alone."""

import pytest

from pspf.cli.console import count_of, format_size
from pspf.cli.exit_codes import UsageError
from pspf.cli.parsing import parse_place, parse_size
from pspf.cli.services.pending import PendingFilter, as_json_record, explain_rest
from pspf.connectors.contract.operations import PendingRecord, Waiting
from pspf.records import Cursor


def record(offset: int = 7, waiting: Waiting = Waiting.RETRY, error: str = "app.errors.Late: no") -> PendingRecord:
    cursor = Cursor("orders", "g", "app.total", 2)
    return PendingRecord(cursor, offset, b"k", waiting, 1, error, 5, 6, "host-1-a")


@pytest.mark.parametrize(
    "choice",
    [
        PendingFilter("g"),
        PendingFilter("g", handler="app.total"),
        PendingFilter("g", key="k"),
        PendingFilter("g", error_type="Late"),
        PendingFilter("g", error_type="app.errors.Late"),
        PendingFilter("g", ids=("1", "2:7")),
        PendingFilter("g", ids=("orders/2:7",)),
    ],
)
def test_a_record_that_fits_is_taken(choice: PendingFilter) -> None:
    assert choice.takes(record())


@pytest.mark.parametrize(
    "choice",
    [
        PendingFilter("g", handler="app.other"),
        PendingFilter("g", key="kk"),
        PendingFilter("g", error_type="late"),
        PendingFilter("g", ids=("7",)),
        PendingFilter("g", key="k", ids=("2:8",)),
    ],
)
def test_a_record_that_does_not_fit_is_left(choice: PendingFilter) -> None:
    assert not choice.takes(record())


def test_what_can_not_be_hurried_is_explained() -> None:
    records = [record(1), record(2, Waiting.HELD_BACK), record(3, Waiting.IN_HAND)]
    assert explain_rest(records[:1], 1) == ""
    assert explain_rest(records, 1).startswith("of 3 records: 1 in hand, 1 retry, 1 held back")


def test_a_pending_record_has_stable_names() -> None:
    assert as_json_record(record()) == {
        "id": "2:7",
        "topic": "orders",
        "group": "g",
        "handler": "app.total",
        "partition": 2,
        "key": "k",
        "waiting": "retry",
        "attempts": 1,
        "error": "app.errors.Late: no",
        "due_ms": 5,
        "age_ms": 6,
        "consumer": "host-1-a",
    }


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("500000", 500_000),
        ("64MB", 64_000_000),
        ("1.5GiB", 3 << 29),
        ("2 kib", 2_048),
        ("3b", 3),
        ("1T", 10**12),
    ],
)
def test_sizes_are_decimal_or_binary(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "-1", "lots", "1XB", "1 2"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_size(text)


def test_a_bad_place_names_the_option_it_was_given_to() -> None:
    with pytest.raises(UsageError, match="--to 'x'"):
        parse_place("x", now_ms=0, option="--to")
    with pytest.raises(UsageError, match="--to '@x'"):
        parse_place("@x", now_ms=0, option="--to")


def test_sizes_and_counts_are_said_in_words() -> None:
    assert [format_size(n) for n in (None, 0, 999, 1_000, 73_700, 2_500_000, 10**13)] == [
        "-",
        "0 B",
        "999 B",
        "1.0 kB",
        "73.7 kB",
        "2.5 MB",
        "10.0 TB",
    ]
    assert [count_of(n, "record") for n in (0, 1, 2_000)] == ["0 records", "1 record", "2,000 records"]
