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
from enum import IntEnum
from operator import itemgetter
from typing import Final, NamedTuple

import orjson

from pspf.compact import compact
from pspf.errors import BackendCorrupt, ConfigurationError, EventRejected, SchemaError

_LOW_BITS, OFFSET_BITS = 64, 128
_LOW_MASK: Final = (1 << _LOW_BITS) - 1
LONGEST_NAME: Final = 200
_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")
_SLOT_BITS: Final = 56
_SLOTS_BELOW_ZERO: Final = 1 << _SLOT_BITS - 1
_MOST_KINDS: Final = 128
_ZERO, _ESCAPED_ZERO, _END_OF_KEY = b"\0", b"\0\xff", b"\0\1"
_ID: Final = re.compile(r"(?:(\d{1,6}):)?(\d{1,20})(?:-(\d{1,20}))?", re.ASCII)

DEAD_LETTER_SUFFIX: Final = "-dlq"
LATE_SUFFIX: Final = "-late"
COMPANION_SUFFIXES: Final = (DEAD_LETTER_SUFFIX, LATE_SUFFIX)


def format_id(partition: int, offset: int) -> str:
    """Return the id of the record at `offset`: `42`, `3:42`, `1526919030474-0`."""
    high = offset >> _LOW_BITS & _LOW_MASK  # above OFFSET_BITS stands what is no part of the offset
    text = f"{high}-{offset & _LOW_MASK}" if high else str(offset & _LOW_MASK)
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


EntryPlace = tuple[int, bytes]
"""(namespace, key) of an entry: what an operator keeps, in order of key within a namespace.
A namespace is a signed number of 64 bits: its kind in the upper byte, a slot in the rest. One of kind 0 is its slot.
"""

StateKey = tuple[bytes, str]
"""(record key, name) of a value of `ctx.state`."""


class EntryKind(IntEnum):
    """What a namespace holds. Numbers are stored and never change; 7 to 127 are free for operators from outside."""

    WINDOWS = 0
    """One window, or a slice that windows share: the slot is its start in milliseconds, the key the grouping key."""
    STATE = 1
    """`ctx.state`: one namespace, of slot 0. The key is the record key, then the name of a value."""
    TIMERS = 2  # by key and name, and in order of due time: windowing/timers/rows.py
    STEPS = 3  # results of finished steps: events/step_places.py
    STATE_EXPIRY = 4  # when values of `ctx.state` expire: events/expiring_values.py


def make_namespace(kind: int, slot: int) -> int:
    """Return the namespace of a kind and a slot.

    Raises:
        ValueError: They don't fit into 64 bits.
    """
    if not (0 <= kind < _MOST_KINDS and -_SLOTS_BELOW_ZERO <= slot < _SLOTS_BELOW_ZERO):
        raise ValueError(f"no namespace has kind {kind} and slot {slot}")
    return (kind << _SLOT_BITS) + slot


def split_namespace(namespace: int) -> tuple[int, int]:
    """Return the kind and the slot of a namespace."""
    kind = namespace + _SLOTS_BELOW_ZERO >> _SLOT_BITS
    return kind, namespace - (kind << _SLOT_BITS)


def kind_of(namespace: int) -> int:
    """Return the kind of a namespace."""
    return namespace + _SLOTS_BELOW_ZERO >> _SLOT_BITS


STATE: Final = make_namespace(EntryKind.STATE, 0)
"""The namespace of `ctx.state`."""


def state_key(record_key: bytes, name: str) -> bytes:
    """Return the key of a value of `ctx.state`: in order of record keys, then of names.

    A zero byte of the record key is followed by 0xFF; 0x00 0x01 ends it; then comes the name in UTF-8. What stands
    before the name is the beginning of no other record key's, so that all names of a record key are one range.
    """
    return state_prefix(record_key) + name.encode()


def state_prefix(record_key: bytes) -> bytes:
    """Return what the keys of all values of a record key begin with, and no others."""
    return record_key.replace(_ZERO, _ESCAPED_ZERO) + _END_OF_KEY


def before_state(record_key: bytes) -> bytes:
    """Return a key before all values of a record key and behind those of smaller ones: where a scan of them begins."""
    return record_key.replace(_ZERO, _ESCAPED_ZERO) + _ZERO


def split_state_key(key: bytes) -> tuple[bytes, str]:
    """Return the record key and the name of a value of `ctx.state`.

    Raises:
        BackendCorrupt: It is no such key.
    """
    escaped, end, name = key.partition(_END_OF_KEY)
    try:
        if end:
            return escaped.replace(_ESCAPED_ZERO, _ZERO), name.decode()
    except UnicodeDecodeError:
        pass  # said below
    raise BackendCorrupt(f"{key!r:.80} is no key of a stored value")


NamespaceEntries = Mapping[int, Mapping[bytes, bytes | None]]
"""Entries by namespace, then by key; None is none. Nearly all that a batch changes is in one or two namespaces."""


@dataclass(frozen=True, slots=True)
class EntryChanges:
    """What a batch did to the entries of an ordered cursor.

    `dropped` namespaces go first, with all of their keys; then `entries` are written (None deletes), which may make
    such a namespace again.
    """

    dropped: Sequence[int] = ()
    entries: NamespaceEntries = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.dropped or self.entries)


NO_CHANGES: Final = EntryChanges()


@dataclass(frozen=True, slots=True)
class OperatorProgress:
    """What an operator remembers beside its entries: its watermark, and bytes that the broker does not look into."""

    watermark_ms: int | None
    stored: bytes


@dataclass(frozen=True, slots=True)
class Commit:
    """All that a batch did. It takes effect as a whole, once, or not at all.

    `done` are the offsets that are finished (succeeded or dead), `position` (ordered mode only)
    the first offset that the cursor has not read. With `whole` the records stand or fall together (`list[Event]`
    handlers). The rest is of ordered mode, too: `changes` of the cursor's entries, the `progress` of its operator
    (None: as it was), and `late` records, which go to the topic's companion, to the cursor's own partition.
    """

    commit_id: bytes
    done: Sequence[int] = ()
    retries: Sequence[Retry] = ()
    position: int | None = None
    dead: Sequence[DeadLetter] = ()
    emits: Sequence[Emit] = ()
    whole: bool = False
    changes: EntryChanges = NO_CHANGES
    progress: OperatorProgress | None = None
    late: Sequence[NewRecord] = ()


class Batch(NamedTuple):
    """What one poll gives: records of one cursor, retries first, then new ones in offset order.

    `end` is the first offset after the batch (what `Commit.position` becomes). A `suspect` batch may have ended an
    earlier process: it runs alone, after `Consumer.intend`. `crashes` counts how often its only record ended a process
    that ran nothing else. `size_bytes` are those of the values, where the broker has counted them.
    """

    records: Sequence[Record]
    end: int
    suspect: bool = False
    crashes: int = 0
    size_bytes: int | None = None
