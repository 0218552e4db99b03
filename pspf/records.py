"""Values that all rooms share: records, commits, cursors. All frozen; times are milliseconds, UTC.

A `Record` is what a broker stores: opaque bytes with a place. An offset is an integer that grows
within its partition; brokers whose offsets have two halves put the first into the high 64 bits.
A record's id is its offset as text, with the partition before it where that is not 0, so that an
id names one record of a topic.
"""

import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final, NamedTuple

import orjson

from pspf.compact import compact
from pspf.errors import ConfigurationError, EventRejected, SchemaError

_LOW_BITS: Final = 64
_LOW_MASK: Final = (1 << _LOW_BITS) - 1
LONGEST_NAME: Final = 200
_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")
_ID: Final = re.compile(r"(?:(\d{1,6}):)?(\d{1,20})(?:-(\d{1,20}))?", re.ASCII)

DEAD_LETTER_SUFFIX: Final = "-dlq"
LATE_SUFFIX: Final = "-late"
COMPANION_SUFFIXES: Final = (DEAD_LETTER_SUFFIX, LATE_SUFFIX)


def format_id(partition: int, offset: int) -> str:
    """Return the id of the record at `offset`: `42`, `3:42`, `1526919030474-0`."""
    high = offset >> _LOW_BITS
    text = f"{high}-{offset & _LOW_MASK}" if high else str(offset)
    return f"{partition}:{text}" if partition else text


def format_ids(places: "Sequence[Appended]") -> list[str]:
    """Return the ids of many places: what `format_id` gives for each."""
    return [
        str(offset) if not partition and not offset >> _LOW_BITS else format_id(partition, offset)
        for partition, offset, _ in places
    ]


def parse_id(text: str) -> tuple[int, int]:
    """Return (partition, offset) of a record's id.

    Raises:
        ConfigurationError: It is no id.
    """
    match = _ID.fullmatch(text)
    if match is None:
        raise ConfigurationError(f"{text!r} is no record id; ids look like 42, 3:42 or 1526919030474-0")
    partition, first, second = match.groups()
    offset = int(first) if second is None else int(first) << _LOW_BITS | int(second)
    return int(partition or 0), offset


def check_name(kind: str, name: str) -> str:
    """Return `name` if it can name a topic or a group.

    Raises:
        ConfigurationError: It is empty, has other characters than A-Z a-z 0-9 . _ -, or is too long: a topic's leaves
            room for the names of its companions.
    """
    longest = LONGEST_NAME
    if kind == "topic" and not name.endswith(COMPANION_SUFFIXES):
        longest -= max(map(len, COMPANION_SUFFIXES))
    if len(name) > longest or not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{kind} {name!r:.240}, of {len(name)} characters: use 1 to {longest} of A-Z a-z 0-9 . _ -"
            + (" (its dead letters are in a topic of their own, with a longer name)" if len(name) > longest else "")
        )
    return name


def companion_source(topic: str) -> str | None:
    """Return the topic that `topic` holds the dead or late records of, None for an ordinary one."""
    for suffix in COMPANION_SUFFIXES:
        if topic.endswith(suffix) and len(topic) > len(suffix):
            return topic.removesuffix(suffix)
    return None


def as_text(raw: bytes | None) -> str | None:
    """Return bytes as printable text; bytes that are not UTF-8 become escapes."""
    return None if raw is None else raw.decode(errors="backslashreplace")


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition of a key: crc32 of its UTF-8 bytes, modulo the number of partitions."""
    return zlib.crc32(key) % partitions


class Record(NamedTuple):
    """One stored record. A tuple, because a frozen dataclass costs five times as much to make.

    `attempts` counts the runs of this record that failed before, for the cursor that reads it.
    """

    topic: str
    partition: int
    offset: int
    raw_key: bytes | None
    value: bytes
    raw_headers: bytes | None
    timestamp_ms: int
    attempts: int = 0

    @property
    def id(self) -> str:
        """The id, unique in the topic."""
        return format_id(self.partition, self.offset)

    @property
    def key(self) -> str | None:
        """The key as text.

        Raises:
            SchemaError: Its bytes are not UTF-8.
        """
        try:
            return None if self.raw_key is None else self.raw_key.decode()
        except UnicodeDecodeError as error:
            raise SchemaError(f"key of {self.topic} {self.id} is not UTF-8: {self.raw_key!r:.80}") from error

    @property
    def headers(self) -> dict[str, str]:
        """The headers; empty where there are none.

        Raises:
            SchemaError: They are no JSON object of strings.
        """
        return decode_headers(self.raw_headers)


offset_of: Final[Callable[[Record], int]] = itemgetter(Record._fields.index("offset"))
"""The offset of a record, for `map`: half the price of the attribute."""


def decode_headers(raw: bytes | None) -> dict[str, str]:
    """Return headers as they were given to `encode_headers`.

    Raises:
        SchemaError: They are no JSON object of strings.
    """
    if raw is None:
        return {}
    try:
        headers = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise SchemaError(f"headers are not JSON: {raw!r:.80}") from error
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        raise SchemaError(f"headers are no JSON object of strings: {raw!r:.80}")
    return headers


def encode_headers(headers: Mapping[str, str] | None) -> bytes | None:
    """Return headers as stored: a JSON object of strings, None where there are none.

    Raises:
        EventRejected: A name or value is no text.
    """
    if not headers:
        return None
    pairs: Iterable[tuple[object, object]] = headers.items()
    if not all(isinstance(name, str) and isinstance(value, str) for name, value in pairs):
        raise EventRejected(f"headers map text to text, not {headers!r:.120}")
    try:
        return compact(orjson.dumps(dict(headers)))
    except orjson.JSONEncodeError as error:
        raise EventRejected(f"headers can't be stored: {error}") from error


class NewRecord(NamedTuple):
    """A record to append. `event_id` de-duplicates; `timestamp_ms` None = the broker's clock."""

    raw_key: bytes | None
    value: bytes
    raw_headers: bytes | None = None
    timestamp_ms: int | None = None
    event_id: str | None = None


