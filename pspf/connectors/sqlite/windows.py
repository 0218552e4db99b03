"""The windows of ordered cursors: functions of one transaction."""

from collections.abc import Mapping, Sequence
from typing import Final

from pspf.connectors.base import CursorWindows
from pspf.connectors.sqlite.storage import Storage
from pspf.records import Cursor, WindowChanges, WindowPlace

_READ_PLACES: Final = 400


def write_windows(storage: Storage, cursor_id: int, changes: WindowChanges) -> None:
    """Write what a batch did to a cursor's windows, late records aside."""
    storage.run(
        "INSERT OR REPLACE INTO operators (cursor_id, watermark_ms, progress) VALUES (?, ?, ?)",
        (cursor_id, changes.watermark_ms, changes.progress),
    )
    for slot in changes.dropped:
        storage.run("DELETE FROM windows WHERE cursor_id = ? AND slot = ?", (cursor_id, slot))
    kept = [(cursor_id, slot, key, state) for (slot, key), state in changes.states.items() if state is not None]
    if kept:
        kept.sort(key=_place_of)  # neighbours share a page
        storage.insert("windows", 4, kept, verb="INSERT OR REPLACE")
    if len(kept) < len(changes.states):
        gone = [(cursor_id, slot, key) for (slot, key), state in changes.states.items() if state is None]
        storage.connection.executemany("DELETE FROM windows WHERE cursor_id = ? AND slot = ? AND key = ?", gone)


def _place_of(row: tuple[int, int, bytes, bytes]) -> tuple[int, bytes]:
    return row[1], row[2]


def read_progress(storage: Storage, cursor_id: int) -> bytes | None:
    """Return what the operator of a cursor remembers, None before its first commit."""
    row = storage.row("SELECT progress FROM operators WHERE cursor_id = ?", (cursor_id,))
    return None if row is None else row[0]


def read_slots(storage: Storage, cursor_id: int) -> list[int]:
    """Return the slots of a cursor, in order; each is one step down the tree, whatever it holds."""
    return [
        row[0]
        for row in storage.rows(
            "WITH RECURSIVE slots (slot) AS (SELECT min(slot) FROM windows WHERE cursor_id = ?1 UNION ALL"
            " SELECT (SELECT min(w.slot) FROM windows w WHERE w.cursor_id = ?1 AND w.slot > slots.slot) FROM slots"
            " WHERE slots.slot IS NOT NULL) SELECT slot FROM slots WHERE slot IS NOT NULL",
            (cursor_id,),
        )
    ]


def read_windows(storage: Storage, cursor_id: int, places: Sequence[WindowPlace]) -> Mapping[WindowPlace, bytes]:
    """Return the states at places; what is not there is missing."""
    found: dict[WindowPlace, bytes] = {}
    for begin in range(0, len(places), _READ_PLACES):
        some = sorted(places[begin : begin + _READ_PLACES])
        rows = storage.rows(
            f"WITH wanted (slot, key) AS (VALUES {','.join(['(?,?)'] * len(some))})"  # noqa: S608 (marks alone)
            " SELECT w.slot, w.key, w.state FROM wanted CROSS JOIN windows w"
            " ON w.cursor_id = ? AND w.slot = wanted.slot AND w.key = wanted.key",
            (*(value for place in some for value in place), cursor_id),
        )
        found.update({(slot, key): state for slot, key, state in rows})
    return found


def scan_windows(
    storage: Storage, cursor_id: int, slot: int, after: bytes | None, max_entries: int
) -> list[tuple[bytes, bytes]]:
    """Return the first (key, state) of a slot behind a key, in the order of keys."""
    return [
        (key, state)
        for key, state in storage.rows(
            "SELECT key, state FROM windows WHERE cursor_id = ? AND slot = ? AND key >= ? ORDER BY key LIMIT ?",
            # The least key that is greater than `after`; the empty one is the least of all.
            (cursor_id, slot, b"" if after is None else after + b"\0", max_entries),
        )
    ]


def forget_windows(storage: Storage, cursor_id: int) -> None:
    """Remove all windows of a cursor, and what its operator remembers."""
    storage.run("DELETE FROM windows WHERE cursor_id = ?", (cursor_id,))
    storage.run("DELETE FROM operators WHERE cursor_id = ?", (cursor_id,))


# From outside


def list_windows(storage: Storage, handler: str | None, group: str | None, topic: str | None) -> list[CursorWindows]:
    """Return what cursors keep of windows, by group, topic, handler and partition."""
    return [
        CursorWindows(Cursor(*place), watermark_ms, progress, read_slots(storage, cursor_id))
        for *place, cursor_id, watermark_ms, progress in storage.rows(
            "SELECT t.topic, c.group_name, c.handler, p.partition, c.cursor_id, o.watermark_ms, o.progress"
            " FROM operators o JOIN cursors c USING (cursor_id) JOIN partitions p USING (partition_id)"
            " JOIN topics t USING (topic_id) WHERE (?1 IS NULL OR c.handler = ?1)"
            " AND (?2 IS NULL OR c.group_name = ?2) AND (?3 IS NULL OR t.topic = ?3)"
            " ORDER BY c.group_name, t.topic, c.handler, p.partition",
            (handler, group, topic),
        )
    ]


def find_cursor(storage: Storage, cursor: Cursor) -> int:
    """Return the number of a cursor; 0, which has no windows, where it is gone."""
    row = storage.row(
        "SELECT c.cursor_id FROM cursors c JOIN partitions p USING (partition_id) JOIN topics t USING (topic_id)"
        " WHERE t.topic = ? AND p.partition = ? AND c.group_name = ? AND c.handler = ?",
        (cursor.topic, cursor.partition, cursor.group, cursor.handler or ""),
    )
    return 0 if row is None else int(row[0])
