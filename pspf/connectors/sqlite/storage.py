"""The file and its connection: opening, the format, errors, the writers' queue, checkpoints.

All of it runs on one thread, the engine's. SQLite below 3.51.3 can corrupt a WAL database that
several processes write, so an older library is refused. Nothing here may `open()` the database
file itself: closing it would drop the process's POSIX locks.
"""

import fcntl
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any, Final

import apsw

from pspf import faults
from pspf.connectors.base import Limits
from pspf.errors import BackendCorrupt, BackendUnavailable, ConfigurationError, DiskFull, PSPFError

logger = logging.getLogger(__name__)

FORMAT: Final = 3
"""Written into each file; a file of a newer format is refused, one of an older is brought up to date."""

OLDEST_SQLITE: Final = 3_051_003
_BUSY_MS: Final = 5_000
_CHECKPOINT_PAGES: Final = 1_000
_TRUNCATE_PAGES: Final = 64 * 1024 * 1024 // 4096

Row = tuple[Any, ...]


def translate(error: apsw.Error, name: str) -> Exception:
    """Return what PSPF raises for SQLite's error, by what the caller can do; a mistake of ours as it is."""
    if isinstance(error, apsw.FullError):
        return DiskFull(f"{name}: the disk is full ({error})")
    if isinstance(error, apsw.CorruptError | apsw.NotADBError):
        return BackendCorrupt(f"{name}: damaged or no database ({error}); restore it, or move it away to start anew")
    if isinstance(error, apsw.BusyError | apsw.LockedError):
        return BackendUnavailable(f"{name}: another program keeps it locked ({error})")
    if isinstance(error, apsw.ReadOnlyError | apsw.CantOpenError | apsw.PermissionsError | apsw.AuthError):
        return BackendUnavailable(f"{name}: can't be opened for writing ({error})")
    if isinstance(error, apsw.IOError | apsw.ProtocolError | apsw.InterruptError):
        return BackendUnavailable(f"{name}: {error}")
    return error


