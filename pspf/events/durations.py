"""Durations as text, such as `10s`."""

import re
from typing import Final

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
