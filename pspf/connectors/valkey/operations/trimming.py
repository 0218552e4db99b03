"""Trimming by an administrator: up to an id, and over unfinished records where that is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from pspf.connectors.contract.operations import Loss, Trimmed
from pspf.connectors.valkey.connection.scripts import Argument, load_script
from pspf.connectors.valkey.consume.waiting import count_waiting_before, find_first_waiting
from pspf.connectors.valkey.log.core import Core
from pspf.connectors.valkey.log.fields import decode_entries, format_entry_id, parse_entry_id
from pspf.connectors.valkey.log.keys import CursorKeys, PartitionKeys
from pspf.connectors.valkey.log.retention import parse_cursor
from pspf.connectors.valkey.operations.inspect import read_topic
from pspf.records import Cursor

_PLAN: Final = load_script("trim_plan", "standing")
_TRIM: Final = load_script("trim_to", "standing")
_COUNT: Final = load_script("count")
_PAGE: Final = 1_000


@dataclass(frozen=True, slots=True)
class Wish:
    """What a trim is to leave: records from `before` on, or the last `max_records`, or at most `max_bytes`."""

    before: int | None
    max_records: int | None
    max_bytes: int | None


async def plan_trim(core: Core, topic: str, number: int, wish: Wish, drop_unread: bool) -> Trimmed:
    """Return what a trim would do."""
    keys = (await core.topics.get(topic)).partition(number)
    _, bounds = await read_topic(core, topic)
    first, end = bounds[number].first, bounds[number].next
    wanted = await _find(core, topic, keys, wish, first, end, bounds[number].records)
    _, cursors = await _read_cursors(core, keys)
    arguments: list[Argument] = []
    script_keys = [keys.stream]
    for cursor in cursors:
        arguments += [cursor.group_name, "1" if cursor.handler is None else ""]
        script_keys += [cursor.meta, cursor.due]
    stands: list[tuple[CursorKeys, int, int]] = []
    for cursor, stand in zip(cursors, await core.lane_for(keys.stream).run(_PLAN, script_keys, arguments), strict=True):
        if stand:
            floor, position = map(parse_entry_id, stand)
            waiting = await find_first_waiting(core.lane_for(cursor.meta), cursor)
            stands.append((cursor, floor if waiting is None else min(floor, waiting), position))
    held_by = [] if drop_unread else [stand for stand in stands if stand[1] < wanted]
    after = max(first, min([wanted, *[stand[1] for stand in held_by]]))
    losses: list[Loss] = []
    if drop_unread:
        for cursor, _, position in stands:
            delivered = await _count_delivered(core, cursor, wanted)
            unread = await _count(core, keys, max(position, first), after)
            if unread + delivered:
                losses.append(Loss(_name(cursor, topic, number), unread + delivered))
    records = await _count(core, keys, first, after)
    names = [_name(stand[0], topic, number) for stand in held_by]
    return Trimmed(number, first, after, wanted, records, None, names, losses)


async def execute_trim(core: Core, topic: str, planned: Trimmed, drop_unread: bool) -> Trimmed:
    """Trim as planned, in bounded steps; return what went."""
    keys = (await core.topics.get(topic)).partition(planned.partition)
    records, after = 0, planned.before
    lost: dict[CursorKeys, int] = {}
    while after < planned.after:
        version, cursors = await _read_cursors(core, keys)
        arguments: list[Argument] = [core.now(), format_entry_id(planned.after), "1" if drop_unread else "", version]
        script_keys = [keys.stream, keys.meta, keys.cursors]
        for cursor in cursors:
            arguments += [cursor.group_name, "1" if cursor.handler is None else ""]
            script_keys += [cursor.meta, cursor.due, cursor.retry, cursor.key(b"suspects")]
        reply = await core.lane_for(keys.stream).run(_TRIM, script_keys, arguments)
        if not reply:
            continue  # a group came or went meanwhile
        trimmed, first, losses = reply
        if not trimmed:
            break
        records += trimmed
        after = parse_entry_id(first)
        for cursor, count in zip(cursors, losses, strict=True):
            lost[cursor] = lost.get(cursor, 0) + count
    return replace(
        planned,
        after=max(after, planned.after) if records == planned.records else after,
        records=records,
        lost=[Loss(_name(cursor, topic, planned.partition), count) for cursor, count in lost.items() if count],
    )


async def _count_delivered(core: Core, cursor: CursorKeys, end: int) -> int:
    """Return how many records before `end` were delivered to a cursor and are not done."""
    lane = core.lane_for(cursor.meta)
    count = await count_waiting_before(lane, cursor, end)
    start, last = b"-", b"(" + format_entry_id(end)
    while cursor.handler is None:
        rows = await lane.call("XPENDING", cursor.partition.stream, cursor.group, start, last, _PAGE)
        count += len(rows)
        if len(rows) < _PAGE:
            break
        start = b"(" + rows[-1][0]
    return count


def _name(keys: CursorKeys, topic: str, number: int) -> Cursor:
    return Cursor(topic, keys.group, keys.handler, number)


async def _read_cursors(core: Core, keys: PartitionKeys) -> tuple[bytes, Sequence[CursorKeys]]:
    """Return the version of a partition's cursors, and them, by group and handler."""
    lane = core.lane_for(keys.meta)
    version, fields = await lane.call_many([("HGET", keys.meta, "cursors"), ("HKEYS", keys.cursors)])
    lane.check(version, "HGET")
    return version or b"0", [parse_cursor(keys, field) for field in sorted(lane.check(fields, "HKEYS"))]


async def _find(core: Core, topic: str, keys: PartitionKeys, wish: Wish, first: int, end: int, records: int) -> int:
    """Return the first offset that stays."""
    if wish.before is not None:
        return min(max(wish.before, first), end)
    if wish.max_records is not None:
        return await _find_last(core, keys, wish.max_records, first, end, records)
    kept, left = end, wish.max_bytes or 0
    start = b"+"
    while True:
        entries = await core.lane_for(keys.stream).call("XREVRANGE", keys.stream, start, "-", "COUNT", _PAGE)
        for record in decode_entries(topic, 0, entries):
            left -= len(record.value)
            if left < 0:
                return kept
            kept = record.offset
        if len(entries) < _PAGE:
            return first
        start = b"(" + entries[-1][0]


async def _find_last(core: Core, keys: PartitionKeys, count: int, first: int, end: int, records: int) -> int:
    """Return the offset of the last record but `count` - 1, from the nearer side."""
    if count >= records:
        return first
    if count == 0:
        return end
    is_near_end = count <= records // 2
    left = count if is_near_end else records - count + 1
    command, start, stop = ("XREVRANGE", b"+", b"-") if is_near_end else ("XRANGE", b"-", b"+")
    while True:
        entries = await core.lane_for(keys.stream).call(command, keys.stream, start, stop, "COUNT", min(left, _PAGE))
        left -= len(entries)
        if left <= 0 or not entries:
            return parse_entry_id(entries[-1][0]) if entries else first
        start = b"(" + entries[-1][0]


async def _count(core: Core, keys: PartitionKeys, start: int, end: int) -> int:
    """Return how many records there are from `start` up to, not including, `end`."""
    return 0 if start >= end else await _count_from(core, keys, start) - await _count_from(core, keys, end)


async def _count_from(core: Core, keys: PartitionKeys, start: int) -> int:
    count, at = 0, format_entry_id(start)
    while at:
        step, at = await core.lane_for(keys.stream).run(_COUNT, (keys.stream,), (at,))
        count += int(step)
    return count
