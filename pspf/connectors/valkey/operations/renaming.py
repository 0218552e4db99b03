"""Renaming of an ordered handler's cursors."""

from typing import Final

from pspf.connectors.contract.operations import describe_missing, describe_taken
from pspf.connectors.valkey.connection.scripts import load_script
from pspf.connectors.valkey.consume.cursor_keys import StoredKeys, count_namespaces, read_all
from pspf.connectors.valkey.log.core import Core
from pspf.connectors.valkey.log.cursors import find_cursors
from pspf.connectors.valkey.log.keys import CursorKeys
from pspf.connectors.valkey.operations.seeking import delete_cursor, live_consumers, refuse_in_use
from pspf.errors import BackendUnavailable, NotFound, Refused

_RENAME: Final = load_script("rename_cursor")
_MOST_KEPT: Final = 50_000
"""Namespaces that one script renames, as all others wait meanwhile. State is one, and so is each window or slice."""
_TRIES: Final = 10


async def rename_handler(core: Core, group: str, old: str, new: str, topic: str | None, dry_run: bool) -> int:
    """Rename the cursors of a handler, partition by partition. See `Operations.rename_handler`."""
    found = await find_cursors(core, group, topic)
    mine = [(cursor, keys) for cursor, keys in found if cursor.handler == old]
    if not mine:
        raise NotFound(describe_missing(group, topic, old))
    places = {(cursor.topic, cursor.partition) for cursor, _ in mine}
    taken = [keys for cursor, keys in found if cursor.handler == new and (cursor.topic, cursor.partition) in places]
    for keys in taken:
        if await core.lane_for(keys.meta).call("HGET", keys.meta, "seq") != b"0":
            raise Refused(describe_taken(group, new))
    renamed = [keys.partition.cursor(group, new) for _, keys in mine]
    refuse_in_use(group, await live_consumers(core, [*(keys for _, keys in mine), *renamed]), force=None)
    for cursor, keys in mine:
        kept = await count_namespaces(core.lane_for(keys.meta), keys)
        if kept > _MOST_KEPT:
            raise Refused(
                f"{cursor} has {kept:,} windows; at most {_MOST_KEPT:,} are renamed, as the"
                f" server answers nobody meanwhile\n  keep its name in the code instead: name={old!r}"
            )
    if not dry_run:
        for keys in taken:
            await delete_cursor(core, keys)
        for (_, keys), target in zip(mine, renamed, strict=True):
            await _rename(core, keys, target)
    return len(mine)


async def _rename(core: Core, keys: CursorKeys, target: CursorKeys) -> None:
    partition, lane = keys.partition, core.lane_for(keys.meta)
    arguments = [keys.registry_field, target.registry_field, keys.group_name, target.group_name]
    for _ in range(_TRIES):
        sequence, remembered = await read_all(lane, keys)
        theirs = StoredKeys(target, remembered.namespaces)
        script_keys = [partition.stream, partition.meta, partition.cursors, *_all(keys), *remembered.names]
        reply = await lane.run(_RENAME, [*script_keys, *_all(target), *theirs.names], [*arguments, sequence])
        if reply == b"GONE":
            raise NotFound(f"handler {keys.handler!r} of group {keys.group!r}: its cursor or its stream is gone")
        if reply == b"TAKEN":
            raise Refused(describe_taken(keys.group, target.handler or ""))
        if reply != b"MOVED":
            return
    raise BackendUnavailable(f"{lane.name}: handler {keys.handler!r} is at work while it is renamed")


def _all(keys: CursorKeys) -> list[bytes]:
    return [keys.meta, keys.due, keys.retry, keys.spaces, keys.bell]
