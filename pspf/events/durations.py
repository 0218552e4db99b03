"""Durations: `timedelta`, text such as `10s`, or whole milliseconds, read by one parser."""

import re
from datetime import timedelta
from typing import Final

from pspf.errors import ConfigurationError

Duration = int | str | timedelta
"""Whole milliseconds, text such as `500ms`, `25s`, `1.5h` or `7d`, or a timedelta."""

UNIT_MS: Final = {
    "ms": 1,
    "s": 1_000,
    "m": 60_000,
    "min": 60_000,
    "h": 3_600_000,
    "d": 86_400_000,
    "w": 7 * 86_400_000,
}
_TEXT: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d|w)?")
_LONGEST_MS: Final = 1 << 53
EXAMPLES: Final = "500ms, 25s, 15m, 1h or 7d"


def parse_duration(text: str, *, bare_unit: str | None = None) -> int:
    """Return a duration in milliseconds, rounded; a number without a unit is of `bare_unit`.

    Raises:
        ValueError: It is no duration, or has no unit and there is no `bare_unit`.
    """
    match = _TEXT.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r:.80} is no span of time; write {EXAMPLES}")
    unit = match[2] or bare_unit
    if unit is None:
        raise ValueError(f"{text!r:.80} has no unit; write {EXAMPLES}")
    span_ms = float(match[1]) * UNIT_MS[unit]
    if span_ms > _LONGEST_MS:
        raise ValueError(f"{text!r:.80} is longer than any span of time here")
    return round(span_ms)


def as_ms(where: str, name: str, value: object) -> int:
    """Return a duration in milliseconds; `where` and `name` say in errors what it is.

    Raises:
        ConfigurationError: It is no `Duration`, or no whole number of milliseconds.
    """
    if type(value) is int:
        return value
    if isinstance(value, timedelta):
        whole, rest = divmod(value, timedelta(milliseconds=1))
        if rest:
            raise ConfigurationError(f"{where}: {name}={value!r}; a duration is a whole number of milliseconds")
        return whole
    if isinstance(value, str):
        try:
            return parse_duration(value)
        except ValueError as error:
            raise ConfigurationError(f"{where}: {name}: {error}") from error
    raise ConfigurationError(
        f"{where}: {name}={value!r:.80}; use whole milliseconds, a timedelta, or text such as {EXAMPLES}"
    )


def as_optional_ms(where: str, name: str, value: object) -> int | None:
    """Return a duration in milliseconds, None as it is. Errors as in `as_ms`."""
    return None if value is None else as_ms(where, name, value)


def describe_ms(value: int) -> str:
    """Return a duration as text: `10s`, `6h`, `1500ms`."""
    for unit in ("d", "h", "m", "s"):
        if value and value % UNIT_MS[unit] == 0:
            return f"{value // UNIT_MS[unit]}{unit}"
    return f"{value}ms"
