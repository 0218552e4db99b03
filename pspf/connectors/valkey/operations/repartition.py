"""Repartitioning: a topic's records are copied into another number of partitions, which then replace it at once.

A copy keeps its entry's milliseconds, so that times and retention stay, and gets a sequence number
that no entry of the topic ever had: the topic's generation above 40 bits.
"""

import heapq
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pspf.connectors.valkey.connection.scripts import Argument, load_script
from pspf.connectors.valkey.consume.cursor_keys import count_entries, read_all
from pspf.connectors.valkey.log.core import Core
from pspf.connectors.valkey.log.cursors import find_cursors
from pspf.connectors.valkey.log.fields import decode_entries, format_entry_id, parse_entry_id
from pspf.connectors.valkey.log.keys import TOPICS_KEY, CursorKeys, PartitionKeys
from pspf.connectors.valkey.log.topics import MAX_PARTITIONS, Topic, make_topic
from pspf.connectors.valkey.operations.deleting import read_family
from pspf.connectors.valkey.operations.inspect import list_cursors, read_topic
from pspf.connectors.valkey.operations.seeking import live_consumers
from pspf.errors import ConfigurationError, Refused
from pspf.records import companion_source, partition_of

_COPY: Final = load_script("copy_records")
_SWAP: Final = load_script("swap_partitions")
_PAGE: Final = 500
_GENERATION_BITS: Final = 40


async def repartition(core: Core, name: str, partitions: int, reset_state: bool, dry_run: bool) -> int:
    """Copy a topic and its companions; return how many records it has. See `Operations.repartition`."""
    if not 1 <= partitions <= MAX_PARTITIONS:
        raise ConfigurationError(f"topic {name!r}: {partitions} partitions; use 1 to {MAX_PARTITIONS}")
    source = companion_source(name)
    if source is not None and await core.topics.find(source) is not None:
        raise ConfigurationError(f"topic {name!r} always has as many partitions as {source!r}: repartition that one")
    family = await read_family(core, name)
    for topic in family:
        await _refuse_busy(core, topic, reset_state)
    records = (await read_topic(core, name))[0].records
    if not dry_run:
        for topic in family:
            if topic.count != partitions:
                await _Copy(core, topic, partitions).run()
    return records


async def _refuse_busy(core: Core, topic: Topic, reset_state: bool) -> None:
    cursors = await find_cursors(core, None, topic.name)
    consumers = await live_consumers(core, [keys for _, keys in cursors])
    if consumers:
        raise Refused(f"topic {topic.name!r} is in use by {', '.join(consumers[:3])}: stop its workers first")
    for info in await list_cursors(core, None, topic.name):
        if info.lag != 0:
            raise Refused(
                f"group {info.cursor.group!r} has not finished partition {info.cursor.partition} of {topic.name!r};"
                " records change places\n"
                "  let its workers finish (pspf worker --burst), or give the rest up (pspf groups seek --to end)"
            )
    for cursor, keys in cursors:
        if cursor.handler is not None and not reset_state:
            values = await count_entries(core.lane_for(keys.meta), keys)
            if values:
                raise Refused(
                    f"handler {cursor.handler!r} of group {cursor.group!r} remembers {values:,} values in partition"
                    f" {cursor.partition} of {topic.name!r}\n"
                    "  add --reset-state to forget what handlers of this topic remember"
                )


@dataclass(slots=True)
class _Target:
    """A new partition: its keys, the copy's place until the swap, and the last id that was copied."""

    keys: PartitionKeys
    copy: bytes
    ids: bytes
    high: int = -1
    used: int = 0
    pending: list[Argument] = field(default_factory=list)


