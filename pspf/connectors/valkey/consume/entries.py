"""The entries of ordered cursors: what is kept of them, and how a commit changes it.

A namespace is two keys: a hash of values by key, and a sorted set of these keys, which gives them in order. It goes
as a whole, whatever it holds, by removing both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pspf.connectors.contract.values import StoredOperator
from pspf.connectors.valkey.connection.scripts import Argument, Command, load_script
from pspf.connectors.valkey.connection.wire import Lane
from pspf.connectors.valkey.log.cursors import find_cursors
from pspf.connectors.valkey.log.keys import CursorKeys
from pspf.records import Commit, Cursor, EntryPlace

if TYPE_CHECKING:
    from pspf.connectors.valkey.log.core import Core

_SCAN: Final = load_script("scan_entries")
_FIELDS_AT_ONCE: Final = 1_000


@dataclass(frozen=True, slots=True)
class PackedEntries:
    """What a commit does to entries, as entries.lua takes it: two keys a namespace, and what stands in ARGV."""

    keys: Sequence[bytes]
    head: Sequence[Argument]
    arguments: Sequence[Argument]


_NOTHING: Final = PackedEntries((), (0, 0, "", "", ""), ())


def pack_entries(commit: Commit, keys: CursorKeys) -> PackedEntries:
    """Return the entries of an ordered commit, namespace by namespace, and its operator's progress."""
    progress = commit.progress
    entries, dropped = commit.changes.entries, commit.changes.dropped
    if progress is None and not entries and not dropped:
        return _NOTHING
    arguments: list[Argument] = [*dropped]
    for namespace, changed in entries.items():
        gone = [key for key, value in changed.items() if value is None]
        pairs = [part for key, value in changed.items() if value is not None for part in (key, value)]
        arguments += (namespace, len(pairs) // 2, len(gone), *pairs, *gone)
    head: list[Argument] = [len(entries), len(dropped)]
    if progress is None:
        head += ("", "", "")
    else:
        head += ("1", "" if progress.watermark_ms is None else progress.watermark_ms, progress.stored)
    return PackedEntries(
        [name_of(each) for spaces in (entries, dropped) for name_of in (keys.entries, keys.order) for each in spaces],
        head,
        arguments,
    )


async def read_progress(lane: Lane, keys: CursorKeys) -> bytes | None:
    """Return what the operator of a cursor remembers, None before its first commit."""
    found: bytes | None = await lane.call("HGET", keys.meta, "progress")
    return found


async def list_namespaces(lane: Lane, keys: CursorKeys) -> list[int]:
    """Return the namespaces that have entries, in order."""
    return sorted(map(int, await lane.call("SMEMBERS", keys.spaces)))


async def read_entries(lane: Lane, keys: CursorKeys, places: Sequence[EntryPlace]) -> Mapping[EntryPlace, bytes]:
    """Return the entries at places; what is not there is missing. One round trip."""
    by_namespace: dict[int, list[bytes]] = {}
    for namespace, key in places:
        by_namespace.setdefault(namespace, []).append(key)
    wanted = [
        (namespace, some[begin : begin + _FIELDS_AT_ONCE])
        for namespace, some in by_namespace.items()
        for begin in range(0, len(some), _FIELDS_AT_ONCE)
    ]
    commands: list[Command] = [("HMGET", keys.entries(namespace), *some) for namespace, some in wanted]
    found: dict[EntryPlace, bytes] = {}
    for (namespace, some), reply in zip(wanted, await lane.call_many(commands), strict=True):
        for key, value in zip(some, lane.check(reply, "HMGET"), strict=True):
            if value is not None:
                found[namespace, key] = value
    return found


async def scan_entries(
    lane: Lane, keys: CursorKeys, namespace: int, after: bytes | None, max_entries: int
) -> list[tuple[bytes, bytes]]:
    """Return the first (key, value) of a namespace behind a key, in order of key."""
    begin = b"-" if after is None else b"(" + after
    flat = await lane.run(_SCAN, [keys.order(namespace), keys.entries(namespace)], [begin, max_entries])
    return list(zip(flat[::2], flat[1::2], strict=True))


# From outside


async def list_operators(
    core: "Core", handler: str | None, group: str | None, topic: str | None
) -> list[StoredOperator]:
    """Return what cursors remember of operators, by group, topic, handler and partition."""
    chosen = [
        (cursor, keys)
        for cursor, keys in await find_cursors(core, group, topic)
        if cursor.handler is not None and handler in (None, cursor.handler)
    ]
    replies = await core.lanes.call_many(
        [
            command
            for _, keys in chosen
            for command in (("HMGET", keys.meta, "watermark_ms", "progress"), ("SMEMBERS", keys.spaces))
        ]
    )
    found = []
    for (cursor, _), meta, namespaces in zip(chosen, replies[::2], replies[1::2], strict=True):
        watermark_ms, progress = core.commands.check(meta, "HMGET")
        if progress is not None:
            known = sorted(map(int, core.commands.check(namespaces, "SMEMBERS")))
            found.append(StoredOperator(cursor, int(watermark_ms) if watermark_ms else None, progress, known))
    return found


async def find_keys(core: "Core", cursor: Cursor) -> CursorKeys | None:
    """Return the keys of a cursor, None where its partition is gone."""
    topic = await core.topics.find(cursor.topic)
    if topic is None or not 0 <= cursor.partition < topic.count:
        return None
    return topic.partition(cursor.partition).cursor(cursor.group, cursor.handler)
