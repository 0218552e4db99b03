"""Trimming by an administrator: up to an offset, and over unfinished records where that is asked for."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pspf.connectors.contract.operations import Loss, Trimmed
from pspf.connectors.sqlite.counters import LOST, add_to_counter
from pspf.connectors.sqlite.engine.base import Engine
from pspf.connectors.sqlite.pending import free_keys
from pspf.connectors.sqlite.replayed import FLOOR
from pspf.connectors.sqlite.retention import cut_records
from pspf.connectors.sqlite.storage import Storage
from pspf.connectors.sqlite.topics import OFFSET_BITS, Partition, get_partition
from pspf.records import Cursor

STEP: Final = 20_000
"""So many offsets are trimmed in one transaction, so that other writers have their turn."""


@dataclass(frozen=True, slots=True)
class _Reader:
    """A cursor of the partition; `floor` is the first offset that it is not done with."""

    cursor: Cursor
    cursor_id: int
    position: int
    floor: int


@dataclass(frozen=True, slots=True)
class Wish:
    """What a trim is to leave: records from `before` on, or the last `max_records`, or at most `max_bytes`."""

    before: int | None
    max_records: int | None
    max_bytes: int | None

    def find(self, storage: Storage, partition: Partition) -> int:
        """Return the first offset that stays."""
        if self.before is not None:
            return min(max(self.before, partition.first), partition.next)
        if self.max_records is not None:
            return _last_records(storage, partition, self.max_records)
        return _last_bytes(storage, partition, self.max_bytes or 0)


def plan_trim(storage: Storage, topic: str, number: int, wish: Wish, drop_unread: bool) -> Trimmed:
    """Return what a trim would do."""
    partition = get_partition(storage, topic, number)
    wanted = wish.find(storage, partition)
    readers = list(_readers(storage, topic, partition))
    held_by = [] if drop_unread else [reader for reader in readers if reader.floor < wanted]
    after = max(partition.first, min([wanted, *[reader.floor for reader in held_by]]))
    records, size_bytes = _measure(storage, partition.partition_id, partition.first, after)
    losses = [Loss(r.cursor, _lost(storage, partition, r, after)) for r in readers] if drop_unread else []
    return Trimmed(
        number,
        partition.first,
        after,
        wanted,
        records,
        size_bytes,
        [reader.cursor for reader in held_by],
        [loss for loss in losses if loss.records],
    )


def trim_step(storage: Storage, engine: Engine, topic: str, number: int, end: int, drop_unread: bool) -> Trimmed:
    """Trim up to `end`, a bounded step, and move cursors that are before it."""
    partition = get_partition(storage, topic, number)
    step = Wish(min(end, partition.first + STEP), None, None)
    trimmed = plan_trim(storage, topic, number, step, drop_unread)
    if trimmed.after == partition.first:
        return trimmed
    if drop_unread:
        for reader in _readers(storage, topic, partition):
            if reader.floor < trimmed.after:
                _move(storage, engine, reader, partition.first, trimmed.after)
        if lost := sum(loss.records for loss in trimmed.lost):
            add_to_counter(storage, LOST, lost)
        engine.grown.add(partition.partition_id)
    cut_records(storage, partition.partition_id, partition.first, trimmed.after)
    return trimmed


def _readers(storage: Storage, topic: str, partition: Partition) -> Iterator[_Reader]:
    for group, handler, cursor_id, position, floor in storage.rows(
        f"SELECT c.group_name, c.handler, c.cursor_id, c.position, {FLOOR}"  # noqa: S608 (a text of ours)
        " FROM cursors c JOIN partitions p USING (partition_id) WHERE c.partition_id = ?"
        " ORDER BY c.group_name, c.handler",
        (partition.partition_id,),
    ):
        yield _Reader(Cursor(topic, group, handler or None, partition.partition), cursor_id, position, floor)


def _lost(storage: Storage, partition: Partition, reader: _Reader, after: int) -> int:
    """Return how many records before `after` the cursor has not finished."""
    unread, _ = _measure(storage, partition.partition_id, max(reader.position, partition.first), after)
    row = storage.row(
        "SELECT (SELECT coalesce(sum(min(last, ?2 - 1) - max(first, ?3) + 1), 0) FROM claims"
        "  WHERE cursor_id = ?1 AND first < ?2 AND last >= ?3)"
        " + (SELECT count(*) FROM retries r WHERE r.cursor_id = ?1 AND r.offset >= ?3 AND r.offset < ?2 AND NOT EXISTS"
        " (SELECT 1 FROM claims m WHERE m.cursor_id = ?1 AND r.offset BETWEEN m.first AND m.last))",
        (reader.cursor_id, after, partition.first),
    )
    assert row is not None
    return unread + int(row[0])


def _move(storage: Storage, engine: Engine, reader: _Reader, first: int, after: int) -> None:
    """Finish what a cursor has not of the records from `first` up to `after`; replayed ones are before and stay."""
    cursor_id = reader.cursor_id
    where = (cursor_id, first, after)
    storage.run("DELETE FROM retries WHERE cursor_id = ? AND offset >= ? AND offset < ?", where)
    storage.run(
        "INSERT INTO claims SELECT cursor_id, ?3, last, claim, session, claimed_ms, is_suspect, is_started, crashes"
        " FROM claims WHERE cursor_id = ?1 AND first < ?2 AND last >= ?3",
        where,
    )
    storage.run("UPDATE claims SET last = ?2 - 1 WHERE cursor_id = ?1 AND first < ?2 AND last >= ?2", where[:2])
    storage.run("DELETE FROM claims WHERE cursor_id = ? AND first >= ? AND last < ?", where)
    storage.run("UPDATE claims SET first = ?3 WHERE cursor_id = ?1 AND first >= ?2 AND first < ?3", where)
    if reader.cursor.handler is not None:
        free_keys(storage, cursor_id, engine.clock.now_ms())
    storage.run(
        "UPDATE cursors SET position = max(position, ?), sequence = sequence + 1 WHERE cursor_id = ?",
        (after, cursor_id),
    )


def _last_records(storage: Storage, partition: Partition, count: int) -> int:
    if count >= partition.records:
        return partition.first
    if count == 0 or partition.records == partition.next - partition.first:
        return partition.next - count
    base = partition.partition_id << OFFSET_BITS
    row = storage.row(
        "SELECT place & 1099511627775 FROM records WHERE place >= ? AND place < ? ORDER BY place DESC LIMIT 1 OFFSET ?",
        (base | partition.first, base | partition.next, count - 1),
    )
    return partition.first if row is None else int(row[0])


def _last_bytes(storage: Storage, partition: Partition, max_bytes: int) -> int:
    if partition.size_bytes <= max_bytes:
        return partition.first
    base = partition.partition_id << OFFSET_BITS
    kept = partition.next
    left = max_bytes
    for offset, size_bytes in storage.connection.execute(
        "SELECT place & 1099511627775, length(value) FROM records WHERE place >= ? AND place < ? ORDER BY place DESC",
        (base | partition.first, base | partition.next),
    ):
        left -= size_bytes
        if left < 0:
            break
        kept = offset
    return kept


def _measure(storage: Storage, partition_id: int, first: int, end: int) -> tuple[int, int]:
    if first >= end:
        return 0, 0
    base = partition_id << OFFSET_BITS
    row = storage.row(
        "SELECT count(*), coalesce(sum(length(value)), 0) FROM records WHERE place >= ? AND place < ?",
        (base | first, base | end),
    )
    assert row is not None
    return row[0], row[1]
