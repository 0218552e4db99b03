"""The windows of ordered cursors: what is kept of them, and how a commit changes it.

A slot is two keys: a hash of states by grouping key, and a sorted set of these keys, which gives them in
order. A slot goes as a whole, whatever it holds, by removing both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pspf.connectors.contract.values import CursorWindows
from pspf.connectors.valkey.connection.scripts import Argument, Command, load_script
from pspf.connectors.valkey.connection.wire import Lane
from pspf.connectors.valkey.log.cursors import find_cursors
from pspf.connectors.valkey.log.keys import CursorKeys
from pspf.records import Cursor, WindowChanges, WindowPlace

if TYPE_CHECKING:
    from pspf.connectors.valkey.log.core import Core

_SCAN: Final = load_script("scan_entries")
_FIELDS_AT_ONCE: Final = 1_000


@dataclass(frozen=True, slots=True)
class PackedWindows:
    """What a commit does to windows, as entries.lua takes it: two keys a slot, and what stands in ARGV."""

    keys: Sequence[bytes]
    head: Sequence[Argument]
    arguments: Sequence[Argument]


_NO_WINDOWS: Final = PackedWindows((), ("", 0, "", ""), ())


def pack_windows(changes: WindowChanges | None, keys: CursorKeys) -> PackedWindows:
    """Return the windows of an ordered commit, slot by slot."""
    if changes is None:
        return _NO_WINDOWS
    states, dropped = changes.states, changes.dropped
    arguments: list[Argument] = [*dropped]
    for slot, keys_of_slot in states.items():
        gone = [key for key, state in keys_of_slot.items() if state is None]
        pairs = [part for key, state in keys_of_slot.items() if state is not None for part in (key, state)]
        arguments += (slot, len(pairs) // 2, len(gone), *pairs, *gone)
    watermark_ms = "" if changes.watermark_ms is None else changes.watermark_ms
    return PackedWindows(
        [keys_of(slot) for slots in (states, dropped) for keys_of in (keys.window, keys.window_keys) for slot in slots],
        (len(states), len(dropped), watermark_ms, changes.progress),
        arguments,
    )


async def read_progress(lane: Lane, keys: CursorKeys) -> bytes | None:
    """Return what the operator of a cursor remembers, None before its first commit."""
    found: bytes | None = await lane.call("HGET", keys.meta, "progress")
    return found


async def read_slots(lane: Lane, keys: CursorKeys) -> list[int]:
    """Return the slots of a cursor, in order."""
    return sorted(map(int, await lane.call("SMEMBERS", keys.slots)))


async def read_windows(lane: Lane, keys: CursorKeys, places: Sequence[WindowPlace]) -> Mapping[WindowPlace, bytes]:
    """Return the states at places; what is not there is missing. One round trip."""
    by_slot: dict[int, list[bytes]] = {}
    for slot, key in places:
        by_slot.setdefault(slot, []).append(key)
    wanted = [
        (slot, some[begin : begin + _FIELDS_AT_ONCE])
        for slot, some in by_slot.items()
        for begin in range(0, len(some), _FIELDS_AT_ONCE)
    ]
    commands: list[Command] = [("HMGET", keys.window(slot), *some) for slot, some in wanted]
    found: dict[WindowPlace, bytes] = {}
    for (slot, some), reply in zip(wanted, await lane.call_many(commands), strict=True):
        for key, state in zip(some, lane.check(reply, "HMGET"), strict=True):
            if state is not None:
                found[slot, key] = state
    return found


async def scan_windows(
    lane: Lane, keys: CursorKeys, slot: int, after: bytes | None, max_entries: int
) -> list[tuple[bytes, bytes]]:
    """Return the first (key, state) of a slot behind a key, in the order of keys."""
    begin = b"-" if after is None else b"(" + after
    flat = await lane.run(_SCAN, [keys.window_keys(slot), keys.window(slot)], [begin, max_entries])
    return list(zip(flat[::2], flat[1::2], strict=True))


# From outside


async def list_windows(core: "Core", handler: str | None, group: str | None, topic: str | None) -> list[CursorWindows]:
    """Return what cursors keep of windows, by group, topic, handler and partition."""
    chosen = [
        (cursor, keys)
        for cursor, keys in await find_cursors(core, group, topic)
        if cursor.handler is not None and handler in (None, cursor.handler)
    ]
    replies = await core.lanes.call_many(
        [
            command
            for _, keys in chosen
            for command in (("HMGET", keys.meta, "watermark_ms", "progress"), ("SMEMBERS", keys.slots))
        ]
    )
    found = []
    for (cursor, _), meta, slots in zip(chosen, replies[::2], replies[1::2], strict=True):
        watermark_ms, progress = core.commands.check(meta, "HMGET")
        if progress is not None:
            known = sorted(map(int, core.commands.check(slots, "SMEMBERS")))
            found.append(CursorWindows(cursor, int(watermark_ms) if watermark_ms else None, progress, known))
    return found


async def find_keys(core: "Core", cursor: Cursor) -> CursorKeys | None:
    """Return the keys of a cursor, None where its partition is gone."""
    topic = await core.topics.find(cursor.topic)
    if topic is None or not 0 <= cursor.partition < topic.count:
        return None
    return topic.partition(cursor.partition).cursor(cursor.group, cursor.handler)
