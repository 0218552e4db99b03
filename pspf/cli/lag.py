"""Groups as people see them: the cursors of one topic, group and handler together."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from pspf.cli.console import flush, format_span, write_json, write_table
from pspf.cli.grammar import near
from pspf.connectors.base import Broker, ConsumerInfo, CursorInfo
from pspf.errors import NotFound
from pspf.records import format_id


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
            "partitions": [_as_json_partition(cursor) for cursor in self.cursors],
            "lag": self.lag,
            "pending": self.pending,
            "consumers": [{"consumer": c.consumer, "pending": c.pending, "idle_ms": c.idle_ms} for c in self.consumers],
        }


def pending_of(cursor: CursorInfo) -> int:
    """Return the delivered part of a cursor's lag: in hand, held back, or waiting for a retry."""
    return cursor.pending + cursor.held_back + cursor.retries


async def read_groups(broker: Broker, *, group: str | None = None, topic: str | None = None) -> list[GroupView]:
    """Return the groups of the broker, or those of one name or topic, sorted.

    Raises:
        NotFound: No group has this name; the message has the nearest.
    """
    cursors = sorted(
        await broker.list_cursors(group=group, topic=topic),
        key=lambda info: (*_identity(info), info.cursor.partition),
    )
    if group is not None and not cursors:
        await check_group(broker, group, topic)
    consumers = await broker.list_consumers(group=group)
    return [
        GroupView(
            name,
            of,
            handler or None,
            list(members),
            [c for c in consumers if (c.group, c.topic, c.handler or "") == (name, of, handler)],
        )
        for (name, of, handler), members in groupby(cursors, key=_identity)
    ]


async def check_group(broker: Broker, group: str, topic: str | None = None) -> None:
    """Raise NotFound, with the nearest name, where there is no such group (on `topic`)."""
    cursors = await broker.list_cursors()
    names = {info.cursor.group for info in cursors}
    if group not in names:
        known = f"\n  groups here: {', '.join(sorted(names)[:8])}" if names else ""
        raise NotFound(f"no group {group!r} in {broker.name}{near(group, names)}{known}")
    topics = {info.cursor.topic for info in cursors if info.cursor.group == group}
    if topic is not None and topic not in topics:
        on = ", ".join(sorted(topics)[:8])
        raise NotFound(f"group {group!r} is not on {topic!r}{near(topic, topics)}\n  it is on: {on}")


def as_json_consumer(consumer: ConsumerInfo) -> dict[str, Any]:
    """Return what `groups consumers --json` has for it."""
    return {
        "consumer": consumer.consumer,
        "group": consumer.group,
        "topic": consumer.topic,
        "handler": consumer.handler,
        "pending": consumer.pending,
        "idle_ms": consumer.idle_ms,
    }


def over(groups: Sequence[GroupView], limit: int) -> list[GroupView]:
    """Return the groups whose lag is above `limit` or unknown."""
    return [group for group in groups if group.lag is None or group.lag > limit]


def print_groups(groups: Sequence[GroupView], *, as_json: bool) -> None:
    """Print the groups, partition by partition."""
    if as_json:
        write_json({"groups": [group.as_json() for group in groups]})
        return
    rows = [
        (
            group.group,
            group.topic,
            group.handler,
            cursor.cursor.partition,
            _id(cursor, cursor.committed),
            _id(cursor, cursor.end),
            cursor.lag,
            pending_of(cursor),
            format_span(cursor.oldest_pending_ms),
            cursor.owner,
        )
        for group in groups
        for cursor in group.cursors
    ]
    headers = ("group", "topic", "handler", "part", "committed", "end", "lag", "pending", "oldest", "owner")
    write_table(headers, rows, empty="no groups yet; a worker makes them")
    flush()


def _identity(info: CursorInfo) -> tuple[str, str, str]:
    return info.cursor.group, info.cursor.topic, info.cursor.handler or ""


def _id(info: CursorInfo, offset: int | None) -> str | None:
    return None if offset is None else format_id(info.cursor.partition, offset)


def _as_json_partition(info: CursorInfo) -> dict[str, Any]:
    return {
        "partition": info.cursor.partition,
        "committed": _id(info, info.committed),
        "end": _id(info, info.end),
        "lag": info.lag,
        "pending": pending_of(info),
        "oldest_pending_ms": info.oldest_pending_ms,
        "owner": info.owner,
        "watermark_ms": info.watermark_ms,
    }
