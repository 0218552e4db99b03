"""Dead letters as records, and the size limits of a commit, for all brokers."""

import base64
from collections.abc import AsyncIterator, Sequence
from typing import Final

from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.limits import Limits
from pspf.connectors.contract.values import StoredDeadLetter
from pspf.errors import BackendCorrupt, ConfigurationError, NotFound, PSPFError, Refused, SchemaError, TooManyEffects
from pspf.loggers import get_logger
from pspf.records import (
    DEAD_LETTER_SUFFIX,
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
from pspf.windowing.schedules.schedule import ticks_topic
from pspf.windowing.timers.rows import TIMER_HEADER

MAX_OPERATIONS: Final = 50_000 + 5_000
MAX_EFFECT_BYTES: Final = (32 << 20) + (4 << 20)

_HIGHEST: Final = (1 << 128) - 1
_LATEST_MS: Final = 253_402_300_799_999
_PREFIX: Final = "pspf-"
_LETTERS_AT_ONCE: Final = 500
_FIRST_LETTERS: Final = 16
_MANY_BYTES: Final = 1 << 20
_RESULT: Final = f"{_PREFIX}is-result"


logger = get_logger(__name__)


def check_size(commit: Commit, limits: Limits) -> None:
    """Raise TooManyEffects where a commit is larger than one transaction should be, EventRejected for one record."""
    emitted = [emit[2] for emit in commit.emits]
    limits.check_all(emitted)
    late = commit.late
    values = [value for entries in commit.changes.entries.values() for value in entries.values()]
    operations = len(emitted) + len(commit.dead) + len(late) + len(values)
    if operations > MAX_OPERATIONS:
        raise TooManyEffects(f"a commit of {operations:,} operations; at most {MAX_OPERATIONS:,} are taken")
    size_bytes = sum([len(record[1]) for record in emitted])
    size_bytes += sum(len(record.value) for record in late)
    size_bytes += sum([len(value) for value in values if value is not None])
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
    """Return a number that a letter of ours may hold; raise ValueError for any other, which PSPF has not written."""
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
        if letter.is_result and TIMER_HEADER in letter.record.headers:
            raise Refused(
                f"dead letter {letter.record.id} of {letter.topic} is the timer"
                f" {letter.record.headers[TIMER_HEADER]!r:.80} of a key of {letter.handler}, which only a record of"
                " that key can set again: emit one, or append its payload as it is with --to TOPIC"
            )
        if letter.is_result:
            raise Refused(
                f"dead letter {letter.record.id} of {letter.topic} is what a window of {letter.handler} came to, and no"
                " record that could be handled again: append it as it is with --to TOPIC"
            )


async def scan_letters(
    broker: Broker, source: str | None = None, *, page: int = _LETTERS_AT_ONCE
) -> AsyncIterator[StoredDeadLetter]:
    """Yield the dead letters of one source topic or all, by topic, partition and offset, read a few at a time.

    A page is `page` letters at most, and fewer while they are large.
    """
    for info in await broker.list_topics():
        if not info.topic.endswith(DEAD_LETTER_SUFFIX) or source not in (
            None,
            info.topic,
            info.topic.removesuffix(DEAD_LETTER_SUFFIX),
        ):
            continue
        for partition in range(info.partitions):
            offset, count = 0, min(page, _FIRST_LETTERS)
            while True:
                try:
                    records = await broker.read(info.topic, partition, offset=offset, max_records=count)
                except BackendCorrupt as error:
                    logger.warning("topic %r can't be read: %s", info.topic, error)
                    break
                if not records:
                    break
                offset = records[-1].offset + 1
                is_large = sum([len(record.value) for record in records]) > _MANY_BYTES
                count = max(1, count // 2) if is_large else min(page, 2 * count)
                for record in records:
                    letter = decode_letter(record)
                    if letter is not None:
                        yield letter


async def replay_batch(
    broker: Broker, letters: Sequence[StoredDeadLetter], to: str | None
) -> tuple[int, list[PSPFError]]:
    """Give dead letters a new start; return how many, and why the others are left: one keeps no other back.

    Where they are large it is in several steps: a server does nothing else during one. A tick of a schedule is
    appended to the topic of ticks, where it means that this tick is to run.
    """
    done, errors = 0, list[PSPFError]()
    step: list[StoredDeadLetter] = []
    size_bytes = 0
    for letter in letters:
        if to is None and _is_tick(letter):
            count, failed = await _replay_step(broker, [letter], letter.topic)
            done, errors = done + count, errors + failed
            continue
        if step and size_bytes + len(letter.record.value) > _MANY_BYTES:
            count, failed = await _replay_step(broker, step, to)
            done, errors, step, size_bytes = done + count, errors + failed, [], 0
        step.append(letter)
        size_bytes += len(letter.record.value)
    count, failed = await _replay_step(broker, step, to)
    return done + count, errors + failed


def _is_tick(letter: StoredDeadLetter) -> bool:
    return letter.is_result and letter.topic == ticks_topic(letter.group) and TIMER_HEADER in letter.record.headers


async def _replay_step(
    broker: Broker, letters: Sequence[StoredDeadLetter], to: str | None
) -> tuple[int, list[PSPFError]]:
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


def as_replayed(letter: StoredDeadLetter) -> NewRecord:
    """Return the record of a dead letter as its group gets it again: as it was; its time is always known."""
    record = as_new(letter)
    return record if record.timestamp_ms is not None else record._replace(timestamp_ms=letter.record.timestamp_ms)


def original_headers(record: Record) -> bytes | None:
    """Return a dead letter's headers as they were before it died."""
    headers = record.headers
    raw = headers.get(f"{_PREFIX}raw-headers-base64")
    if raw is not None:
        return base64.b64decode(raw)
    return encode_headers({name: value for name, value in headers.items() if not name.startswith(_PREFIX)})
