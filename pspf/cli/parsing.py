"""Parsers of argument values: spans, rates, headers, positions in a topic, similar names. Pure functions."""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from pspf.cli.exit_codes import UsageError
from pspf.events.durations import UNIT_MS, parse_duration

_RATE: Final = re.compile(r"(\d+(?:\.\d+)?)(?:/(s|m|min|h))?")
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]i?b?|b)?", re.IGNORECASE)
_UNIT_BYTES: Final[dict[str, int]] = {
    "b": 1,
    **{f"{name}{end}": 1_000**n for n, name in enumerate("kmgt", 1) for end in ("", "b")},
    **{f"{name}i{end}": 1_024**n for n, name in enumerate("kmgt", 1) for end in ("", "b")},
}


def parse_span_ms(text: str) -> int:
    """Return a span in milliseconds: `500ms`, `25s`, `1.5h`, `7d`; a bare number is seconds.

    Raises:
        UsageError: It is no span.
    """
    try:
        return parse_duration(text, bare_unit="s")
    except ValueError as error:
        raise UsageError(str(error)) from error


def parse_rate(text: str) -> float:
    """Return events a second: `200`, `200/s`, `90/m`.

    Raises:
        UsageError: It is no rate, or zero.
    """
    match = _RATE.fullmatch(text.strip())
    if match is None or float(match[1]) <= 0:
        raise UsageError(f"{text!r} is no rate; write 200/s, 90/m or 1000/h")
    return float(match[1]) * 1_000 / UNIT_MS[match[2] or "s"]


def parse_size(text: str) -> int:
    """Return bytes: `500000`, `64MB` (decimal), `1.5GiB` (binary).

    Raises:
        UsageError: It is no size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text!r} is no size; write 500000, 64MB or 1.5GiB")
    return round(float(match[1]) * _UNIT_BYTES[(match[2] or "b").lower()])


def parse_headers(pairs: Iterable[str]) -> dict[str, str]:
    """Return `name=value` pairs as headers; of equal names the last counts.

    Raises:
        UsageError: A pair has no `=` or no name.
    """
    headers = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"-H {pair!r}: write name=value")
        headers[name] = value
    return headers


def near(word: str, words: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the nearest of `words`, else the empty string."""
    close = difflib.get_close_matches(word, list(words), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


@dataclass(frozen=True, slots=True)
class TopicPosition:
    """A place in a topic. Exactly one field is set; `last` counts records from the end."""

    start: bool = False
    end: bool = False
    record_id: str | None = None
    last: int | None = None
    at_ms: int | None = None


_PLACES: Final = "start, end, a record id, -10 (the last ten), @-1h or @2026-01-31T00:00:00Z"


def parse_place(text: str, *, now_ms: int, option: str = "--from") -> TopicPosition:
    """Return the place that `text`, given to `option`, names.

    Raises:
        UsageError: It names none.
    """
    if text == "start":
        return TopicPosition(start=True)
    if text == "end":
        return TopicPosition(end=True)
    if re.fullmatch(r"-\d{1,9}", text):
        return TopicPosition(last=int(text[1:]))
    if text.startswith("@-"):
        return TopicPosition(at_ms=now_ms - parse_span_ms(text[2:]))
    if text.startswith("@"):
        return TopicPosition(at_ms=_parse_time_ms(text[1:], option))
    if re.fullmatch(r"(?:\d{1,6}:)?\d{1,20}(?:-\d{1,20})?", text):
        return TopicPosition(record_id=text)
    raise UsageError(f"{option} {text!r}: use {_PLACES}")


def _parse_time_ms(text: str, option: str) -> int:
    """Return an ISO time in milliseconds; without a zone it is UTC, as everything that PSPF prints."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{option} '@{text}': {error}; use {_PLACES}") from None
    return round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)
