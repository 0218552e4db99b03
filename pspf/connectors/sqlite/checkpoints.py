"""Checkpoints of the write-ahead log: what was committed is copied from it into the database."""

import time
from pathlib import Path
from typing import Final

import apsw

from pspf import faults
from pspf.connectors.sqlite.holders import LockHolder, command_of, find_readers
from pspf.connectors.sqlite.lock_wait import LockWait
from pspf.loggers import get_logger

logger = get_logger(__name__)

_CHECKPOINT_PAGES: Final = 1_000
_OVERDUE_PAGES: Final = 4_000
"""A log of this length was not restarted by a checkpoint beside the writers: a writer makes the next one."""
_TRUNCATE_PAGES: Final = 64 * 1024 * 1024 // 4096
_WARN_EVERY_S: Final = 60.0


class Checkpoints:
    """The checkpoints of one connection: it makes them itself, SQLite none."""

    def __init__(self, name: str, path: Path | None, wait: LockWait) -> None:
        self._name = name
        self._path = path
        self._wait = wait
        self._connection: apsw.Connection | None = None
        self._wal_pages = 0
        self._next = _CHECKPOINT_PAGES
        self._overdue_at = _OVERDUE_PAGES
        self._warned_at = -_WARN_EVERY_S

    def watch(self, connection: apsw.Connection) -> None:
        """Count the pages that a connection's commits write."""
        self._connection = connection
        self._wal_pages = 0
        connection.set_wal_hook(self._after_commit)

    def _after_commit(self, _connection: apsw.Connection, _database: str, pages: int) -> int:
        self._wal_pages = pages
        if pages < _OVERDUE_PAGES:
            self._overdue_at = _OVERDUE_PAGES
        return apsw.SQLITE_OK

    def run_if_due(self) -> None:
        """Copy the log into the database when it has grown. Beside the writers, who go on; nothing is waited for."""
        if self._wal_pages < _CHECKPOINT_PAGES:
            self._next = _CHECKPOINT_PAGES
        if self._wal_pages >= self._next:
            self._next = self._wal_pages + _CHECKPOINT_PAGES
            faults.reach("checkpoint")
            self._run(apsw.SQLITE_CHECKPOINT_PASSIVE)

    def finish_if_overdue(self) -> None:
        """Copy the rest of a long log, in a writer's turn: no other writer adds to it, so that it can be restarted."""
        if self._wal_pages < self._overdue_at:
            return
        mode = apsw.SQLITE_CHECKPOINT_PASSIVE
        if self._wal_pages >= _TRUNCATE_PAGES:
            mode = apsw.SQLITE_CHECKPOINT_TRUNCATE
        self._overdue_at = self._wal_pages + _CHECKPOINT_PAGES
        pages, copied = self._run(mode)
        if pages >= _TRUNCATE_PAGES and copied < pages:
            self._warn_of_readers(pages)

    def _run(self, mode: int) -> tuple[int, int]:
        """Return how many pages the log has and how many of them the database; zeros where another is at it."""
        assert self._connection is not None
        try:
            with self._wait.skipped():
                return self._connection.wal_checkpoint(mode=mode)
        except apsw.BusyError:  # by another writer, a checkpoint of another process, or a reader
            return (self._wal_pages, 0)
        except apsw.Error as error:  # what was committed stays committed; the next commit tries again
            logger.warning("%s: no checkpoint: %s", self._name, error)
            return (0, 0)

    def _warn_of_readers(self, pages: int) -> None:
        now = time.monotonic()
        if now - self._warned_at < _WARN_EVERY_S or self._path is None:
            return
        self._warned_at = now
        readers = ", ".join(str(LockHolder(pid, command_of(pid))) for pid in find_readers(self._path))
        logger.warning(
            "%s: a long read keeps its log from being emptied, at %d MB: %s; end it, or the log grows on",
            self._name,
            pages * 4096 >> 20,
            readers or "by an unknown process",
        )
