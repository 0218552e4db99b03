"""Seek of a group: finds its cursors, describes the change of each, moves them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pspf.cli.console import write_json, write_table
from pspf.cli.exit_codes import UsageError
from pspf.cli.parsing import TopicPosition, near
from pspf.cli.services.lag import check_group
from pspf.cli.services.shuffle_topics import is_behind_hop
from pspf.cli.services.start_positions import find_offsets
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.operations import Seek
from pspf.errors import NotFound, PSPFError
from pspf.records import Cursor, format_id


@dataclass(frozen=True, slots=True)
class Seeking:
    """Which cursors of a group are to be moved, and where. What is None does not narrow."""

    group: str
    place: TopicPosition
    topic: str | None
    handler: str | None
    partition: int | None
    keep_state: bool | None
    force: bool

    async def plan(self, broker: Broker) -> list[Seek]:
        """Return what would become of each cursor.

        Raises:
            NotFound: There is no such group, topic, handler or partition.
            UsageError: A record's id would be looked for in several topics.
            Refused: One of them is in use, or has state and it was not said what becomes of it.
        """
        cursors = await self._find_cursors(broker)
        behind = await self._find_behind_hops(broker, cursors)
        topics = list(dict.fromkeys(cursor.topic for cursor in cursors))
        if self.place.record_id is not None and len(topics) > 1:
            raise UsageError(
                f"--to {self.place.record_id}: an id of which topic? name it with --topic: {', '.join(topics)}"
            )
        offsets = {topic: await find_offsets(broker, topic, self.place) for topic in topics}
        for topic in {cursor.topic for cursor in behind}:
            offsets[topic] = await find_offsets(broker, topic, TopicPosition(end=True))
        return [
            await broker.operations.seek(
                cursor,
                offsets[cursor.topic][cursor.partition],
                keep_state=self.keep_state,
                force=self.force,
                dry_run=True,
            )
            for cursor in (*behind, *cursors)
        ]

    async def execute(self, broker: Broker, planned: Sequence[Seek]) -> tuple[list[Seek], PSPFError | None]:
        """Move the cursors, one by one; return those that moved, and what kept the next from it.

        Raises:
            PSPFError: The first one could not be moved; nothing changed.
        """
        done: list[Seek] = []
        for seek in planned:
            try:
                moved = await broker.operations.seek(
                    seek.cursor, seek.after, keep_state=self.keep_state, force=self.force
                )
            except PSPFError as error:
                if not done:
                    raise
                return done, error
            done.append(moved)
        return done, None

    async def _find_cursors(self, broker: Broker) -> list[Cursor]:
        listed = [
            info.cursor
            for info in await broker.list_cursors(group=self.group, topic=self.topic)
            if info.cursor.topic == self.topic or not is_behind_hop(info.cursor)
        ]
        if not listed:
            await check_group(broker, self.group, self.topic)
        handlers = {cursor.handler for cursor in listed if cursor.handler}
        if self.handler is not None and self.handler not in handlers:
            known = f"\n  ordered handlers of it: {', '.join(sorted(handlers)[:8])}" if handlers else ""
            raise NotFound(
                f"group {self.group!r} has no ordered handler {self.handler!r}{near(self.handler, handlers)}{known}"
            )
        found = [
            cursor
            for cursor in listed
            if self.handler in (None, cursor.handler) and self.partition in (None, cursor.partition)
        ]
        if not found:
            raise NotFound(f"group {self.group!r} has no partition {self.partition}")
        return found

    async def _find_behind_hops(self, broker: Broker, cursors: Sequence[Cursor]) -> list[Cursor]:
        """Return the cursors of internal topics that begin again with these: their records come once more.

        With `keep_state` they stay as they are.
        """
        if self.keep_state:
            return []
        handlers = {cursor.handler for cursor in cursors if not is_behind_hop(cursor)}
        found = [
            info.cursor
            for info in await broker.list_cursors(group=self.group)
            if is_behind_hop(info.cursor) and info.cursor.handler in handlers
        ]
        if found and self.partition is not None:
            raise UsageError(
                f"the windows of {found[0].handler} hold records of all partitions: leave --partition out, or"
                " --keep-state"
            )
        return found


def print_seeks(seeks: Sequence[Seek], *, executed: bool, as_json: bool) -> None:
    """Print what became, or would become, of each cursor."""
    if as_json:
        write_json({"cursors": [_as_json(seek) for seek in seeks], "executed": executed})
        return
    rows = [
        (
            seek.cursor.topic,
            seek.cursor.handler,
            seek.cursor.partition,
            format_id(seek.cursor.partition, seek.before),
            format_id(seek.cursor.partition, seek.after),
            seek.unfinished,
            seek.values,
            len(seek.consumers),
        )
        for seek in seeks
    ]
    write_table(("topic", "handler", "part", "next was", "next is", "forgotten", "values", "consumers"), rows)


def _as_json(seek: Seek) -> dict[str, Any]:
    cursor = seek.cursor
    return {
        "group": cursor.group,
        "topic": cursor.topic,
        "handler": cursor.handler,
        "partition": cursor.partition,
        "from": format_id(cursor.partition, seek.before),
        "to": format_id(cursor.partition, seek.after),
        "unfinished": seek.unfinished,
        "values": seek.values,
        "consumers": list(seek.consumers),
    }
