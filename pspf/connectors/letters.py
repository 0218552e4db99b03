"""What brokers have in common about commits: a dead letter as a record, and how large a commit may be."""

import base64
from collections.abc import Sequence
from typing import Final

from pspf.connectors.base import Broker, Limits, StoredDeadLetter
from pspf.errors import ConfigurationError, NotFound, PSPFError, Refused, SchemaError, TooManyEffects
from pspf.records import (
    Commit,
    DeadLetter,
    NewRecord,
    Record,
    check_name,
    companion_source,
    decode_headers,
    encode_headers,
    format_id,
)

MAX_OPERATIONS: Final = 50_000 + 5_000
MAX_EFFECT_BYTES: Final = (32 << 20) + (4 << 20)

_HIGHEST: Final = (1 << 128) - 1
_LATEST_MS: Final = 253_402_300_799_999
_PREFIX: Final = "pspf-"
_RESULT: Final = f"{_PREFIX}is-result"


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
    if letter.is_result:
        headers[_RESULT] = "1"
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
            is_result=_RESULT in headers,
        )
    except (SchemaError, KeyError, ValueError):
        return None


def _parse_number(text: str, *, most: int = _HIGHEST) -> int:
    """Return a number that a letter of ours may hold; raise ValueError for any other, which is none of ours."""
    number = int(text)
    if not 0 <= number <= most:
        raise ValueError(f"{number} is out of range")
    return number


def check_replay(letters: Sequence[StoredDeadLetter], to: str | None) -> None:
    """Raise for what can't be given a new start. Errors as in `Broker.replay_dead_letters`."""
    if to is not None:
        if companion_source(check_name("topic", to)) is not None:
            raise ConfigurationError(f"topic {to!r}: -dlq and -late are written by PSPF alone; replay to another one")
        return
    for letter in letters:
        if letter.is_result:
            raise Refused(
                f"dead letter {letter.record.id} of {letter.topic} is what a window of {letter.handler} came to, and no"
                " record that could be handled again: append it as it is with --to TOPIC"
            )


async def replay_batch(
    broker: Broker, letters: Sequence[StoredDeadLetter], to: str | None
) -> tuple[int, list[PSPFError]]:
    """Give dead letters a new start; return how many, and why the others are left: one keeps no other back."""
    try:
        return await broker.replay_dead_letters(letters, to=to), []
    except (NotFound, Refused):
        done, errors = 0, list[PSPFError]()
        for letter in letters:
            try:
                done += await broker.replay_dead_letters([letter], to=to)
            except (NotFound, Refused) as error:
                errors.append(error)
        return done, errors


def as_new(letter: StoredDeadLetter) -> NewRecord:
    """Return the record of a dead letter as it was: its bytes, key, headers and time."""
    record = letter.record
    time_ms = record.headers.get(f"{_PREFIX}original-timestamp-ms")
    is_time = time_ms is not None and time_ms.removeprefix("-").isdecimal() and len(time_ms) < 18
    headers = original_headers(record)
    return NewRecord(record.raw_key, record.value, headers, int(time_ms) if is_time and time_ms else None)


def original_headers(record: Record) -> bytes | None:
    """Return a dead letter's headers as they were before it died."""
    headers = record.headers
    raw = headers.get(f"{_PREFIX}raw-headers-base64")
    if raw is not None:
        return base64.b64decode(raw)
    return encode_headers({name: value for name, value in headers.items() if not name.startswith(_PREFIX)})
