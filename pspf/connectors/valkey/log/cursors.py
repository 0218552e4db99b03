"""The cursors of a server: found by the hash of each partition that lists them."""

from pspf.connectors.valkey.log.core import Core
from pspf.connectors.valkey.log.keys import CursorKeys
from pspf.connectors.valkey.log.retention import parse_cursor
from pspf.records import Cursor


async def find_cursors(core: Core, group: str | None, topic: str | None) -> list[tuple[Cursor, CursorKeys]]:
    """Return the cursors of a group or all, by group, topic, handler and partition."""
    topics = await core.topics.list() if topic is None else [await core.topics.find(topic)]
    places = [(found.name, number, keys) for found in topics if found for number, keys in enumerate(found.partitions)]
    replies = await core.lanes.call_many([("HKEYS", keys.cursors) for _, _, keys in places])
    found_all: list[tuple[Cursor, CursorKeys]] = []
    for (name, number, keys), reply in zip(places, replies, strict=True):
        for raw in core.commands.check(reply, "HKEYS"):
            cursor_keys = parse_cursor(keys, raw)
            if group is None or cursor_keys.group == group:
                cursor = Cursor(name, cursor_keys.group, cursor_keys.handler, number)
                found_all.append((cursor, cursor_keys))
    return sorted(found_all, key=lambda pair: (pair[0].group, pair[0].topic, pair[0].handler or "", pair[0].partition))
