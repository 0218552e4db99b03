"""The database file and its connection: opening, format, errors, transactions, checkpoints.

Used by one thread at a time, as the engine sees to. SQLite below 3.51.3 can corrupt a WAL database that
several processes write, so an older library is refused. Nothing here may `open()` the database
file itself: closing it would drop the process's POSIX locks.
"""

import ctypes
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final

import apsw

from pspf.connectors.contract.limits import Limits
from pspf.connectors.sqlite import forks, formats
from pspf.connectors.sqlite.checkpoints import Checkpoints
from pspf.connectors.sqlite.forks import FileId
from pspf.connectors.sqlite.lock_wait import BUSY_MS, LockWait
from pspf.connectors.sqlite.ownership import refuse_denied
from pspf.connectors.sqlite.place import DatabaseFiles, check_file, find_id
from pspf.connectors.sqlite.writers import WritersQueue
from pspf.errors import BackendCorrupt, BackendGone, BackendUnavailable, ConfigurationError, DiskFull, PSPFError

OLDEST_SQLITE: Final = 3_051_003
_STATEMENTS: Final = 200
"""How many prepared statements a connection keeps."""
LOOK_EVERY_S: Final = 0.01
"""How long what was seen of the file's place is taken for granted (decision 0024)."""
Row = tuple[Any, ...]


