"""Deletion of topics by an administrator."""

from pspf.connectors.valkey.log.core import Core
from pspf.connectors.valkey.log.cursors import find_cursors
from pspf.connectors.valkey.log.keys import TOPICS_KEY, PartitionKeys
from pspf.connectors.valkey.log.topics import Topic
from pspf.connectors.valkey.operations.seeking import delete_cursor
from pspf.errors import Refused
from pspf.records import DEAD_LETTER_SUFFIX, LATE_SUFFIX, companion_source


async def read_family(core: Core, name: str) -> list[Topic]:
    """Return a topic and its companions.

    Raises:
        NotFound: There is no such topic.
    """
    family = [await core.topics.get(name)]
    if companion_source(name) is None:
        companions = [await core.topics.find(name + suffix) for suffix in (DEAD_LETTER_SUFFIX, LATE_SUFFIX)]
        family += [topic for topic in companions if topic is not None]
    return family


async def delete_topic(core: Core, name: str, force: bool, dry_run: bool) -> list[str]:
    """Remove a topic with its companions and the groups on them; return the names. See `Operations.delete_topic`."""
    family = await read_family(core, name)
    cursors = [found for topic in family for found in await find_cursors(core, None, topic.name)]
    if cursors and not force:
        groups = list(dict.fromkeys(f"{cursor.group} on {cursor.topic}" for cursor, _ in cursors))
        shown = ", ".join(groups[:5]) + (", ..." if len(groups) > 5 else "")
        raise Refused(
            f"topic {name!r} has groups: {shown}\n"
            "  delete them first (pspf groups delete), or add --force to delete all with the topic"
        )
    if not dry_run:
        for _, keys in cursors:
            await delete_cursor(core, keys)
        for topic in family:
            await core.commands.call("HDEL", TOPICS_KEY, topic.name)
            for partition in topic.partitions:
                await delete_partition(core, partition)
            core.topics.forget(topic.name)
    return [topic.name for topic in family]


async def delete_partition(core: Core, keys: PartitionKeys) -> None:
    """Remove a stream and what is kept beside it; its cursors are gone already. Another program's key stays."""
    lane = core.lane_for(keys.stream)
    kind = await lane.call("TYPE", keys.stream)
    sessions = await lane.call("HKEYS", keys.sessions)
    names = [
        *([keys.stream] if kind == b"stream" else []),
        keys.meta,
        keys.cursors,
        keys.sessions,
        keys.floors,
        *keys.dedup(),
    ]
    await lane.call("UNLINK", *names, *[keys.live(session) for session in sessions])
