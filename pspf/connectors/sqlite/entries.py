"""The entries of ordered cursors: functions of one transaction.

They are rows, and on top of them a log of what the last commits did (entry_log.py), which becomes rows in slices
(row_writing.py). Who reads takes an `Overlay` of the log; `load` gives it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import apsw

from pspf.connectors.contract.values import StoredOperator
from pspf.connectors.sqlite.entry_log import Overlay, Pool, decode, encode
from pspf.connectors.sqlite.row_writing import OwnLog
from pspf.connectors.sqlite.storage import Storage
from pspf.records import Cursor, EntryChanges, EntryPlace, OperatorProgress

_READ_PLACES: Final = 400
_MANY: Final = 16
"""So many keys of one namespace have a statement of their own."""


def load(storage: Storage, cursor_id: int, pool: Pool | None = None) -> Overlay:
    """Return what the log of a cursor says, among others of the same worker."""
    overlay = Overlay(pool)
    _read_on(storage, cursor_id, overlay, 0)
    return overlay


def _read_on(storage: Storage, cursor_id: int, overlay: Overlay, last: int) -> int:
    """Put what the log says behind the number `last` on an overlay; return the last number."""
    for number, changes in storage.rows(
        "SELECT number, changes FROM entry_log WHERE cursor_id = ? AND number > ? ORDER BY number", (cursor_id, last)
    ):
        overlay.add(decode(changes), len(changes))
        last = number
    return last


def write_progress(storage: Storage, cursor_id: int, progress: OperatorProgress) -> None:
    """Write what the operator of a cursor remembers beside its entries."""
    storage.run(
        "INSERT OR REPLACE INTO operators (cursor_id, watermark_ms, progress) VALUES (?, ?, ?)",
        (cursor_id, progress.watermark_ms, progress.stored),
    )


def write_entries(storage: Storage, cursor_id: int, number: int, log: OwnLog, changes: EntryChanges) -> int:
    """Write what a batch did to a cursor's entries; `number` is greater than that of any earlier commit.

    Return its size in the log. `log` is noted of it once it is known to have taken effect; where it is not, `log` is
    of no use any more.
    """
    encoded = encode(changes)
    storage.run("INSERT INTO entry_log (cursor_id, number, changes) VALUES (?, ?, ?)", (cursor_id, number, encoded))
    log.write_rows(storage, cursor_id, number, changes, len(encoded))
    return len(encoded)


def read_progress(storage: Storage, cursor_id: int) -> bytes | None:
    """Return what the operator of a cursor remembers, None before its first commit."""
    row = storage.row("SELECT progress FROM operators WHERE cursor_id = ?", (cursor_id,))
    return None if row is None else row[0]


def list_namespaces(storage: Storage, cursor_id: int, overlay: Overlay) -> list[int]:
    """Return the namespaces of a cursor that have an entry, in order; each is a step or two, whatever it holds."""
    rows = storage.rows(
        "WITH RECURSIVE known (namespace) AS (SELECT min(namespace) FROM entries WHERE cursor_id = ?1 UNION ALL"
        " SELECT (SELECT min(e.namespace) FROM entries e WHERE e.cursor_id = ?1 AND e.namespace > known.namespace)"
        " FROM known WHERE known.namespace IS NOT NULL) SELECT namespace FROM known WHERE namespace IS NOT NULL",
        (cursor_id,),
    )
    stored = {namespace for (namespace,) in rows} - overlay.dropped
    return sorted(
        namespace
        for namespace in stored | overlay.namespaces.keys()
        if namespace not in overlay.namespaces or scan_entries(storage, cursor_id, overlay, namespace, None, 1)
    )


def read_entries(
    storage: Storage, cursor_id: int, overlay: Overlay, places: Sequence[EntryPlace]
) -> Mapping[EntryPlace, bytes]:
    """Return the entries at places; what is not there is missing."""
    found: dict[EntryPlace, bytes] = {}
    left: dict[int, list[bytes]] = {}
    for place in places:
        namespace, key = place
        keys = overlay.namespaces.get(namespace)
        if keys is not None and key in keys:
            value = keys[key]
            if value is not None:
                found[place] = value
        elif namespace not in overlay.dropped:
            left.setdefault(namespace, []).append(key)
    few: list[EntryPlace] = []
    for namespace, wanted in left.items():
        if len(wanted) < _MANY:
            few += [(namespace, key) for key in wanted]
        else:
            found.update(_read_many(storage, cursor_id, namespace, wanted))
    few.sort()
    for begin in range(0, len(few), _READ_PLACES):
        found.update(_read_few(storage, cursor_id, few[begin : begin + _READ_PLACES]))
    return found


def _read_many(
    storage: Storage, cursor_id: int, namespace: int, keys: Iterable[bytes]
) -> Iterable[tuple[EntryPlace, bytes]]:
    """Return the entries at keys of one namespace, by one statement, however many they are."""
    rows = storage.rows(
        "SELECT e.key, e.value FROM carray(?) c CROSS JOIN entries e"
        " ON e.cursor_id = ? AND e.namespace = ? AND e.key = c.value",
        (apsw.carray(tuple(sorted(keys))), cursor_id, namespace),
    )
    return [((namespace, key), value) for key, value in rows]


def _read_few(storage: Storage, cursor_id: int, places: Sequence[EntryPlace]) -> Iterable[tuple[EntryPlace, bytes]]:
    """Return the entries at places of many namespaces."""
    rows = storage.rows(
        f"WITH wanted (namespace, key) AS (VALUES {','.join(['(?,?)'] * len(places))})"  # noqa: S608 (marks alone)
        " SELECT e.namespace, e.key, e.value FROM wanted CROSS JOIN entries e"
        " ON e.cursor_id = ? AND e.namespace = wanted.namespace AND e.key = wanted.key",
        (*(part for place in places for part in place), cursor_id),
    )
    return [((namespace, key), value) for namespace, key, value in rows]


def scan_entries(
    storage: Storage, cursor_id: int, overlay: Overlay, namespace: int, after: bytes | None, max_entries: int
) -> list[tuple[bytes, bytes]]:
    """Return the first (key, value) of a namespace behind a key, in order of key; fewer only where it ends."""
    changed = overlay.namespaces.get(namespace, {})
    found: list[tuple[bytes, bytes]] = []
    while True:
        rows = [] if namespace in overlay.dropped else _scan_rows(storage, cursor_id, namespace, after, max_entries)
        is_last = len(rows) < max_entries
        page: dict[bytes, bytes | None] = dict(rows)
        last = None if is_last else rows[-1][0]
        page.update((key, changed[key]) for key in overlay.keys_between(namespace, after, last))
        found += [(key, value) for key, value in sorted(page.items()) if value is not None]
        if is_last or len(found) >= max_entries:
            return found[:max_entries]
        after = last


def _scan_rows(
    storage: Storage, cursor_id: int, namespace: int, after: bytes | None, max_entries: int
) -> list[tuple[bytes, bytes]]:
    return [
        (key, value)
        for key, value in storage.rows(
            "SELECT key, value FROM entries WHERE cursor_id = ? AND namespace = ? AND key >= ? ORDER BY key LIMIT ?",
            # The least key that is greater than `after`; the empty one is the least of all.
            (cursor_id, namespace, b"" if after is None else after + b"\0", max_entries),
        )
    ]


def count_entries(storage: Storage, cursor_id: int) -> int:
    """Return how many entries a cursor has."""
    overlay = load(storage, cursor_id)
    row = storage.row("SELECT count(*) FROM entries WHERE cursor_id = ?", (cursor_id,))
    assert row is not None
    if overlay.is_empty:
        return int(row[0])
    count = 0
    for namespace in list_namespaces(storage, cursor_id, overlay):
        after: bytes | None = None
        while page := scan_entries(storage, cursor_id, overlay, namespace, after, 10_000):
            count += len(page)
            after = page[-1][0]
    return count


def forget_entries(storage: Storage, cursor_id: int) -> None:
    """Remove all entries of a cursor, and what its operator remembers."""
    for table in ("entries", "entry_log", "operators"):
        storage.run(f"DELETE FROM {table} WHERE cursor_id = ?", (cursor_id,))  # noqa: S608 (one of these)


# From outside


class Logs:
    """The log of the cursor that was looked at last, kept so that each look reads only what came since."""

    def __init__(self) -> None:
        self._cursor_id = 0
        self._overlay = Overlay()
        self._last = 0

    def overlay(self, storage: Storage, cursor_id: int) -> Overlay:
        """Return what the log of a cursor says now."""
        if cursor_id != self._cursor_id or not self._is_continued(storage):
            self._cursor_id, self._overlay, self._last = cursor_id, Overlay(), 0
        self._last = _read_on(storage, cursor_id, self._overlay, self._last)
        return self._overlay

    def _is_continued(self, storage: Storage) -> bool:
        """Return whether the log still has what was read last, and most of what was read before."""
        has_last, commits = storage.rows(
            "SELECT coalesce(sum(number = ?2), 0), count(*) FROM entry_log WHERE cursor_id = ?1",
            (self._cursor_id, self._last),
        )[0]
        return bool(has_last) and self._overlay.commits <= 2 * int(commits)


def list_operators(
    storage: Storage, logs: Logs, handler: str | None, group: str | None, topic: str | None
) -> list[StoredOperator]:
    """Return what cursors remember of operators, by group, topic, handler and partition."""
    return [
        StoredOperator(
            Cursor(*place),
            watermark_ms,
            progress,
            list_namespaces(storage, cursor_id, logs.overlay(storage, cursor_id)),
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
    """Return the number of a cursor; 0, which has no entries, where it is gone."""
    row = storage.row(
        "SELECT c.cursor_id FROM cursors c JOIN partitions p USING (partition_id) JOIN topics t USING (topic_id)"
        " WHERE t.topic = ? AND p.partition = ? AND c.group_name = ? AND c.handler = ?",
        (cursor.topic, cursor.partition, cursor.group, cursor.handler or ""),
    )
    return 0 if row is None else int(row[0])