class _Copy:
    """One topic on its way to another number of partitions."""

    def __init__(self, core: Core, topic: Topic, partitions: int) -> None:
        self._core = core
        self._topic = topic
        self._fresh = make_topic(topic.name, partitions, topic.retention_ms)
        self._targets = [_Target(keys, keys.key(b"copy"), keys.key(b"copy-ids")) for keys in self._fresh.partitions]
        self._turn = 0

    async def run(self) -> None:
        lane_for, first = self._core.lane_for, self._topic.partitions[0].meta
        await self._clear()
        found = await lane_for(first).call("HGET", first, "generation")
        generation = int(found or 0) + 1
        ends = [await self._read_end(keys) for keys in self._topic.partitions]
        moved = await self._copy(generation << _GENERATION_BITS)
        newest_ms = await self._copy_ids(moved)
        counts = await self._read_counts()
        if not await self._swap(generation, ends, newest_ms):
            await self._clear()
            raise Refused(
                f"topic {self._topic.name!r} is written to while it is copied: stop who emits, then try again"
            )
        # What was counted of the topic stays counted.
        meta = self._targets[0].keys.meta
        await lane_for(meta).call("HSET", meta, "lost", counts[0], "dropped", counts[1])
        self._core.topics.forget(self._topic.name)

    async def _read_counts(self) -> tuple[int, int]:
        core = self._core
        replies = await core.lanes.call_many(
            [("HMGET", keys.meta, "lost", "dropped") for keys in self._topic.partitions]
        )
        counts = [core.commands.check(reply, "HMGET") for reply in replies]
        return sum(int(count[0] or 0) for count in counts), sum(int(count[1] or 0) for count in counts)

    async def _clear(self) -> None:
        for target in self._targets:
            await self._core.lane_for(target.copy).call("UNLINK", target.copy, target.ids)

    async def _read_end(self, keys: PartitionKeys) -> tuple[bytes, bytes]:
        """Return the last id of a stream and how many entries it ever had."""
        lane = self._core.lane_for(keys.stream)
        if not await lane.call("EXISTS", keys.stream):
            return b"0-0", b"0"
        reply = await lane.call("XINFO", "STREAM", keys.stream)
        info = dict(zip(reply[::2], reply[1::2], strict=True))
        return info[b"last-generated-id"], b"%d" % info[b"entries-added"]

    # Records

    async def _copy(self, base: int) -> dict[tuple[int, bytes], tuple[int, bytes]]:
        """Copy all entries in the order of their times, and of their partition; return old places -> new places."""
        moved: dict[tuple[int, bytes], tuple[int, bytes]] = {}
        readers = [self._read(number) for number in range(self._topic.count)]
        heads: list[tuple[int, int, Any]] = []
        for number, reader in enumerate(readers):
            entry = await anext(reader, None)
            if entry is not None:
                heads.append((parse_entry_id(entry[0]), number, entry))
        heapq.heapify(heads)
        waiting = 0
        while heads:
            offset, number, entry = heads[0]
            place = self._place(offset, entry, base, number)
            moved[number, entry[0]] = place
            waiting += 1
            if waiting >= _PAGE:
                await self._flush()
                waiting = 0
            following = await anext(readers[number], None)
            if following is None:
                heapq.heappop(heads)
            else:
                heapq.heapreplace(heads, (parse_entry_id(following[0]), number, following))
        await self._flush()
        return moved

    async def _read(self, number: int) -> AsyncIterator[Any]:
        stream, start = self._topic.partitions[number].stream, b"-"
        while True:
            entries = await self._core.lane_for(stream).call("XRANGE", stream, start, "+", "COUNT", _PAGE)
            for entry in entries:
                yield entry
            if len(entries) < _PAGE:
                return
            start = b"(" + entries[-1][0]

    def _place(self, offset: int, entry: Any, base: int, number: int) -> tuple[int, bytes]:
        """Put an entry on its way to its new partition; return where it will be."""
        key = decode_entries(self._topic.name, number, [entry])[0].raw_key
        if key is None:
            chosen = self._turn % len(self._targets)
            self._turn += 1
        else:
            chosen = partition_of(key, len(self._targets))
        target = self._targets[chosen]
        high = offset >> 64
        target.used = target.used + 1 if high == target.high else 0
        target.high = high
        raw_id = format_entry_id(high << 64 | base + target.used)
        target.pending += [raw_id, len(entry[1]), *entry[1]]
        return chosen, raw_id

    async def _flush(self) -> None:
        for target in self._targets:
            if target.pending:
                pending, target.pending = target.pending, []
                await self._core.lane_for(target.copy).run(_COPY, [target.copy], pending)

    # Event ids

    async def _copy_ids(self, moved: dict[tuple[int, bytes], tuple[int, bytes]]) -> int | None:
        """Let the new partitions know the ids of the de-dup window; return the time of the newest one.

        One whose record was trimmed may come back in any of them.
        """
        newest_ms: int | None = None
        for number, keys in enumerate(self._topic.partitions):
            lane = self._core.lane_for(keys.meta)
            for place, bucket in enumerate(keys.dedup()):
                raw_ms = await lane.call("HGET", keys.meta, f"dedup_last:{place}")
                if raw_ms is None:
                    continue
                newest_ms = max(newest_ms or 0, int(raw_ms))
                cursor = b"0"
                while True:
                    cursor, flat = await lane.call("HSCAN", bucket, cursor, "COUNT", _PAGE)
                    await self._remember(moved, number, zip(flat[::2], flat[1::2], strict=True))
                    if cursor == b"0":
                        break
        return newest_ms

    async def _remember(self, moved: dict[tuple[int, bytes], tuple[int, bytes]], number: int, pairs: Any) -> None:
        fields: list[list[Argument]] = [[] for _ in self._targets]
        for event_id, raw_id in pairs:
            place = moved.get((number, raw_id))
            if place is not None:
                fields[place[0]] += [event_id, place[1]]
            else:
                for some in fields:
                    some += [event_id, raw_id]
        for target, some in zip(self._targets, fields, strict=True):
            if some:
                await self._core.lane_for(target.ids).call("HSET", target.ids, *some)

    # The swap

    async def _swap(self, generation: int, ends: Sequence[tuple[bytes, bytes]], newest_ms: int | None) -> bool:
        found = [keys for _, keys in await find_cursors(self._core, None, self._topic.name)]
        removed = await self._find_old_keys(found)
        names = list(dict.fromkeys((keys.group, keys.handler) for keys in found))
        keys = [TOPICS_KEY, *[old.stream for old in self._topic.partitions], *removed]
        for target in self._targets:
            cursors = [target.keys.cursor(group, handler) for group, handler in names]
            keys += [target.copy, target.ids, target.keys.stream, target.keys.meta, target.keys.dedup()[1]]
            keys += [target.keys.cursors, *[cursor.meta for cursor in cursors]]
        retention = "-" if self._topic.retention_ms is None else str(self._topic.retention_ms)
        arguments: list[Argument] = [
            self._topic.name,
            f"{self._fresh.count} {retention}",
            self._topic.count,
            len(removed),
            self._fresh.count,
            len(names),
            retention,
            generation,
            "" if newest_ms is None else newest_ms,
        ]
        for end in ends:
            arguments += end
        for group, handler in names:
            cursor = self._fresh.partitions[0].cursor(group, handler)
            arguments += [cursor.registry_field, cursor.group_name]
        return bool(await self._core.commands.run(_SWAP, keys, arguments))

    async def _find_old_keys(self, cursors: Sequence[CursorKeys]) -> list[bytes]:
        """Return the keys beside the old streams, those of their cursors and state included."""
        names: list[bytes] = []
        for keys in self._topic.partitions:
            sessions = await self._core.lane_for(keys.sessions).call("HKEYS", keys.sessions)
            names += [keys.meta, keys.cursors, keys.sessions, keys.floors, *keys.dedup()]
            names += [keys.live(session) for session in sessions]
        for cursor in cursors:
            _, remembered = await read_all(self._core.lane_for(cursor.meta), cursor)
            names += [cursor.meta, cursor.due, cursor.retry, cursor.key(b"suspects"), cursor.lent, cursor.spaces]
            names += remembered.names
        return names
