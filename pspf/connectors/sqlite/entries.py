"""The windows of ordered cursors: functions of one transaction.

Their states are rows, and on top of them a log of what the last commits did (entry_log.py). Who reads takes an
`Overlay` of the log; `load` gives it.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from pspf.connectors.contract.values import CursorWindows
from pspf.connectors.sqlite.entry_log import Overlay, Pool, decode, encode
from pspf.connectors.sqlite.storage import Storage
from pspf.records import Cursor, WindowChanges, WindowPlace

_READ_PLACES: Final = 400


def load(storage: Storage, cursor_id: int, pool: Pool | None = None) -> Overlay:
    """Return what the log of a cursor says, among others of the same worker."""
    overlay = Overlay(pool)
    for (changes,) in storage.rows("SELECT changes FROM window_log WHERE cursor_id = ? ORDER BY number", (cursor_id,)):
        overlay.add(*decode(changes), len(changes))
    return overlay


def write_windows(storage: Storage, cursor_id: int, overlay: Overlay, changes: WindowChanges) -> int | None:
    """Write what a batch did to a cursor's windows, late records aside.

    Return its size in the log, None where the log was written as rows instead; `overlay` is as it was before,
    for the transaction may fail.
    """
    storage.run(
        "INSERT OR REPLACE INTO operators (cursor_id, watermark_ms, progress) VALUES (?, ?, ?)",
        (cursor_id, changes.watermark_ms, changes.progress),
    )
    if not changes.dropped and not changes.states:
        return 0
    encoded = encode(changes.dropped, changes.states)
    if overlay.has_room(len(encoded), sum(map(len, changes.states.values()))):
        storage.run("INSERT INTO window_log (cursor_id, changes) VALUES (?, ?)", (cursor_id, encoded))
        return len(encoded)
    last = Overlay()
    last.add(changes.dropped, changes.states, 0)
    for each in (overlay, last):
        _write_rows(storage, cursor_id, each)
    storage.run("DELETE FROM window_log WHERE cursor_id = ?", (cursor_id,))
    return None


def _write_rows(storage: Storage, cursor_id: int, overlay: Overlay) -> None:
    for slot in sorted(overlay.dropped):
        storage.run("DELETE FROM windows WHERE cursor_id = ? AND slot = ?", (cursor_id, slot))
    storage.insert("windows", 4, overlay.rows(cursor_id), verb="INSERT OR REPLACE")
    gone = overlay.gone(cursor_id)
    if gone:
        storage.connection.executemany("DELETE FROM windows WHERE cursor_id = ? AND slot = ? AND key = ?", gone)


def read_progress(storage: Storage, cursor_id: int) -> bytes | None:
    """Return what the operator of a cursor remembers, None before its first commit."""
    row = storage.row("SELECT progress FROM operators WHERE cursor_id = ?", (cursor_id,))
    return None if row is None else row[0]


def read_slots(storage: Storage, cursor_id: int, overlay: Overlay) -> list[int]:
    """Return the slots of a cursor that have a state, in order; each is a step or two, whatever it holds."""
    rows = storage.rows(
        "WITH RECURSIVE slots (slot) AS (SELECT min(slot) FROM windows WHERE cursor_id = ?1 UNION ALL"
        " SELECT (SELECT min(w.slot) FROM windows w WHERE w.cursor_id = ?1 AND w.slot > slots.slot) FROM slots"
        " WHERE slots.slot IS NOT NULL) SELECT slot FROM slots WHERE slot IS NOT NULL",
        (cursor_id,),
    )
    stored = {slot for (slot,) in rows} - overlay.dropped
    return sorted(
        slot
        for slot in stored | overlay.slots.keys()
        if slot not in overlay.slots or scan_windows(storage, cursor_id, overlay, slot, None, 1)
    )


def read_windows(
    storage: Storage, cursor_id: int, overlay: Overlay, places: Sequence[WindowPlace]
) -> Mapping[WindowPlace, bytes]:
    """Return the states at places; what is not there is missing."""
    found: dict[WindowPlace, bytes] = {}
    left: list[WindowPlace] = []
    for place in places:
        slot, key = place
        keys = overlay.slots.get(slot)
        if keys is not None and key in keys:
            state = keys[key]
            if state is not None:
                found[place] = state
        elif slot not in overlay.dropped:
            left.append(place)
    for begin in range(0, len(left), _READ_PLACES):
        some = sorted(left[begin : begin + _READ_PLACES])
        rows = storage.rows(
            f"WITH wanted (slot, key) AS (VALUES {','.join(['(?,?)'] * len(some))})"  # noqa: S608 (marks alone)
            " SELECT w.slot, w.key, w.state FROM wanted CROSS JOIN windows w"
            " ON w.cursor_id = ? AND w.slot = wanted.slot AND w.key = wanted.key",
            (*(value for place in some for value in place), cursor_id),
        )
        found.update({(slot, key): state for slot, key, state in rows})
    return found


def scan_windows(
    storage: Storage, cursor_id: int, overlay: Overlay, slot: int, after: bytes | None, max_entries: int
) -> list[tuple[bytes, bytes]]:
    """Return the first (key, state) of a slot behind a key, in the order of keys; fewer only where it ends."""
    changed = overlay.slots.get(slot, {})
    found: list[tuple[bytes, bytes]] = []
    while True:
        rows = [] if slot in overlay.dropped else _scan_rows(storage, cursor_id, slot, after, max_entries)
        is_last = len(rows) < max_entries
        page: dict[bytes, bytes | None] = dict(rows)
        last = None if is_last else rows[-1][0]
        page.update((key, changed[key]) for key in overlay.keys_between(slot, after, last))
        found += [(key, state) for key, state in sorted(page.items()) if state is not None]
        if is_last or len(found) >= max_entries:
            return found[:max_entries]
        after = last


def _scan_rows(
    storage: Storage, cursor_id: int, slot: int, after: bytes | None, max_entries: int
) -> list[tuple[bytes, bytes]]:
    return [
        (key, state)
        for key, state in storage.rows(
            "SELECT key, state FROM windows WHERE cursor_id = ? AND slot = ? AND key >= ? ORDER BY key LIMIT ?",
            # The least key that is greater than `after`; the empty one is the least of all.
            (cursor_id, slot, b"" if after is None else after + b"\0", max_entries),
        )
    ]


def count_windows(storage: Storage, cursor_id: int) -> int:
    """Return how many states a cursor has."""
    overlay = load(storage, cursor_id)
    row = storage.row("SELECT count(*) FROM windows WHERE cursor_id = ?", (cursor_id,))
    assert row is not None
    if overlay.is_empty:
        return int(row[0])
    count = 0
    for slot in read_slots(storage, cursor_id, overlay):
        after: bytes | None = None
        while page := scan_windows(storage, cursor_id, overlay, slot, after, 10_000):
            count += len(page)
            after = page[-1][0]
    return count


def forget_windows(storage: Storage, cursor_id: int) -> None:
    """Remove all windows of a cursor, and what its operator remembers."""
    for table in ("windows", "window_log", "operators"):
        storage.run(f"DELETE FROM {table} WHERE cursor_id = ?", (cursor_id,))  # noqa: S608 (one of these)


# From outside


class Logs:
    """The log of the cursor that was looked at last: who reads a window by pages does not read the log each time."""

    def __init__(self) -> None:
        self._version: tuple[int, int, bytes | None] | None = None
        self._overlay = Overlay()

    def overlay(self, storage: Storage, cursor_id: int) -> Overlay:
        """Return what the log of a cursor says now."""
        # With the commit's id, for the number of a cursor that was deleted may come to be another's.
        row = storage.row("SELECT sequence, commit_id FROM cursors WHERE cursor_id = ?", (cursor_id,))
        version = None if row is None else (cursor_id, *row)
        if version is None or version != self._version:
            self._overlay, self._version = load(storage, cursor_id), version
        return self._overlay


def list_windows(
    storage: Storage, logs: Logs, handler: str | None, group: str | None, topic: str | None
) -> list[CursorWindows]:
    """Return what cursors keep of windows, by group, topic, handler and partition."""
    return [
        CursorWindows(
            Cursor(*place), watermark_ms, progress, read_slots(storage, cursor_id, logs.overlay(storage, cursor_id))
        )
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