class Appended(NamedTuple):
    """Where a record was stored, or where the first one with its `event_id` is."""

    partition: int
    offset: int
    duplicate: bool = False

    @property
    def id(self) -> str:
        """The record's id, unique in the topic."""
        return format_id(self.partition, self.offset)


@dataclass(frozen=True, slots=True)
class Cursor:
    """The unit of progress of a group: `handler` is None in shared mode, its name in ordered mode."""

    topic: str
    group: str
    handler: str | None
    partition: int

    def __str__(self) -> str:
        name = f"{self.group}/{self.handler}" if self.handler else self.group
        return f"{self.topic}:{self.partition} of {name}"


class Emit(NamedTuple):
    """A record that a handler emits inside the commit; `source` is the offset of its input."""

    source: int
    topic: str
    record: NewRecord


@dataclass(frozen=True, slots=True)
class Retry:
    """A record that is not done: due at `due_ms`, or (None) held back behind an earlier one of its key."""

    offset: int
    key: bytes | None
    attempts: int
    due_ms: int | None
    error: str = ""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that is given up, with the reason. `attempts` includes the last one."""

    record: Record
    group: str
    handler: str
    attempts: int
    error_type: str
    error: str
    traceback: str
    dead_at_ms: int
    is_result: bool = False
    """Whether `record` is what a window came to, and no record of the topic: it can't be handled again."""


StateKey = tuple[bytes, str]
"""(record key, name)."""


WindowPlace = tuple[int, bytes]
"""(slot, key): a window's start, or that of a slice that windows share, and a grouping key as it is stored."""


WindowStates = Mapping[int, Mapping[bytes, bytes | None]]
"""States by slot, then by key; None is none. By slot, because nearly all that a batch changes is in one or two."""


@dataclass(frozen=True, slots=True)
class WindowChanges:
    """What a batch did to the windows of an ordered cursor.

    `dropped` slots go first, with all of their keys; then `states` are written (None deletes), which
    may make such a slot anew. `progress` replaces what the operator remembers beside them; the broker
    does not look into it. `late` records go to the topic's companion, to the cursor's own partition.
    """

    watermark_ms: int | None
    progress: bytes
    dropped: Sequence[int] = ()
    states: WindowStates = field(default_factory=dict)
    late: Sequence[NewRecord] = ()


@dataclass(frozen=True, slots=True)
class Commit:
    """All that a batch did. It takes effect as a whole, once, or not at all.

    `done` are the offsets that are finished (succeeded or dead), `position` (ordered mode only)
    the first offset that the cursor has not read. A state value of None deletes. With `whole` the
    records stand or fall together (`list[Event]` handlers). `windows` is of windowed handlers.
    """

    commit_id: bytes
    done: Sequence[int] = ()
    retries: Sequence[Retry] = ()
    position: int | None = None
    dead: Sequence[DeadLetter] = ()
    emits: Sequence[Emit] = ()
    state: Mapping[StateKey, bytes | None] = field(default_factory=dict)
    whole: bool = False
    windows: WindowChanges | None = None


class Batch(NamedTuple):
    """What one poll gives: records of one cursor, retries first, then new ones in offset order.

    `end` is the first offset after the batch (what `Commit.position` becomes). A `suspect` batch
    may have ended an earlier process: it runs alone, after `Consumer.intend`. `crashes` counts how
    often its only record ended a process that ran nothing else. `size_bytes` are those of the values, where the
    broker has counted them.
    """

    records: Sequence[Record]
    end: int
    suspect: bool = False
    crashes: int = 0
    size_bytes: int | None = None
