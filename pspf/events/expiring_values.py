"""State values that expire: their stored form, and the index of their due times.

A value with a time to live is a zero byte, its due time in 8 bytes, then its JSON, which never begins with a zero
byte. The index is a namespace of its own: one empty entry for each such value, in order of due time.
"""

import struct
from datetime import timedelta
from typing import Final

from pspf.errors import BackendCorrupt, ConfigurationError
from pspf.events.durations import EXAMPLES, parse_duration
from pspf.records import EntryKind, make_namespace

Ttl = float | str | timedelta
"""Seconds, text such as `90s`, `12h` or `7d`, or a timedelta."""

MARK: Final = b"\0"
EXPIRY: Final = make_namespace(EntryKind.STATE_EXPIRY, 0)
"""The namespace of the due times of `ctx.state`. A key is 8 bytes of due time, then the key of the value."""

_HEAD: Final = struct.Struct(">cQ")
_DUE: Final = struct.Struct(">Q")
_LONGEST_MS: Final = 1_000 * 366 * 86_400_000
"""A thousand years."""


def ttl_ms(name: str, ttl: object) -> int:
    """Return a time to live in milliseconds, at least 1.

    Raises:
        ConfigurationError: It is none: not above 0, not finite, or of another type.
    """
    try:
        if isinstance(ttl, str):
            span_ms: float = parse_duration(ttl)
        elif isinstance(ttl, timedelta):
            span_ms = ttl / timedelta(milliseconds=1)
        elif isinstance(ttl, int | float) and not isinstance(ttl, bool):
            span_ms = ttl * 1_000
        else:
            raise ValueError("is of another type")
    except ValueError as error:
        raise ConfigurationError(
            f"state {name!r:.80}: ttl={ttl!r:.80}: {error}; use seconds, a timedelta, or text such as {EXAMPLES}"
        ) from error
    if not 0 < span_ms <= _LONGEST_MS:
        raise ConfigurationError(
            f"state {name!r:.80}: ttl={ttl!r:.80}; use more than 0 and at most 1,000 years, or no ttl to keep the value"
        )
    return max(1, round(span_ms))


def pack(due_ms: int, value: bytes) -> bytes:
    """Return a value that expires at `due_ms` (wall clock) as it is stored."""
    return _HEAD.pack(MARK, due_ms) + value


def due_of(stored: bytes | None) -> int | None:
    """Return when a stored value expires; None where it does not, is none or is damaged."""
    if stored is None or not stored.startswith(MARK) or len(stored) < _HEAD.size:
        return None
    due_ms: int = _HEAD.unpack_from(stored)[1]
    return due_ms


def unpack(stored: bytes, now_ms: int) -> bytes | None:
    """Return the JSON of a stored value, None where it has expired at `now_ms`; what is damaged as it is."""
    due_ms = due_of(stored)
    if due_ms is None:
        return stored
    return None if due_ms <= now_ms else stored[_HEAD.size :]


def expiry_key(due_ms: int, value_key: bytes) -> bytes:
    """Return the key in the index of the value at `value_key` (`records.state_key`)."""
    return _DUE.pack(due_ms) + value_key


def split_expiry_key(key: bytes) -> tuple[int, bytes]:
    """Return the due time and the key of the value.

    Raises:
        BackendCorrupt: It is no such key.
    """
    if len(key) < _DUE.size:
        raise BackendCorrupt(f"{key!r:.80} is no key of the due times of state")
    due_ms: int = _DUE.unpack_from(key)[0]
    return due_ms, key[_DUE.size :]
