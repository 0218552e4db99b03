"""What people type, and what it means."""

import pytest

from pspf.cli.exit_codes import UsageError
from pspf.cli.parsing import TopicPosition, near, parse_headers, parse_place, parse_rate, parse_span_ms

NOW_MS = 1_700_000_000_000


@pytest.mark.parametrize(
    ("text", "span_ms"),
    [("500ms", 500), ("25s", 25_000), ("25", 25_000), ("1.5h", 5_400_000), ("7d", 604_800_000), ("2 min", 120_000)],
)
def test_a_span_is_a_number_and_a_unit(text: str, span_ms: int) -> None:
    assert parse_span_ms(text) == span_ms


@pytest.mark.parametrize("text", ["", "s", "-1s", "1y", "1s2", "99999999999999999d"])
def test_what_is_no_span_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_span_ms(text)


@pytest.mark.parametrize(("text", "per_second"), [("200", 200), ("200/s", 200), ("90/m", 1.5), ("3600/h", 1)])
def test_a_rate_is_events_a_second(text: str, per_second: float) -> None:
    assert parse_rate(text) == per_second


@pytest.mark.parametrize("text", ["", "0", "0/s", "-3", "3/d", "fast"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_rate(text)


def test_headers_split_at_the_first_equals_sign() -> None:
    assert parse_headers(["a=1", "b=x=y", "c=", "a=2"]) == {"a": "2", "b": "x=y", "c": ""}
    for bad in ("a", "=1", ""):
        with pytest.raises(UsageError):
            parse_headers([bad])


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("start", TopicPosition(start=True)),
        ("end", TopicPosition(end=True)),
        ("42", TopicPosition(record_id="42")),
        ("3:42", TopicPosition(record_id="3:42")),
        ("1526919030474-0", TopicPosition(record_id="1526919030474-0")),
        ("-10", TopicPosition(last=10)),
        ("@-1h", TopicPosition(at_ms=NOW_MS - 3_600_000)),
        ("@2026-01-31T00:00:00Z", TopicPosition(at_ms=1_769_817_600_000)),
        ("@2026-01-31", TopicPosition(at_ms=1_769_817_600_000)),
        ("@2026-01-31T01:00:00+01:00", TopicPosition(at_ms=1_769_817_600_000)),
    ],
)
def test_a_place_in_a_topic_has_one_grammar(text: str, place: TopicPosition) -> None:
    assert parse_place(text, now_ms=NOW_MS) == place


@pytest.mark.parametrize("text", ["", "begin", "@", "@yesterday", "@-1y", "1:2:3", "--3", "@2026-13-01"])
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_place(text, now_ms=NOW_MS)


def test_a_near_name_is_proposed_and_a_far_one_is_not() -> None:
    assert near("ordrs", ["orders", "clicks"]) == "; did you mean 'orders'?"
    assert near("xyz", ["orders", "clicks"]) == ""
