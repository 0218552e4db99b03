"""Consumer groups for display: the cursors of one topic, group and handler together."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from pspf.cli.console import flush, format_span, write_json, write_table
from pspf.cli.parsing import near
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.values import ConsumerInfo, CursorInfo
from pspf.connectors.views import GroupView, pending_of
from pspf.errors import NotFound
from pspf.records import format_id

__all__ = ["GroupView", "as_json_consumer", "check_group", "over", "pending_of", "print_groups", "read_groups"]


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
