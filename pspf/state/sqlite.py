"""A state store in a SQLite file, for one host and several processes.

SQLite runs on a thread of the store's own. Below 3.51.3 it can corrupt a WAL database that several
processes write, so an older library is refused.
"""

import asyncio
import ctypes
import os
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, TypeVar

import apsw

from pspf.clock import Clock
from pspf.concurrency.turn import Turn
from pspf.errors import BackendCorrupt, BackendUnavailable, ConfigurationError, DiskFull, PSPFError
from pspf.state.base import Entry, Slot, StateStore

FORMAT: Final = 1
"""Written into each file; a file of a newer format is refused."""

_APPLICATION_ID: Final = 0x50535053  # "PSPS": tells our files from those of other programs
_OLDEST_SQLITE: Final = (3, 51, 3)
_BUSY_MS: Final = 10_000
_PURGED_A_WRITE: Final = 100

_READ: Final = "SELECT value, expires_ms FROM entry WHERE kind = ? AND key = ?"
_PUT: Final = "INSERT OR REPLACE INTO entry (kind, key, value, expires_ms) VALUES (?, ?, ?, ?)"
_DELETE: Final = "DELETE FROM entry WHERE kind = ? AND key = ?"
_PURGE: Final = "DELETE FROM entry WHERE (kind, key) IN (SELECT kind, key FROM entry WHERE expires_ms <= ? LIMIT ?)"

_T = TypeVar("_T")

_started: Final["weakref.WeakSet[SQLiteStateStore]"] = weakref.WeakSet()
_inherited: Final[set[tuple[int, int]]] = set()
"""Device and inode of the files that were open when this process was forked."""


def _drop_after_fork() -> None:
    for store in list(_started):
        store.drop_after_fork()


os.register_at_fork(after_in_child=_drop_after_fork)


