"""What brokers have in common about commits: a dead letter as a record, and how large a commit may be."""

import base64
from typing import Final

from pspf.connectors.base import Limits, StoredDeadLetter
from pspf.errors import SchemaError, TooManyEffects
from pspf.records import Commit, DeadLetter, Record, decode_headers, encode_headers, format_id

MAX_OPERATIONS: Final = 50_000 + 5_000
MAX_EFFECT_BYTES: Final = (32 << 20) + (4 << 20)

_HIGHEST: Final = (1 << 128) - 1
_LATEST_MS: Final = 253_402_300_799_999
_PREFIX: Final = "pspf-"


def check_size(commit: Commit, limits: Limits) -> None:
    """Raise TooManyEffects where a commit is larger than one transaction should be, EventRejected for one record."""
    emitted = [emit[2] for emit in commit.emits]
    limits.check_all(emitted)
    windows = commit.windows
    late = () if windows is None else windows.late
    states = () if windows is None else [state for keys in windows.states.values() for state in keys.values()]
    operations = len(emitted) + len(commit.state) + len(commit.dead) + len(late) + len(states)
    if operations > MAX_OPERATIONS:
        raise TooManyEffects(f"a commit of {operations:,} operations; at most {MAX_OPERATIONS:,} are taken")
    size_bytes = sum([len(record[1]) for record in emitted])
    size_bytes += sum(len(value) for value in commit.state.values() if value is not None)
    size_bytes += sum(len(record.value) for record in late)
    size_bytes += sum([len(state) for state in states if state is not None])
    if size_bytes > MAX_EFFECT_BYTES:
        raise TooManyEffects(f"a commit of {size_bytes:,} bytes; at most {MAX_EFFECT_BYTES:,} are taken")


def encode_letter(letter: DeadLetter, *, ordered: bool) -> bytes:
    """Return a dead letter's headers: the record's own, and why it is here."""
    record = letter.record
    headers: dict[str, str] = {}
    try:
        headers.update(decode_headers(record.raw_headers))
    except SchemaError:
        headers[f"{_PREFIX}raw-headers-base64"] = base64.b64encode(record.raw_headers or b"").decode()
    headers.update(
        {
            f"{_PREFIX}topic": record.topic,
            f"{_PREFIX}partition": str(record.partition),
            f"{_PREFIX}original-id": record.id,
            f"{_PREFIX}original-offset": str(record.offset),
            f"{_PREFIX}original-timestamp-ms": str(record.timestamp_ms),
            f"{_PREFIX}group": letter.group,
            f"{_PREFIX}handler": letter.handler,
            f"{_PREFIX}ordering": "key" if ordered else "none",
            f"{_PREFIX}attempts": str(letter.attempts),
            f"{_PREFIX}error-type": letter.error_type,
            f"{_PREFIX}error": _as_utf8(letter.error),
            f"{_PREFIX}traceback": _as_utf8(letter.traceback),
            f"{_PREFIX}dead-at-ms": str(letter.dead_at_ms),
        }
    )
    encoded = encode_headers(headers)
    assert encoded is not None
    return encoded


def _as_utf8(text: str) -> str:
    """Return text without lone surrogates, which JSON can't hold."""
    return text.encode("utf-8", "backslashreplace").decode()


def decode_letter(record: Record) -> StoredDeadLetter | None:
    """Return the dead letter that a record of a `-dlq` topic is, None where it is something else."""
    try:
        headers = record.headers
        partition, offset = (_parse_number(headers[f"{_PREFIX}{name}"]) for name in ("partition", "original-offset"))
        return StoredDeadLetter(
            record=record,
            topic=headers[f"{_PREFIX}topic"],
            partition=partition,
            group=headers[f"{_PREFIX}group"],
            handler=headers[f"{_PREFIX}handler"],
            ordered=headers[f"{_PREFIX}ordering"] == "key",
            attempts=_parse_number(headers[f"{_PREFIX}attempts"]),
            error_type=headers[f"{_PREFIX}error-type"],
            error=headers[f"{_PREFIX}error"],
            traceback=headers[f"{_PREFIX}traceback"],
            original_id=format_id(partition, offset),
            dead_at_ms=_parse_number(headers[f"{_PREFIX}dead-at-ms"], most=_LATEST_MS),
        )
    except (SchemaError, KeyError, ValueError):
        return None


def _parse_number(text: str, *, most: int = _HIGHEST) -> int:
    """Return a number that a letter of ours may hold; raise ValueError for any other, which is none of ours."""
    number = int(text)
    if not 0 <= number <= most:
        raise ValueError(f"{number} is out of range")
    return number


def original_headers(record: Record) -> bytes | None:
    """Return a dead letter's headers as they were before it died."""
    headers = record.headers
    raw = headers.get(f"{_PREFIX}raw-headers-base64")
    if raw is not None:
        return base64.b64decode(raw)
    return encode_headers({name: value for name, value in headers.items() if not name.startswith(_PREFIX)})
