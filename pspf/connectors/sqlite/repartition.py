"""A topic's records copied into another number of partitions, in one transaction."""

import heapq
from collections.abc import Iterator, Sequence
from typing import Final

from pspf.connectors.sqlite.engine.base import Engine
from pspf.connectors.sqlite.entries import count_entries
from pspf.connectors.sqlite.seek import IsDead, delete_cursor, live_members
from pspf.connectors.sqlite.storage import Row, Storage
from pspf.connectors.sqlite.topics import (
    MAX_PARTITIONS,
    OFFSET_BITS,
    Partition,
    Topic,
    companions_of,
    delete_topic,
    find_topic,
    get_topic,
    ids_used_once,
    insert_topic,
)
from pspf.errors import ConfigurationError, Refused
from pspf.records import companion_source, partition_of

_CHUNK: Final = 1_000
_FIRST_CHUNK: Final = 8
_CHUNK_BYTES: Final = 1_000_000
"""About how many bytes of records one step reads for each partition; it holds them and their copies in memory."""


def plan_repartition(storage: Storage, topic: str, partitions: int, reset_state: bool, is_dead: IsDead) -> list[Topic]:
    """Return a topic and its companions. Errors: see `Operations.repartition`."""
    if not 1 <= partitions <= MAX_PARTITIONS:
        raise ConfigurationError(f"topic {topic!r}: {partitions} partitions; use 1 to {MAX_PARTITIONS}")
    if (source := companion_source(topic)) is not None and find_topic(storage, source) is not None:
        raise ConfigurationError(f"topic {topic!r} always has as many partitions as {source!r}: repartition that one")
    family = [get_topic(storage, topic), *companions_of(storage, topic)]
    for member in family:
        _refuse_busy(storage, member, reset_state, is_dead)
    return family


def repartition(storage: Storage, engine: Engine, family: Sequence[Topic], partitions: int) -> None:
    """Copy a topic and its companions, each at its turn."""
    with ids_used_once(storage):
        for member in family:
            if len(member.partitions) != partitions:
                _rebuild(storage, engine, member, partitions)


def _refuse_busy(storage: Storage, topic: Topic, reset_state: bool, is_dead: IsDead) -> None:
    sessions = live_members(storage, is_dead, topic_id=topic.topic_id)
    if sessions:
        raise Refused(f"topic {topic.topic!r} is in use by {', '.join(sessions[:3])}: stop its workers first")
    for group, handler, partition, is_behind, cursor_id in storage.rows(
        "SELECT c.group_name, c.handler, p.partition,"
        " EXISTS (SELECT 1 FROM records r WHERE r.place >= (p.partition_id << ?2) + max(c.position, p.first_offset)"
        "  AND r.place < (p.partition_id << ?2) + p.next_offset)"
        " OR EXISTS (SELECT 1 FROM retries r WHERE r.cursor_id = c.cursor_id)"
        " OR EXISTS (SELECT 1 FROM claims m WHERE m.cursor_id = c.cursor_id), c.cursor_id"
        " FROM cursors c JOIN partitions p USING (partition_id) WHERE p.topic_id = ?1"
        " ORDER BY c.group_name, c.handler, p.partition",
        (topic.topic_id, OFFSET_BITS),
    ):
        if is_behind:
            raise Refused(
                f"group {group!r} has not finished partition {partition} of {topic.topic!r}; records change places\n"
                "  let its workers finish (pspf worker --burst), or give the rest up (pspf groups seek --to end)"
            )
        values = count_entries(storage, cursor_id)
        if values and not reset_state:
            raise Refused(
                f"handler {handler!r} of group {group!r} remembers {values:,} values in partition {partition} of"
                f" {topic.topic!r}\n  add --reset-state to forget what handlers of this topic remember"
            )


def _rebuild(storage: Storage, engine: Engine, topic: Topic, partitions: int) -> None:
    """Replace a topic's partitions by new ones with the same records and groups."""
    row = storage.row("SELECT created_ms FROM topics WHERE topic_id = ?", (topic.topic_id,))
    assert row is not None
    # Ids go on behind the highest one, so that an id never comes to name another record.
    start = max(partition.next for partition in topic.partitions)
    groups = storage.rows(
        "SELECT c.group_name, c.handler, max(c.last_commit_ms) FROM cursors c JOIN partitions p USING (partition_id)"
        " WHERE p.topic_id = ? GROUP BY c.group_name, c.handler",
        (topic.topic_id,),
    )
    storage.run("UPDATE topics SET topic = topic || '~' WHERE topic_id = ?", (topic.topic_id,))
    fresh = insert_topic(storage, topic.topic, partitions, topic.retention_ms, row[0])
    storage.run(
        "UPDATE partitions SET first_offset = ?1, next_offset = ?1 WHERE topic_id = ?2", (start, fresh.topic_id)
    )
    moved = _copy(storage, topic, fresh, start)
    _copy_dedup(storage, topic, fresh, moved)
    for (cursor_id,) in storage.rows(
        "SELECT c.cursor_id FROM cursors c JOIN partitions p USING (partition_id) WHERE p.topic_id = ?",
        (topic.topic_id,),
    ):
        delete_cursor(storage, cursor_id)
    for group, handler, last_commit_ms in groups:
        storage.run(
            "INSERT INTO cursors (partition_id, group_name, handler, position, last_commit_ms)"
            " SELECT partition_id, ?, ?, next_offset, ? FROM partitions WHERE topic_id = ?",
            (group, handler, last_commit_ms, fresh.topic_id),
        )
    delete_topic(storage, topic)
    engine.grown.update(partition.partition_id for partition in (*topic.partitions, *fresh.partitions))