def translate(error: apsw.Error, name: str) -> Exception:
    """Return what PSPF raises for SQLite's error, by what the caller can do; a mistake of ours as it is."""
    if isinstance(error, apsw.FullError):
        return DiskFull(f"{name}: the disk is full ({error})")
    if isinstance(error, apsw.CorruptError | apsw.NotADBError):
        return BackendCorrupt(
            f"{name}: damaged or no database ({error}); restore it, or move it away to start with an empty one"
        )
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
        self.queue = None if path is None else WritersQueue(path)
        self._place: DatabaseFiles | None = None
        self.file: FileId | None = None
        """The database's file: the one that was opened first. No other is opened, and no new one is created."""
        self._looked_at = 0.0
        self._checked_state = -1
        """SQLite's number of the state in which the format was read, or that our own commits made of it."""
        self._is_inherited = False
        self._wait = LockWait()
        self.checkpoints = Checkpoints(self.name, path, self._wait)

    @property
    def is_open(self) -> bool:
        return self._connection is not None

    def open(self) -> None:
        """Open the database, make its tables where it is new, check its format.

        Raises:
            BackendUnavailable: It can't be opened.
            BackendCorrupt: It is damaged, another program's, or of a newer format; it is left as it is.
            BackendGone: It is not the file that it was.
            ConfigurationError: The process that this one was forked from had it open.
        """
        if apsw.SQLITE_VERSION_NUMBER < OLDEST_SQLITE or apsw.sqlitelibversion() < "3.51.3":
            raise BackendCorrupt(
                f"SQLite {apsw.sqlitelibversion()} can corrupt a shared file; apsw 3.51.3 or newer is needed"
            )
        self._is_inherited, self._synchronous = False, ""
        self._looked_at, self._checked_state = 0.0, -1
        try:
            self._connection = self._connect()
            self._connection.set_busy_handler(self._wait)
            forks.watch(self)
            self._prepare()
        except OSError as error:
            self.close()
            raise BackendUnavailable(f"{self.name}: {error.strerror or error}") from error
        except apsw.Error as error:
            self.close()
            if isinstance(error, apsw.ReadOnlyError | apsw.CantOpenError):
                refuse_denied(self.name, self.path)
            raise translate(error, self.name) from error
        except PSPFError:
            self.close()
            raise

    def _connect(self) -> apsw.Connection:
        if self.path is None:
            return apsw.Connection(":memory:", statementcachesize=_STATEMENTS)
        self._check_inheritance(self.path)
        flags = apsw.SQLITE_OPEN_READWRITE
        if self.file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            flags |= apsw.SQLITE_OPEN_CREATE
        else:
            check_file(self.name, self.path, self.file)
        return apsw.Connection(str(self.path), flags=flags, statementcachesize=_STATEMENTS)

    def _check_inheritance(self, path: Path) -> None:
        found = find_id(path)
        if found is not None and forks.is_inherited(found):
            raise ConfigurationError(
                f"{self.name}: this process was forked from one that had it open; SQLite's locks don't hold here\n"
                '  start a new process (multiprocessing.get_context("spawn") or "forkserver"),'
                " or open the broker after the fork only"
            )

    def _prepare(self) -> None:
        is_ready = formats.look_whose(self.connection, self.name) and (
            self.path is None or self.rows("PRAGMA journal_mode") == [("wal",)]
        )
        if self.queue is not None:
            self.queue.open()
        if not is_ready:
            self._make()
        self.rows("PRAGMA cache_size=-65536")
        self.rows("PRAGMA temp_store=MEMORY")
        self.checkpoints.watch(self.connection)
        self._set_synchronous(durable=True)
        if self.path is not None:
            self._place = DatabaseFiles.of(self.path)
            self.file = self.file or self._place.database

    def _make(self) -> None:
        """Make the tables, or bring them up to date, in one transaction: all of it is done, or nothing."""
        if self.queue is not None and not self.queue.try_enter_within(BUSY_MS):
            raise self.locked(BUSY_MS)
        try:
            self.rows("PRAGMA journal_mode=WAL")
            self.rows("BEGIN IMMEDIATE")
            try:
                formats.make(self.connection, self.name)
            except BaseException:
                self.rollback()
                raise
            self.commit()
        finally:
            if self.queue is not None:
                self.queue.leave()

    def close(self) -> None:
        """Close the connection and the queue; safe to call twice."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self.queue is not None:
            self.queue.close()

    def drop_after_fork(self) -> None:
        """Forget the connection without closing it: that would undo, in the parent's log, what the parent writes."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._is_inherited = True
        if self._place is not None and self._place.database is not None:
            forks.note_inherited(self._place.database)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))  # never collected, so never closed

    @property
    def connection(self) -> apsw.Connection:
        if self._connection is None:
            if self._is_inherited:
                raise BackendUnavailable(f"{self.name}: opened before this process was forked; it can't be used here")
            raise BackendUnavailable(f"{self.name}: not connected")
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

    def locked(self, waited_ms: int) -> BackendUnavailable:
        """Return the error that says who keeps the database locked."""
        holder = None if self.queue is None else self.queue.find_holder()
        by = "another program" if holder is None else str(holder)
        return BackendUnavailable(
            f"{self.name}: locked for writing for {waited_ms / 1000:.1f} s, by {by}; continue or end it, then try again"
        )

    def find_obstacle(self) -> str | None:
        """Return who has kept the database locked for longer than a commit takes; None where nobody has."""
        holder = None if self.queue is None else self.queue.find_stuck()
        return None if holder is None else f"{self.name}: locked for writing by {holder}; continue or end it"

    def begin(self, *, durable: bool = True) -> None:
        """Begin a write. One that is not durable survives any process, but not a power cut.

        apsw.BusyError, at once: another program is in a write.
        """
        if self.connection.in_transaction:
            self.rollback()
        self._set_synchronous(durable=durable)
        self.checkpoints.finish_if_overdue()
        with self._wait.skipped():
            self.rows("BEGIN IMMEDIATE")

    def check(self) -> None:
        """Make sure that what is written is found by others: the file in its place, the format as it was.

        Raises:
            BackendGone: Further writes would go to a file that nobody reads.
        """
        if self._place is None:
            return
        now = time.monotonic()
        if now - self._looked_at >= LOOK_EVERY_S:
            self._place.check(self.name)
            self._looked_at = now
        state = self.connection.data_version()
        if state == self._checked_state:  # nobody else has committed since
            return
        found = formats.read_format(self.connection)
        if found != formats.FORMAT:
            version = "unknown" if found is None else found
            raise BackendGone(
                f"{self.name}: format {version} by now, this version writes {formats.FORMAT}:"
                " another PSPF has updated it\n"
                "  start this process again with that version"
            )
        self._checked_state = state

    def commit(self) -> None:
        """Commit a write that was begun and checked."""
        self.rows("COMMIT")
        self._checked_state = self.connection.data_version()

    def rollback(self) -> None:
        if self._connection is not None and self._connection.in_transaction:
            self.rows("ROLLBACK")

    def _set_synchronous(self, *, durable: bool) -> None:
        wanted = self._durable if durable else "NORMAL"
        if wanted != self._synchronous:
            self.rows(f"PRAGMA synchronous={wanted}")
            self._synchronous = wanted

    def data_version(self) -> int:
        """Return a number that changes when another connection has committed."""
        return int(self.rows("PRAGMA data_version")[0][0])
