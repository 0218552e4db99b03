"""What both modes write in a commit: emitted records, dead letters, trimming."""

import base64
from array import array
from collections.abc import Collection, Sequence
from typing import Final

import apsw

from pspf.connectors.base import Limits, StoredDeadLetter
from pspf.connectors.sqlite.engine import Engine
from pspf.connectors.sqlite.log import Log
from pspf.connectors.sqlite.retention import trim
from pspf.connectors.sqlite.storage import Storage
from pspf.connectors.sqlite.topics import ensure_topic
from pspf.errors import SchemaError, TooManyEffects
from pspf.records import (
    DEAD_LETTER_SUFFIX,
    Commit,
    DeadLetter,
    NewRecord,
    Record,
    decode_headers,
    encode_headers,
    format_id,
)

MAX_OPERATIONS: Final = 50_000 + 5_000
MAX_EFFECT_BYTES: Final = (32 << 20) + (4 << 20)
_TRIM_EVERY_MS: Final = 1_000


def check_size(commit: Commit, limits: Limits) -> None:
    """Raise TooManyEffects where a commit is larger than one transaction should be, EventRejected for one record."""
    for emit in commit.emits:
        limits.check(emit.record)
    operations = len(commit.emits) + len(commit.state) + len(commit.dead)
    if operations > MAX_OPERATIONS:
        raise TooManyEffects(f"a commit of {operations:,} operations; at most {MAX_OPERATIONS:,} are taken")
    size_bytes = sum(len(emit.record.value) for emit in commit.emits)
    size_bytes += sum(len(value) for value in commit.state.values() if value is not None)
    if size_bytes > MAX_EFFECT_BYTES:
        raise TooManyEffects(f"a commit of {size_bytes:,} bytes; at most {MAX_EFFECT_BYTES:,} are taken")


def forget_retries(storage: Storage, cursor_id: int, offsets: Sequence[int]) -> None:
    """Remove the retry entries of these offsets, where there are any."""
    if offsets:
        storage.run(
            "DELETE FROM retries WHERE cursor_id = ? AND offset IN (SELECT value FROM carray(?))",
            (cursor_id, apsw.carray(array("q", offsets))),
        )


class Effects:
    """Writes emits and dead letters, and trims now and then."""

    def __init__(self, engine: Engine, log: Log) -> None:
        self._engine = engine
        self._log = log
        self._trimmer = Trimmer(engine)

    def write(
        self, storage: Storage, partition_id: int, commit: Commit, lost: Collection[int] = (), *, ordered: bool
    ) -> None:
        """Write what the records that are not `lost` emitted, and their dead letters; trim their partition."""
        now_ms = self._engine.clock.now_ms()
        topics: dict[str, list[NewRecord]] = {}
        for emit in commit.emits:
            if not lost or emit.source not in lost:
                # De-duplication is for emits from outside: these are exactly once by the commit.
                topics.setdefault(emit.topic, []).append(emit.record._replace(event_id=None))
        for topic, records in topics.items():
            append_and_tell(self._engine, self._log, storage, topic, records, now_ms)
        for letter in commit.dead:
            if letter.record.offset not in lost:
                self._bury(storage, letter, ordered=ordered)
        self._trimmer.trim_if_due(storage, partition_id, now_ms)

    def _bury(self, storage: Storage, letter: DeadLetter, *, ordered: bool) -> None:
        record = letter.record
        topic = ensure_topic(storage, record.topic + DEAD_LETTER_SUFFIX, letter.dead_at_ms)
        partition = topic.partitions[record.partition % len(topic.partitions)]
        stored = NewRecord(record.raw_key, record.value, encode_letter(letter, ordered=ordered))
        self._log.append_partition(storage, partition, [stored], letter.dead_at_ms)
        self._engine.grown.add(partition.partition_id)


class Trimmer:
    """Trims a partition at most once a second; `trim` bounds each step."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._limits = engine.limits
        self._due_ms: dict[int, int] = {}

    def trim_if_due(self, storage: Storage, partition_id: int, now_ms: int) -> None:
        monotonic_ms = self._engine.clock.monotonic_ms()
        if monotonic_ms >= self._due_ms.get(partition_id, 0):
            trimmed = trim(storage, partition_id, self._limits, now_ms)
            self._due_ms[partition_id] = monotonic_ms + (0 if trimmed else _TRIM_EVERY_MS)


def append_and_tell(
    engine: Engine, log: Log, storage: Storage, topic: str, records: Sequence[NewRecord], now_ms: int
) -> list[tuple[int, int]]:
    """Append inside a commit, and let waiting polls know."""
    found = ensure_topic(storage, topic, now_ms)
    places = log.append(storage, found, records, now_ms)
    engine.grown.update(found.partitions[number].partition_id for number in {place.partition for place in places})
    return [(place.partition, place.offset) for place in places]


_PREFIX: Final = "pspf-"


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
        return StoredDeadLetter(
            record=record,
            topic=headers[f"{_PREFIX}topic"],
            partition=int(headers[f"{_PREFIX}partition"]),
            group=headers[f"{_PREFIX}group"],
            handler=headers[f"{_PREFIX}handler"],
            ordered=headers[f"{_PREFIX}ordering"] == "key",
            attempts=int(headers[f"{_PREFIX}attempts"]),
            error_type=headers[f"{_PREFIX}error-type"],
            error=headers[f"{_PREFIX}error"],
            traceback=headers[f"{_PREFIX}traceback"],
            original_id=format_id(int(headers[f"{_PREFIX}partition"]), int(headers[f"{_PREFIX}original-offset"])),
            dead_at_ms=int(headers[f"{_PREFIX}dead-at-ms"]),
        )
    except (SchemaError, KeyError, ValueError):
        return None


def original_headers(record: Record) -> bytes | None:
    """Return a dead letter's headers as they were before it died."""
    headers = record.headers
    raw = headers.get(f"{_PREFIX}raw-headers-base64")
    if raw is not None:
        return base64.b64decode(raw)
    return encode_headers({name: value for name, value in headers.items() if not name.startswith(_PREFIX)})