class SQLiteStateStore(StateStore):
    """State in the file `path`, made on `start` where it is missing.

    With `synchronous="FULL"` what was put survives a power cut, with `NORMAL` it survives the
    process. A call that is cancelled may still take effect.
    """

    def __init__(self, path: str | Path, *, synchronous: str = "FULL", clock: Clock | None = None) -> None:
        super().__init__(clock)
        if synchronous not in ("FULL", "NORMAL"):
            raise ConfigurationError(f"synchronous={synchronous!r}: use FULL or NORMAL")
        self.path = Path(path)
        self._synchronous = synchronous
        self._thread: ThreadPoolExecutor | None = None
        self._connection: apsw.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._is_forked = False
        self._turn = Turn()
        """Taken by who starts or stops it."""

    async def start(self) -> None:
        """Open the file; a second call does nothing.

        Raises:
            BackendUnavailable: It can't be opened.
            BackendCorrupt: It is damaged, of a newer format, or another program's.
            ConfigurationError: The process that this one was forked from had it open.
        """
        async with self._turn:
            if self._thread is not None:
                return
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="pspf-state")
            self._is_forked = False
            _started.add(self)
            try:
                await self._run(self._open)
            except BaseException:
                await self._stop()
                raise

    async def stop(self) -> None:
        async with self._turn:
            await self._stop()

    async def _stop(self) -> None:
        thread, self._thread = self._thread, None
        if thread is None:
            return
        _started.discard(self)
        try:
            with suppress(RuntimeError):  # there was no thread to be had for it: nothing is open
                await asyncio.get_running_loop().run_in_executor(thread, self._close)
        finally:
            thread.shutdown(wait=False)

    def drop_after_fork(self) -> None:
        """Forget, in a child, what the parent goes on with: its thread is not there, and its connection not ours."""
        self._thread, self._is_forked, self._turn = None, True, Turn()
        connection, self._connection = self._connection, None
        if connection is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))  # never collected, so never closed
        if self._file is not None:
            _inherited.add(self._file)

    async def read_entry(self, slot: Slot) -> Entry | None:
        return await self._run(lambda: self._read(slot))

    async def write_entries(self, changes: Mapping[Slot, Entry], *, now_ms: int) -> None:
        await self._run(lambda: self._write(changes, now_ms))

    async def _run(self, work: Callable[[], _T]) -> _T:
        """Run `work` on the store's thread; SQLite's errors become ours."""
        if self._is_forked:
            raise BackendUnavailable(f"{self.path}: started before this process was forked; it can't be used here")
        if self._thread is None:
            raise ConfigurationError("the state store is not started; use `async with store:` or `await store.start()`")
        try:
            done = asyncio.get_running_loop().run_in_executor(self._thread, work)
        except RuntimeError as error:  # no thread to be had
            raise BackendUnavailable(f"{self.path}: {error}") from error
        try:
            return await done
        except apsw.Error as error:
            raise _translate(error, self.path) from error
        except OSError as error:
            raise BackendUnavailable(f"{self.path}: {error.strerror or error}") from error

    # From here on: on the store's thread.

    @property
    def _open_connection(self) -> apsw.Connection:
        if self._connection is None:
            raise BackendUnavailable(f"{self.path}: not open")
        return self._connection

    def _open(self) -> None:
        if tuple(int(part) for part in apsw.sqlite_lib_version().split(".")) < _OLDEST_SQLITE:
            raise BackendCorrupt(
                f"SQLite {apsw.sqlite_lib_version()} can corrupt a shared file; 3.51.3 or newer is needed"
            )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._find() in _inherited:
            raise ConfigurationError(
                f"{self.path}: this process was forked from one that had it open; SQLite's locks don't hold here\n"
                '  start a new process (multiprocessing.get_context("spawn") or "forkserver"),'
                " or start the store after the fork only"
            )
        connection = self._connection = apsw.Connection(str(self.path))
        connection.set_busy_timeout(_BUSY_MS)
        connection.execute("PRAGMA journal_mode=WAL").fetchall()
        connection.execute(f"PRAGMA synchronous={self._synchronous}").fetchall()
        self._in_transaction(self._prepare)
        self._file = self._find()

    def _find(self) -> tuple[int, int] | None:
        """Return which file it is; None while there is none."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def _prepare(self) -> None:
        connection = self._open_connection
        application_id = connection.pragma("application_id")
        version = connection.pragma("user_version")
        is_empty = not connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
        if application_id != _APPLICATION_ID and not is_empty:
            raise BackendCorrupt(f"{self.path}: a database of another program; give the store a file of its own")
        if version > FORMAT:
            raise BackendCorrupt(f"{self.path}: format {version}, this version reads {FORMAT}; use a newer PSPF")
        if is_empty:
            schema = files("pspf.state").joinpath("schema.sql").read_text(encoding="utf-8")
            connection.execute(schema).fetchall()
            connection.execute(f"PRAGMA application_id={_APPLICATION_ID}").fetchall()
            connection.execute(f"PRAGMA user_version={FORMAT}").fetchall()

    def _close(self) -> None:
        connection, self._connection, self._file = self._connection, None, None
        if connection is not None:
            connection.close()

    def _read(self, slot: Slot) -> Entry | None:
        rows: list[Any] = self._open_connection.execute(_READ, (slot.kind.value, slot.key)).fetchall()
        return Entry(*rows[0]) if rows else None

    def _write(self, changes: Mapping[Slot, Entry], now_ms: int) -> None:
        connection = self._open_connection
        puts = [(slot.kind.value, slot.key, *entry) for slot, entry in changes.items() if entry.value is not None]
        deletes = [(slot.kind.value, slot.key) for slot, entry in changes.items() if entry.value is None]

        def apply() -> None:
            connection.executemany(_DELETE, deletes)
            connection.executemany(_PUT, puts)
            connection.execute(_PURGE, (now_ms, _PURGED_A_WRITE)).fetchall()

        self._in_transaction(apply)

    def _in_transaction(self, work: Callable[[], None]) -> None:
        connection = self._open_connection
        connection.execute("BEGIN IMMEDIATE").fetchall()
        try:
            work()
            connection.execute("COMMIT").fetchall()
        except BaseException:
            if connection.in_transaction:  # some errors of SQLite end it by themselves
                connection.execute("ROLLBACK").fetchall()
            raise


def _translate(error: apsw.Error, path: Path) -> PSPFError:
    """Return what PSPF raises for SQLite's error, by what the caller can do about it."""
    if isinstance(error, apsw.FullError):
        return DiskFull(f"{path}: the disk is full ({error})")
    if isinstance(error, apsw.CorruptError | apsw.NotADBError):
        return BackendCorrupt(
            f"{path}: damaged or no database ({error}); restore it, or move it away to start with an empty one"
        )
    return BackendUnavailable(f"{path}: {error}")
