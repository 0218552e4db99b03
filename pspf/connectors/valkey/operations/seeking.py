"""Seeking and deleting cursors by an administrator, and the live workers that this concerns."""

from collections.abc import Sequence
from typing import Final

from pspf.connectors.contract.operations import Seek, describe_missing
from pspf.connectors.valkey.connection.scripts import Argument, load_script
from pspf.connectors.valkey.connection.wire import Lane
from pspf.connectors.valkey.consume.cursor_keys import count_entries
from pspf.connectors.valkey.consume.forgetting import finish_forgetting, forget_state
from pspf.connectors.valkey.consume.members import Roll
from pspf.connectors.valkey.consume.waiting import find_first_waiting
from pspf.connectors.valkey.log.core import Core
from pspf.connectors.valkey.log.cursors import find_cursors
from pspf.connectors.valkey.log.fields import format_entry_id, parse_entry_id
from pspf.connectors.valkey.log.keys import CursorKeys
from pspf.errors import BackendUnavailable, NotFound, Refused
from pspf.records import Cursor

_SEEK: Final = load_script("seek", "standing")
_GIVE_BACK: Final = load_script("give_back")
_DELETE: Final = load_script("delete_cursor")
_GIVEN_AT_ONCE: Final = 1_000
_TRIES: Final = 10


async def seek(core: Core, cursor: Cursor, offset: int, keep_state: bool | None, force: bool, dry_run: bool) -> Seek:
    """Move a cursor. See `Operations.seek`."""
    topic = await core.topics.find(cursor.topic)
    if topic is None or not 0 <= cursor.partition < topic.count:
        raise NotFound(f"no cursor {cursor}")
    keys = topic.partition(cursor.partition).cursor(cursor.group, cursor.handler)
    if not await core.lane_for(keys.partition.cursors).call("HEXISTS", keys.partition.cursors, keys.registry_field):
        raise NotFound(f"no cursor {cursor}")
    roll = Roll(core, keys.partition)
    await roll.refresh(core.lanes)
    consumers = roll.members(cursor.group, cursor.handler)
    values = 0 if cursor.handler is None else await _count_values(core.lane_for(keys.meta), keys)
    if values and keep_state is None:
        raise Refused(
            f"{cursor} remembers {values:,} values, which fit the records it has handled;\n"
            "  add --reset-state to forget them, or --keep-state to keep them and handle records again on top"
        )
    refuse_in_use(cursor.group, consumers, force)
    before, after, unfinished = await _run_seek(core, cursor, keys, offset, keep_state is False, dry_run)
    return Seek(cursor, before, after, unfinished, values, consumers)


async def _run_seek(
    core: Core, cursor: Cursor, keys: CursorKeys, offset: int, is_reset: bool, dry_run: bool
) -> tuple[int, int, int]:
    lane = core.lane_for(keys.meta)
    suspects = keys.key(b"suspects")
    script_keys = [keys.partition.stream, keys.meta, keys.due, keys.retry, suspects, keys.partition.floors, keys.lent]
    arguments: list[Argument] = [
        keys.group_name,
        "1" if cursor.handler is None else "",
        format_entry_id(max(0, offset)),
        format_entry_id(max(0, offset - 1)),
        "1" if dry_run else "",
        "1" if is_reset else "",
    ]
    waiting = await find_first_waiting(lane, keys)
    for _ in range(_TRIES):
        reply = await lane.run(_SEEK, script_keys, arguments)
        if reply[0] == b"GONE":
            raise NotFound(f"no cursor {cursor}: its stream is gone")
        if reply[0] == b"MANY":
            where = [keys.partition.stream, keys.meta, keys.due, suspects]
            while await lane.run(_GIVE_BACK, where, [keys.group_name]) == _GIVEN_AT_ONCE:
                pass  # where this is interrupted, they are taken again
            continue
        if is_reset and not dry_run:
            await finish_forgetting(lane, keys)
        before, after, unfinished, first = reply
        floor = parse_entry_id(before) if waiting is None else min(waiting, parse_entry_id(before))
        return max(floor, parse_entry_id(first)), parse_entry_id(after), unfinished
    raise BackendUnavailable(f"{lane.name}: the workers of {cursor} take what is given back; stop them first")


async def _count_values(lane: Lane, keys: CursorKeys) -> int:
    """Return how much a cursor remembers; how far its windows are is one more."""
    return await count_entries(lane, keys) + int(await lane.call("HEXISTS", keys.meta, "progress"))


async def delete_group(
    core: Core, group: str, topic: str | None, handler: str | None, force: bool, dry_run: bool
) -> int:
    """Forget a group on one topic or all; return how many cursors it had. See `Operations.delete_group`."""
    found = await find_cursors(core, group, topic)
    if handler is not None:
        found = [(cursor, keys) for cursor, keys in found if (cursor.handler or "") == handler]
    if not found:
        raise NotFound(describe_missing(group, topic, handler))
    consumers = await live_consumers(core, [keys for _, keys in found])
    refuse_in_use(group, consumers, force)
    if not dry_run:
        for _, keys in found:
            await delete_cursor(core, keys)
    return len(found)


async def live_consumers(core: Core, cursors: Sequence[CursorKeys]) -> list[str]:
    """Return the live sessions that consume one of the cursors."""
    rolls: dict[bytes, Roll] = {}
    found: set[str] = set()
    for keys in cursors:
        roll = rolls.get(keys.partition.stream)
        if roll is None:
            roll = rolls[keys.partition.stream] = Roll(core, keys.partition)
            await roll.refresh(core.lanes)
        found.update(roll.members(keys.group, keys.handler))
    return sorted(found)


async def delete_cursor(core: Core, keys: CursorKeys) -> None:
    """Remove a cursor and all that is its own."""
    partition = keys.partition
    fixed = [partition.stream, partition.meta, partition.cursors, keys.meta, keys.due, keys.retry]
    lane, reply = core.lane_for(keys.meta), -1
    while reply < 0:
        await forget_state(lane, keys)
        script_keys = [*fixed, keys.key(b"suspects"), keys.lent, keys.spaces]
        reply = await lane.run(_DELETE, script_keys, [keys.registry_field, keys.group_name])


def refuse_in_use(group: str, consumers: Sequence[str], force: bool | None) -> None:
    """Raise Refused where live workers consume a group, and it was not said to mean it; None: nobody can."""
    if consumers and not force:
        shown = ", ".join(consumers[:3]) + (f" and {len(consumers) - 3} more" if len(consumers) > 3 else "")
        raise Refused(
            f"group {group!r} is in use by {shown}\n  stop them first{'' if force is None else ', or add --force'}"
        )
