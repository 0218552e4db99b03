"""What commands and the admin show of a broker: the stable JSON of groups, dead letters and remembered values."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from pspf.connectors.contract.values import ConsumerInfo, CursorInfo, StateEntry, StoredDeadLetter
from pspf.errors import SchemaError
from pspf.records import DEAD_LETTER_SUFFIX, as_text, format_id


@dataclass(frozen=True, slots=True)
class GroupView:
    """All partitions of a group on a topic; `handler` is None in shared mode."""

    group: str
    topic: str
    handler: str | None
    cursors: Sequence[CursorInfo]
    consumers: Sequence[ConsumerInfo]

    @property
    def ordering(self) -> str:
        """`key` where order per key is kept, else `none`."""
        return "none" if self.handler is None else "key"

    @property
    def lag(self) -> int | None:
        """Records not finished; None where one partition's is unknown."""
        lags = [cursor.lag for cursor in self.cursors]
        return None if None in lags else sum(lag for lag in lags if lag is not None)

    @property
    def pending(self) -> int:
        """Records delivered and not finished."""
        return sum(pending_of(cursor) for cursor in self.cursors)

    def as_summary(self) -> dict[str, Any]:
        """Return what `groups list --json` has for it."""
        return {
            "group": self.group,
            "topic": self.topic,
            "handler": self.handler,
            "ordering": self.ordering,
            "lag": self.lag,
            "pending": self.pending,
            "consumers": len(self.consumers),
        }

    def as_json(self) -> dict[str, Any]:
        """Return what `groups inspect --json` has for it."""
        return {
            "group": self.group,
            "topic": self.topic,
            "handler": self.handler,
            "ordering": self.ordering,
            "partitions": [as_json_partition(cursor) for cursor in self.cursors],
            "lag": self.lag,
            "pending": self.pending,
            "consumers": [{"consumer": c.consumer, "pending": c.pending, "idle_ms": c.idle_ms} for c in self.consumers],
        }


def pending_of(cursor: CursorInfo) -> int:
    """Return the delivered part of a cursor's lag: being handled, held back, or waiting for a retry."""
    return cursor.pending + cursor.held_back + cursor.retries


def as_json_partition(cursor: CursorInfo) -> dict[str, Any]:
    """Return what `groups inspect --json` has for one partition."""
    partition = cursor.cursor.partition
    return {
        "partition": partition,
        "committed": None if cursor.committed is None else format_id(partition, cursor.committed),
        "end": None if cursor.end is None else format_id(partition, cursor.end),
        "lag": cursor.lag,
        "pending": pending_of(cursor),
        "oldest_pending_ms": cursor.oldest_pending_ms,
        "owner": cursor.owner,
        "watermark_ms": cursor.watermark_ms,
    }


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """A filter of dead letters; a field that is None or empty does not narrow it.

    An id is the dead letter's own, or names the record that died: `orders/42`.
    """

    topic: str | None = None
    group: str | None = None
    handler: str | None = None
    error_type: str | None = None
    ids: tuple[str, ...] = ()

    @property
    def source(self) -> str | None:
        """The topic that the records came from, also where its `-dlq` was named."""
        return None if self.topic is None else self.topic.removesuffix(DEAD_LETTER_SUFFIX)

    def fits(self, letter: StoredDeadLetter) -> bool:
        """Whether it is among them, of this topic and group as it is."""
        return (
            (not self.ids or not names_of(letter).isdisjoint(self.ids))
            and self.handler in (None, letter.handler)
            and self.error_type in (None, letter.error_type, letter.error_type.rpartition(".")[2])
        )


def names_of(letter: StoredDeadLetter) -> set[str]:
    """Return the ids that name a dead letter."""
    return {letter.record.id, f"{letter.topic}/{letter.original_id}"}


def as_json_letter(letter: StoredDeadLetter) -> dict[str, Any]:
    """Return what `dlq list --json` has for it."""
    return {
        "id": letter.record.id,
        "topic": letter.topic,
        "group": letter.group,
        "handler": letter.handler,
        "attempts": letter.attempts,
        "error_type": letter.error_type,
        "error": letter.error,
        "original_id": letter.original_id,
        "dead_at_ms": letter.dead_at_ms,
    }


def as_json_whole(letter: StoredDeadLetter) -> dict[str, Any]:
    """Return all that is known of it: also traceback, key, headers and payload."""
    whole = {
        **as_json_letter(letter),
        "partition": letter.partition,
        "traceback": letter.traceback,
        "key": as_text(letter.record.raw_key),
        "headers": _headers(letter),
    }
    try:
        return {**whole, "event": orjson.loads(letter.record.value)}
    except orjson.JSONDecodeError:
        return {**whole, "event": None, "raw": base64.b64encode(letter.record.value).decode()}


def _headers(letter: StoredDeadLetter) -> dict[str, str]:
    try:
        return letter.record.headers
    except SchemaError:  # they may be what the record was given up for
        return {}


def as_json_entry(entry: StateEntry) -> dict[str, Any]:
    """Return what `state list --json` has for a remembered value."""
    shown = {
        "handler": entry.handler,
        "topic": entry.topic,
        "group": entry.group,
        "partition": entry.partition,
        "key": as_text(entry.key) or "",
        "name": entry.name,
    }
    try:
        return {**shown, "value": orjson.loads(entry.value)}
    except orjson.JSONDecodeError:  # it is damaged
        return {**shown, "value": None, "raw": base64.b64encode(entry.value).decode()}
