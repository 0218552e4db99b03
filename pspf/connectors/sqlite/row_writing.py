"""Rows of an entry log that is full, written in slices by the commits that follow.

    no room ──> namespaces that were dropped lose their rows
            ──> the entries become rows, in the order of their pages
            ──> what the log has up to there is deleted, its oldest commits first
            ──> done: the log has what came since

A reader is right at any point: what the log says goes before the rows, and the rest of a log that is read on top of
all its rows gives the same again. So progress is not stored: a new owner starts over.
"""

from collections.abc import Iterator, Mapping
from heapq import merge
from itertools import islice
from typing import Final

from pspf.connectors.sqlite.entry_log import Overlay
from pspf.connectors.sqlite.storage import Storage
from pspf.records import EntryChanges

_LEAST_ROWS: Final = 2_000
"""About how many rows a commit writes beside its own entries; more where these are many, so that it comes to an end."""
_ROWS: Final = 500
_SORTED_AT_ONCE: Final = 5_000
_DELETED_BYTES: Final = 1 << 20


class RowWriting:
    """What an overlay has of a log, up to the commit of number `last`, on its way to rows."""

    def __init__(self, overlay: Overlay, last: int) -> None:
        self.since = Overlay()
        """What the commits behind it did."""
        self.is_done = False
        self._overlay = overlay
        self._last = last
        self._dropped = sorted(overlay.dropped)
        self._steps: Iterator[int] | None = None

    def advance(self, storage: Storage, cursor_id: int, entries: int) -> None:
        """Write some rows, in the transaction of a commit that has so many entries itself."""
        if self._steps is None:
            self._steps = self._work(storage, cursor_id)
        room = max(_LEAST_ROWS, 2 * entries)
        while room > 0 and not self.is_done:
            room -= next(self._steps, 0)

    def _work(self, storage: Storage, cursor_id: int) -> Iterator[int]:
        """Do all of it, and give after each bounded step about how many rows it is worth."""
        for namespace in self._dropped:
            while _delete_rows(storage, cursor_id, namespace):
                yield _ROWS
        for namespace in sorted(self._overlay.namespaces):
            yield from self._write_namespace(storage, cursor_id, namespace)
        while _delete_log(storage, cursor_id, self._last):
            yield _ROWS
        self.is_done = True

    def _write_namespace(self, storage: Storage, cursor_id: int, namespace: int) -> Iterator[int]:
        """Write a namespace by key, unless it is dropped meanwhile. Values are those of now, which do no harm."""
        entries = self._overlay.namespaces.get(namespace)
        if entries is None:
            return
        keys, runs = list(entries), list[list[bytes]]()
        for begin in range(0, len(keys), _SORTED_AT_ONCE):
            runs.append(sorted(keys[begin : begin + _SORTED_AT_ONCE]))
            yield _ROWS
        ordered = merge(*runs)
        while some := list(islice(ordered, _ROWS)):
            if self._overlay.namespaces.get(namespace) is not entries:
                return
            _write_rows(storage, cursor_id, namespace, {key: entries[key] for key in some})
            yield _ROWS


class OwnLog:
    """The log of a cursor as its owner knows it."""

    def __init__(self, overlay: Overlay) -> None:
        self.overlay = overlay
        self._writing: RowWriting | None = None

    def write_rows(self, storage: Storage, cursor_id: int, number: int, changes: EntryChanges, size_bytes: int) -> None:
        """Write some rows in the transaction of a commit, where the log is full or was."""
        entries = sum(map(len, changes.entries.values()))
        if self._writing is None and not self.overlay.has_room(size_bytes, entries):
            self._writing = RowWriting(self.overlay, number - 1)
        if self._writing is not None:
            self._writing.advance(storage, cursor_id, entries)

    def note(self, changes: EntryChanges, size_bytes: int) -> None:
        """Take in a commit that took effect."""
        self.overlay.add(changes, size_bytes)
        if self._writing is None:
            return
        self._writing.since.add(changes, size_bytes)
        if self._writing.is_done:
            self.overlay = self._writing.since.join(self.overlay)
            self._writing = None


def _delete_rows(storage: Storage, cursor_id: int, namespace: int) -> int:
    """Delete some rows of a namespace; return how many."""
    where = "cursor_id = ?1 AND namespace = ?2"
    return storage.run(
        f"DELETE FROM entries WHERE {where} AND key <= coalesce((SELECT key FROM entries"  # noqa: S608 (a text of ours)
        f" WHERE {where} ORDER BY key LIMIT 1 OFFSET ?3), (SELECT max(key) FROM entries WHERE {where}))",
        (cursor_id, namespace, _ROWS - 1),
    )


def _write_rows(storage: Storage, cursor_id: int, namespace: int, entries: Mapping[bytes, bytes | None]) -> None:
    rows = [(cursor_id, namespace, key, value) for key, value in entries.items() if value is not None]
    storage.insert("entries", 4, rows, verb="INSERT OR REPLACE")
    if len(rows) < len(entries):
        gone = [(cursor_id, namespace, key) for key, value in entries.items() if value is None]
        storage.connection.executemany("DELETE FROM entries WHERE cursor_id = ? AND namespace = ? AND key = ?", gone)


def _delete_log(storage: Storage, cursor_id: int, last: int) -> int:
    """Delete the oldest commits of a log, about a megabyte of them, none behind `last`; return how many."""
    end, left = None, _DELETED_BYTES
    for number, size_bytes in storage.rows(
        "SELECT number, length(changes) FROM entry_log WHERE cursor_id = ? AND number <= ? ORDER BY number LIMIT 100",
        (cursor_id, last),
    ):
        end, left = number, left - size_bytes
        if left <= 0:
            break
    if end is None:
        return 0
    return storage.run("DELETE FROM entry_log WHERE cursor_id = ? AND number <= ?", (cursor_id, end))