class Storage:
    """One connection to one database; `path` None is a private database in memory."""

    def __init__(self, path: Path | None, limits: Limits) -> None:
        if limits.synchronous not in ("FULL", "NORMAL"):
            raise ConfigurationError(f"synchronous={limits.synchronous!r}: use FULL or NORMAL")
        self.path = path
        self.name = f"sqlite:///{path}" if path else "memory://"
        self._durable = limits.synchronous
        self._synchronous = ""
        self._connection: apsw.Connection | None = None
        self._queue: int | None = None
        self._pid = 0
        self._inode: tuple[int, int] | None = None
        self._wal_pages = 0
        self._next_checkpoint = _CHECKPOINT_PAGES

    @property
    def is_open(self) -> bool:
        return self._connection is not None

    def open(self) -> None:
        """Open the database, make its tables where it is new, check its format.

        Raises:
            BackendUnavailable: It can't be opened.
            BackendCorrupt: It is damaged, or of a newer format.
        """
        if apsw.SQLITE_VERSION_NUMBER < OLDEST_SQLITE or apsw.sqlitelibversion() < "3.51.3":
            raise BackendCorrupt(
                f"SQLite {apsw.sqlitelibversion()} can corrupt a shared file; apsw 3.51.3 or newer is needed"
            )
        try:
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._queue = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._connection = apsw.Connection(str(self.path) if self.path else ":memory:", statementcachesize=200)
            self._pid = os.getpid()
            self._connection.set_busy_timeout(_BUSY_MS)
            self._prepare()
        except OSError as error:
            self.close()
            raise BackendUnavailable(f"{self.name}: {error.strerror or error}") from error
        except apsw.Error as error:
            self.close()
            raise translate(error, self.name) from error
        except PSPFError:
            self.close()
            raise

    def _prepare(self) -> None:
        with self.queued():
            self.rows("PRAGMA journal_mode=WAL")
            self.rows("PRAGMA cache_size=-65536")
            self.rows("PRAGMA temp_store=MEMORY")
            self.connection.set_wal_hook(self._after_commit)
            self._set_synchronous(durable=True)
            self.begin()
            try:
                if not self.rows("SELECT 1 FROM sqlite_schema WHERE name = 'meta'"):
                    if self.rows("SELECT 1 FROM sqlite_schema LIMIT 1"):
                        raise BackendCorrupt(f"{self.name}: a database of another program; give PSPF a file of its own")
                    self._create()
                found = self.rows("SELECT value FROM meta WHERE name = 'format'")
                if not found or found[0][0] > FORMAT:
                    version = found[0][0] if found else "unknown"
                    raise BackendCorrupt(
                        f"{self.name}: format {version}, this version reads {FORMAT}; use a newer PSPF"
                    )
                if found[0][0] < FORMAT:
                    self._update(found[0][0])
            except BaseException:
                self.rollback()
                raise
            self.commit()
        if self.path is not None:
            status = os.stat(self.path)
            self._inode = (status.st_dev, status.st_ino)

    def _create(self) -> None:
        self._run_script("schema.sql")
        self._run_script("windows.sql")
        self._run_script("window_log.sql")
        self.run("INSERT INTO meta VALUES ('format', ?)", (FORMAT,))

    def _update(self, version: int) -> None:
        """Bring a file of format 1, which has no tables for windows, or 2, which has no log of theirs, up to date."""
        logger.info("%s: format %d becomes %d", self.name, version, FORMAT)
        if version < 2:
            self._run_script("windows.sql")
        self._run_script("window_log.sql")
        self.run("UPDATE meta SET value = ? WHERE name = 'format'", (FORMAT,))

    def _run_script(self, name: str) -> None:
        script = files("pspf.connectors.sqlite").joinpath(name).read_text(encoding="utf-8")
        self.connection.execute(script).fetchall()

    def close(self) -> None:
        """Close the connection and the queue; safe to call twice."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._queue is not None:
            os.close(self._queue)
            self._queue = None

    @property
    def connection(self) -> apsw.Connection:
        if self._connection is None:
            raise BackendUnavailable(f"{self.name}: not connected")
        if self._pid != os.getpid():
            raise BackendUnavailable(f"{self.name}: opened before this process was forked; connect in the new process")
        return self._connection

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        """Return all rows; the read ends here."""
        return self.connection.execute(sql, values).fetchall()

    def row(self, sql: str, values: Sequence[Any] = ()) -> Row | None:
        """Return the first row, or None."""
        found = self.connection.execute(sql, values).fetchall()
        return found[0] if found else None

    def run(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Execute one statement; return how many rows it changed."""
        self.connection.execute(sql, values).fetchall()
        return int(self.connection.changes())

    def insert(self, table: str, width: int, rows: Sequence[Sequence[Any]], *, verb: str = "INSERT") -> None:
        """Insert rows of `width` values, a hundred a statement: each statement costs a hand-over of the GIL."""
        values = f"({','.join('?' * width)})"
        execute = self.connection.execute
        full = len(rows) - len(rows) % 100
        if full:
            sql = f"{verb} INTO {table} VALUES {','.join([values] * 100)}"
            for begin in range(0, full, 100):
                execute(sql, list(chain.from_iterable(rows[begin : begin + 100])))
        if full < len(rows):
            self.connection.executemany(f"{verb} INTO {table} VALUES {values}", rows[full:])

    @contextmanager
    def queued(self) -> Iterator[None]:
        """Hold the writers' queue: flock hands over in turn, where SQLite's own lock is polled."""
        if self._queue is None:
            yield
            return
        fcntl.flock(self._queue, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._queue, fcntl.LOCK_UN)

    def begin(self, *, durable: bool = True) -> None:
        """Begin a write. One that is not durable survives any process, but not a power cut."""
        if self.connection.in_transaction:
            self.rollback()
        self._set_synchronous(durable=durable)
        self.rows("BEGIN IMMEDIATE")

    def commit(self) -> None:
        self.rows("COMMIT")

    def rollback(self) -> None:
        if self._connection is not None and self._connection.in_transaction:
            self.rows("ROLLBACK")

    def _set_synchronous(self, *, durable: bool) -> None:
        wanted = self._durable if durable else "NORMAL"
        if wanted != self._synchronous:
            self.rows(f"PRAGMA synchronous={wanted}")
            self._synchronous = wanted

    def _after_commit(self, _connection: apsw.Connection, _database: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def checkpoint_if_due(self) -> None:
        """Copy the WAL into the database when it has grown; the caller holds the queue."""
        if self._wal_pages < _CHECKPOINT_PAGES:
            self._next_checkpoint = _CHECKPOINT_PAGES
        if self._wal_pages < self._next_checkpoint:
            return
        faults.reach("checkpoint")
        is_huge = self._wal_pages >= _TRUNCATE_PAGES
        mode = apsw.SQLITE_CHECKPOINT_TRUNCATE if is_huge else apsw.SQLITE_CHECKPOINT_PASSIVE
        try:
            self.connection.wal_checkpoint(mode=mode)
        except apsw.BusyError:
            logger.warning("%s: a long reader keeps the WAL at %d pages", self.name, self._wal_pages)
        except apsw.Error as error:  # what was committed stays committed; the next commit tries again
            logger.warning("%s: no checkpoint: %s", self.name, error)
        self._next_checkpoint = self._wal_pages + _CHECKPOINT_PAGES

    def data_version(self) -> int:
        """Return a number that changes when another connection has committed."""
        return int(self.rows("PRAGMA data_version")[0][0])

    def check_in_place(self) -> None:
        """Raise BackendCorrupt where the file was deleted or replaced under us."""
        if self.path is None or self._inode is None:
            return
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            raise BackendCorrupt(f"{self.name}: the file was deleted while in use") from None
        if (status.st_dev, status.st_ino) != self._inode:
            raise BackendCorrupt(f"{self.name}: the file was replaced while in use")
