"""Durations: one parser for what the API and the command line take."""

from datetime import timedelta
from typing import Any

import pytest

from pspf.errors import ConfigurationError
from pspf.events.durations import as_ms, describe_ms, parse_duration


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (1_500, 1_500),
        ("500ms", 500),
        ("10s", 10_000),
        ("1.5h", 5_400_000),
        ("15m", 900_000),
        ("15 min", 900_000),
        ("7d", 604_800_000),
        ("1w", 604_800_000),
        (timedelta(minutes=1), 60_000),
        (timedelta(days=1, milliseconds=1), 86_400_001),
    ],
)
def test_a_duration_is_read_in_each_of_its_forms(given: Any, expected: int) -> None:
    assert as_ms("TumblingWindow", "size_ms", given) == expected


@pytest.mark.parametrize(
    "given", ["10", "", "ten seconds", "10 s s", "-5s", 1.5, True, None, [1], timedelta(microseconds=1)]
)
def test_what_is_no_duration_is_refused_with_its_name_and_value(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="TumblingWindow: size_ms"):
        as_ms("TumblingWindow", "size_ms", given)


def test_a_number_without_a_unit_is_of_the_unit_that_the_caller_names() -> None:
    assert parse_duration("25", bare_unit="s") == 25_000
    with pytest.raises(ValueError, match="no unit"):
        parse_duration("25")


def test_a_duration_longer_than_any_is_refused() -> None:
    with pytest.raises(ValueError, match="longer"):
        parse_duration(f"{'9' * 400}s")


def test_a_duration_is_described_in_its_largest_whole_unit() -> None:
    assert [describe_ms(n) for n in (0, 1_500, 10_000, 60_000, 86_400_000)] == ["0ms", "1500ms", "10s", "1m", "1d"]