def _copy(storage: Storage, source: Topic, target: Topic, start: int) -> dict[tuple[int, int], tuple[int, int]]:
    """Copy all records in the order of their times, and of their partition; return the new places of de-dup ids."""
    has_ids = _partitions_with_ids(storage, source)
    moved: dict[tuple[int, int], tuple[int, int]] = {}
    count = len(target.partitions)
    ends = [start] * count
    sizes = [0] * count
    turn = 0
    rows: list[tuple[object, ...]] = []
    rows_bytes = 0
    merged = heapq.merge(*(_read(storage, partition) for partition in source.partitions), key=lambda row: row[0])
    for timestamp_ms, number, offset, key, value, headers in merged:
        chosen = turn % count if key is None else partition_of(key, count)
        turn += key is None
        place = target.partitions[chosen].partition_id << OFFSET_BITS | ends[chosen]
        rows.append((place, key, value, headers, timestamp_ms))
        if number in has_ids:
            moved[number, offset] = chosen, ends[chosen]
        ends[chosen] += 1
        sizes[chosen] += len(value)
        rows_bytes += len(value)
        if len(rows) == _CHUNK or rows_bytes >= _CHUNK_BYTES:
            storage.insert("records", 5, rows)
            rows.clear()
            rows_bytes = 0
    storage.insert("records", 5, rows)
    for partition, end, size_bytes in zip(target.partitions, ends, sizes, strict=True):
        storage.run(
            "UPDATE partitions SET next_offset = ?, records = ?, size_bytes = ? WHERE partition_id = ?",
            (end, end - start, size_bytes, partition.partition_id),
        )
    return moved


def _read(storage: Storage, partition: Partition) -> Iterator[Row]:
    """Yield a partition's records; times that go back are taken as the one before, so that order stays."""
    base = partition.partition_id << OFFSET_BITS
    at, latest_ms, most = base, 0, _FIRST_CHUNK
    while chunk := storage.rows(
        "SELECT place, key, value, headers, timestamp_ms FROM records WHERE place >= ? AND place < ?"
        " ORDER BY place LIMIT ?",
        (at, base + (1 << OFFSET_BITS), most),
    ):
        for place, key, value, headers, timestamp_ms in chunk:
            latest_ms = max(latest_ms, timestamp_ms)
            yield latest_ms, partition.partition, place - base, key, value, headers
        at = chunk[-1][0] + 1
        mean = sum(len(row[2]) for row in chunk) / len(chunk)
        most = max(1, min(_CHUNK, 4 * most, int(_CHUNK_BYTES / max(mean, 1))))


def _partitions_with_ids(storage: Storage, topic: Topic) -> set[int]:
    return {
        partition.partition
        for partition in topic.partitions
        if storage.row("SELECT 1 FROM dedup WHERE partition_id = ? LIMIT 1", (partition.partition_id,)) is not None
    }


def _copy_dedup(storage: Storage, source: Topic, target: Topic, moved: dict[tuple[int, int], tuple[int, int]]) -> None:
    """Let the new partitions know the ids of the window; one whose record was trimmed may come back in any."""
    ids: dict[int, dict[int, int]] = {partition.partition: {} for partition in target.partitions}
    for partition in source.partitions:
        for number, offset in storage.rows(
            "SELECT hash, offset FROM dedup WHERE partition_id = ?", (partition.partition_id,)
        ):
            place = moved.get((partition.partition, offset))
            if place is not None:
                ids[place[0]][number] = place[1]
            else:
                for known in ids.values():
                    known.setdefault(number, offset)
    span = storage.row(
        "SELECT min(first_ms), max(last_ms) FROM dedup_buckets WHERE partition_id IN"
        " (SELECT partition_id FROM partitions WHERE topic_id = ?)",
        (source.topic_id,),
    )
    for partition in target.partitions:
        known = ids[partition.partition]
        if known and span is not None and span[0] is not None:
            partition_id = partition.partition_id
            storage.run(
                "INSERT INTO dedup_buckets VALUES (?, 1, ?, 0, ?, ?)", (partition_id, len(known), span[0], span[1])
            )
            storage.insert("dedup", 4, [(partition_id, 1, number, known[number]) for number in sorted(known)])
