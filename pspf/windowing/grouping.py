"""Grouping of an ordered handler's records by another key than their own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import orjson

from pspf.errors import ConfigurationError
from pspf.records import Record
from pspf.windowing.event_time import Key, KeyReader, make_key_reader
from pspf.windowing.operator_definition import OperatorDefinition
from pspf.windowing.progress import SHUFFLE_KIND
from pspf.windowing.shuffle import receive

GroupingKey = str | Callable[[Any], Any]
"""A field's name, or a function of the event."""

GROUPING_KIND: Final = "grouping"
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Grouping(OperatorDefinition):
    """What sends the records of a handler on to the partitions of their grouping key; nothing of it is event time's."""

    key: GroupingKey

    @property
    def kind(self) -> str:
        return GROUPING_KIND

    @property
    def tells_time(self) -> bool:
        return False


class GroupedRecord(Record):
    """A record under its grouping key, as its handler gets it.

    `original` is the record as it was emitted, and topic, partition and id are that one's. The offset is that of the
    cursor that reads it, behind a shuffle another one. `error` is why its key can't be told.
    """

    original: Record
    error: BaseException | None
    _event: tuple[Any] | None

    @property
    def topic(self) -> str:
        return self.original.topic

    @property
    def partition(self) -> int:
        return self.original.partition

    @property
    def id(self) -> str:
        return self.original.id

    def read(self, decode: Callable[[Record], Any]) -> Any:
        """Return the event, another one each time. Errors as `decode` has them, and `error`."""
        if self.error is not None:
            raise self.error
        if self._event is None:
            return decode(self.original)
        (event,), self._event = self._event, None
        return event


def original_of(record: Record) -> Record:
    """Return a record as it was emitted."""
    return record.original if isinstance(record, GroupedRecord) else record


class Grouper:
    """Puts the records of one cursor under their grouping keys; behind a shuffle they are under them already."""

    def __init__(self, key: GroupingKey, decode: Callable[[Record], Any], *, source: str, is_behind_hop: bool) -> None:
        self._key_of: KeyReader = make_key_reader(key)
        self._decode = decode
        self._source = source
        self._group = self._receive if is_behind_hop else self._read

    def group(self, record: Record) -> GroupedRecord | None:
        """Return a record under its grouping key, None for what is no event of the app's."""
        try:
            return self._group(record)
        except BaseException as error:  # the boundary of the record: it fails when its turn comes
            return _make(record, None, record, error)

    def _read(self, record: Record) -> GroupedRecord:
        event = self._decode(record)
        return _make(record, self._key_of(event, record), record, None, (event,))

    def _receive(self, record: Record) -> GroupedRecord | None:
        arrival = receive(record, self._source)
        return None if arrival.record is None else _make(record, arrival.key, arrival.record, None)


def _make(
    record: Record, key: Key, original: Record, error: BaseException | None, event: tuple[Any] | None = None
) -> GroupedRecord:
    raw_key = None if key is None else key.encode()
    made: GroupedRecord = tuple.__new__(GroupedRecord, (*record[:3], raw_key, *record[4:]))
    made.original, made.error, made._event = original, error, event
    return made


def describe_grouping(key: GroupingKey) -> bytes:
    """Return what a cursor remembers of its grouping key: what it counts is by that one."""
    return orjson.dumps({"version": _VERSION, "kind": GROUPING_KIND, "key": name_of_key(key)})


def name_of_key(key: GroupingKey) -> str:
    """Return the field's name, or the function's."""
    return key if isinstance(key, str) else f"{getattr(key, '__name__', type(key).__name__)}()"


def check_grouped(stored: bytes, key: GroupingKey | None, name: str, *, is_sent_on: bool) -> None:
    """Raise ConfigurationError where a handler has begun under another grouping key, with one, or without.

    `is_sent_on`: the cursor is that of the records which go through a shuffle.
    """
    try:
        tree = orjson.loads(stored)
        kind, before = tree.get("kind"), tree.get("key")
    except (orjson.JSONDecodeError, AttributeError):
        return  # it is refused where it is opened
    way_out = "give it another name=, or seek with --reset-state"
    if key is None:
        if kind in (GROUPING_KIND, SHUFFLE_KIND):
            raise ConfigurationError(
                f"handler {name} had a key= when it began, and has none now; what it remembers is by it: {way_out}"
            )
    elif kind != (SHUFFLE_KIND if is_sent_on else GROUPING_KIND):
        raise ConfigurationError(f"handler {name} has a key=, and was something else when it began: {way_out}")
    elif not is_sent_on and before != name_of_key(key):
        raise ConfigurationError(
            f"handler {name} has key={name_of_key(key)}, and had key={before} when it began: what it remembers is by"
            f" that key: {way_out}"
        )
