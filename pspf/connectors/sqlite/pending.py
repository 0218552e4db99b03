"""Pending records: listed, retried now, or dropped by an administrator."""

from array import array
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from typing import Final

import apsw

from pspf.connectors.contract.operations import PendingRecord, Waiting
from pspf.connectors.sqlite.counters import DROPPED, add_to_counter
from pspf.connectors.sqlite.engine.base import Engine
from pspf.connectors.sqlite.replayed import read_replayed
from pspf.connectors.sqlite.storage import Row, Storage
from pspf.connectors.sqlite.topics import OFFSET_BITS
from pspf.errors import NotFound
from pspf.records import Cursor

_CURSORS: Final = (
    "SELECT t.topic, c.handler, p.partition, c.cursor_id, c.partition_id, c.session FROM cursors c"
    " JOIN partitions p USING (partition_id) JOIN topics t USING (topic_id)"
    " WHERE c.group_name = ?1 AND (?2 IS NULL OR t.topic = ?2) ORDER BY t.topic, c.handler, p.partition"
)


def list_pending(storage: Storage, group: str, topic: str | None, max_records: int, now_ms: int) -> list[PendingRecord]:
    """Return what a group has not done of what was delivered, by topic, handler, partition and offset."""
    found: list[PendingRecord] = []
    for name, handler, partition, cursor_id, partition_id, owner in storage.rows(_CURSORS, (group, topic)):
        cursor = Cursor(name, group, handler or None, partition)
        found += _pending_of(storage, cursor, cursor_id, partition_id, owner, max_records, now_ms)
    return found


def _pending_of(
    storage: Storage,
    cursor: Cursor,
    cursor_id: int,
    partition_id: int,
    owner: str | None,
    max_records: int,
    now_ms: int,
) -> Iterator[PendingRecord]:
    claims: dict[int, tuple[str | None, int]] = dict(islice(_claimed(storage, cursor_id), max_records))
    retries: dict[int, Row] = {
        row[0]: row
        for row in storage.rows(
            "SELECT offset, key, attempts, due_ms, error FROM retries WHERE cursor_id = ? ORDER BY offset LIMIT ?",
            (cursor_id, max_records),
        )
    }
    offsets = sorted({*claims, *retries})[:max_records]
    if not offsets:
        return
    base = partition_id << OFFSET_BITS
    records: dict[int, tuple[bytes | None, int]] = {
        row[0]: (row[1], row[2])
        for row in storage.rows(
            "SELECT r.place & 1099511627775, r.key, r.timestamp_ms FROM carray(?) c"
            " CROSS JOIN records r ON r.place = c.value",
            (apsw.carray(array("q", [base | offset for offset in offsets])),),
        )
    }
    if len(records) < len(offsets):
        attempts_of = {offset: row[2] for offset, row in retries.items() if offset not in records}
        for record in read_replayed(storage, cursor, cursor_id, attempts_of):
            records[record.offset] = (record.raw_key, record.timestamp_ms)
    for offset in offsets:
        _, retry_key, attempts, due_ms, error = retries.get(offset, (offset, None, 0, None, ""))
        key, stored_ms = records.get(offset, (retry_key, None))
        session, since_ms = claims.get(offset, (None, stored_ms))
        if offset in claims:
            waiting = Waiting.GIVEN_BACK if session is None else Waiting.IN_HAND
        else:
            waiting = Waiting.HELD_BACK if due_ms is None else Waiting.RETRY
        age_ms = None if since_ms is None else max(0, now_ms - since_ms)
        consumer = session if cursor.handler is None else owner
        yield PendingRecord(cursor, offset, key, waiting, attempts, error, due_ms, age_ms, consumer)


def _claimed(storage: Storage, cursor_id: int) -> Iterator[tuple[int, tuple[str | None, int]]]:
    for first, last, session, claimed_ms in storage.rows(
        "SELECT first, last, session, claimed_ms FROM claims WHERE cursor_id = ? ORDER BY first", (cursor_id,)
    ):
        for offset in range(first, last + 1):
            yield offset, (session, claimed_ms)


def retry_pending(storage: Storage, engine: Engine, records: Sequence[PendingRecord]) -> int:
    """Make what waits for a retry due now; return how many did."""
    retried = 0
    now_ms = engine.clock.now_ms()
    for cursor_id, partition_id, _, offsets in _by_cursor(storage, records):
        changed = storage.run(
            "UPDATE retries SET due_ms = ?1 WHERE cursor_id = ?2 AND due_ms > ?1"
            " AND offset IN (SELECT value FROM carray(?3))",
            (now_ms, cursor_id, apsw.carray(array("q", offsets))),
        )
        if changed:
            _tell(storage, engine, cursor_id, partition_id)
        retried += changed
    return retried


def drop_pending(storage: Storage, engine: Engine, records: Sequence[PendingRecord]) -> int:
    """Finish records without handling them; return how many were there."""
    dropped = 0
    for cursor_id, partition_id, is_ordered, offsets in _by_cursor(storage, records):
        gone = [offset for offset in offsets if _drop(storage, cursor_id, offset)]
        if gone:
            if is_ordered:
                free_keys(storage, cursor_id, engine.clock.now_ms())
            _tell(storage, engine, cursor_id, partition_id)
        dropped += len(gone)
    if dropped:
        add_to_counter(storage, DROPPED, dropped)
    return dropped


def _by_cursor(storage: Storage, records: Sequence[PendingRecord]) -> Iterator[tuple[int, int, bool, list[int]]]:
    """Yield (cursor id, partition id, whether it is ordered, offsets) of the cursors that are still there."""
    ordered = sorted(records, key=lambda record: (str(record.cursor), record.offset))
    for cursor, of_cursor in groupby(ordered, key=lambda record: record.cursor):
        row = storage.row(
            "SELECT c.cursor_id, c.partition_id FROM cursors c JOIN partitions p USING (partition_id)"
            " JOIN topics t USING (topic_id)"
            " WHERE t.topic = ? AND p.partition = ? AND c.group_name = ? AND c.handler = ?",
            (cursor.topic, cursor.partition, cursor.group, cursor.handler or ""),
        )
        if row is None:
            raise NotFound(f"no cursor {cursor} any more")
        yield row[0], row[1], cursor.handler is not None, [record.offset for record in of_cursor]


def _drop(storage: Storage, cursor_id: int, offset: int) -> bool:
    was_waiting = storage.run("DELETE FROM retries WHERE cursor_id = ? AND offset = ?", (cursor_id, offset)) > 0
    row = storage.row(
        "SELECT first, last FROM claims WHERE cursor_id = ? AND first <= ? AND last >= ?", (cursor_id, offset, offset)
    )
    if row is None:
        return was_waiting
    first, last = row
    if offset < last:
        storage.run(
            "INSERT INTO claims SELECT cursor_id, ?, last, claim, session, claimed_ms, is_suspect, is_started, crashes"
            " FROM claims WHERE cursor_id = ? AND first = ?",
            (offset + 1, cursor_id, first),
        )
    if first < offset:
        storage.run("UPDATE claims SET last = ? WHERE cursor_id = ? AND first = ?", (offset - 1, cursor_id, first))
    else:
        storage.run("DELETE FROM claims WHERE cursor_id = ? AND first = ?", (cursor_id, first))
    return True


def free_keys(storage: Storage, cursor_id: int, now_ms: int) -> None:
    """Make records due that are no longer held back by an earlier one of their key."""
    storage.run(
        "UPDATE retries SET due_ms = ?1 WHERE cursor_id = ?2 AND due_ms IS NULL AND NOT EXISTS"
        " (SELECT 1 FROM retries e WHERE e.cursor_id = ?2 AND e.key = retries.key AND e.offset < retries.offset)",
        (now_ms, cursor_id),
    )


def forget_removed(storage: Storage, engine: Engine, partition_id: int, offsets: Sequence[int]) -> None:
    """Let the cursors that wait for records go on without them: they have been taken out of the log.

    A shared consumer settles the records that it is handling by itself.
    """
    for cursor_id, handler in storage.rows(
        "SELECT cursor_id, handler FROM cursors WHERE partition_id = ?", (partition_id,)
    ):
        forgotten = storage.run(
            "DELETE FROM retries WHERE cursor_id = ? AND (due_ms IS NOT NULL OR ?)"
            " AND offset IN (SELECT value FROM carray(?))",
            (cursor_id, handler != "", apsw.carray(array("q", offsets))),
        )
        if forgotten:
            if handler:
                free_keys(storage, cursor_id, engine.clock.now_ms())
            _tell(storage, engine, cursor_id, partition_id)


def _tell(storage: Storage, engine: Engine, cursor_id: int, partition_id: int) -> None:
    """Let the cursor's owner find out: its next commit is stale, its read looks again."""
    storage.run("UPDATE cursors SET sequence = sequence + 1 WHERE cursor_id = ?", (cursor_id,))
    engine.grown.add(partition_id)
