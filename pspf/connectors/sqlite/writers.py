"""The writers' queue of a database: a lock file, by which processes take turns.

SQLite's own lock is polled, which is unfair and slow with many writers; flock hands over in turn. It has
no time-out, so a second thread waits where the wait is bounded (decision 0022).
"""

import fcntl
import mmap
import os
import struct
import time
from pathlib import Path
from typing import Final

from pspf.connectors.sqlite import forks
from pspf.connectors.sqlite.holders import LockHolder, command_of, find_flock_holder, find_writer

_RECORD: Final = struct.Struct("<qq112s")
"""In the lock file: pid of the last that took its turn, since when (wall clock, 0 = it is over), its command."""
_POLL_S: Final = 0.005
STUCK_MS: Final = 1_000
"""Nothing that is done in a turn takes so long, but on a disk that is too slow."""


class WritersQueue:
    """The queue as one connection sees it. Used by one thread at a time."""

    def __init__(self, database: Path) -> None:
        self.path = Path(f"{database}.lock")
        self._database = database
        self._descriptor = -1
        self._record: mmap.mmap | None = None
        self._pid = 0
        self._command = b""

    def open(self) -> None:
        """Open the lock file, make it where it is missing. OSError: it can't be."""
        if self._descriptor >= 0:
            return
        forks.watch(self)
        self._pid = os.getpid()
        self._command = command_of(self._pid).encode("utf-8", "replace")
        with forks.held_off():
            try:
                self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except PermissionError:  # another user's: what may be read can be locked, only not signed
                self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
                return
        if os.fstat(self._descriptor).st_size < _RECORD.size:
            os.ftruncate(self._descriptor, _RECORD.size)
        self._record = mmap.mmap(self._descriptor, _RECORD.size)

    def close(self) -> None:
        """Leave and close. Safe to call twice."""
        if self._record is not None:
            self._record.close()
            self._record = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def drop_after_fork(self) -> None:
        self.close()

    def reopen_if_replaced(self) -> None:
        """Go over to the lock file that others use, where somebody deleted ours."""
        try:
            now = os.stat(self.path)
        except FileNotFoundError:
            now = None
        ours = os.fstat(self._descriptor)
        if now is None or (now.st_dev, now.st_ino) != (ours.st_dev, ours.st_ino):
            self.close()
            self.open()

    def try_enter(self) -> bool:
        """Take the turn if it is free; return whether it was taken."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self._sign(time.time_ns() // 1_000_000)
        return True

    def enter(self) -> None:
        """Wait for the turn, for as long as it takes."""
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        self._sign(time.time_ns() // 1_000_000)

    def try_enter_within(self, wait_ms: int) -> bool:
        """Take the turn within `wait_ms`; return whether it was taken. It polls: for rare uses."""
        until = time.monotonic() + wait_ms / 1000
        while not self.try_enter():
            if time.monotonic() > until:
                return False
            time.sleep(_POLL_S)
        return True

    def leave(self) -> None:
        """End the turn."""
        self._sign(0)
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def find_holder(self) -> LockHolder | None:
        """Return the process that has the turn, or writes without one; None where the system does not say."""
        signed = self._read_signature()
        pid = find_writer(self._database) or find_flock_holder(self.path)
        if pid is None or (signed is not None and signed.pid == pid):
            return signed if signed is None or signed.pid != self._pid else None
        return None if pid == self._pid else LockHolder(pid, command_of(pid))

    def find_stuck(self) -> LockHolder | None:
        """Return who has the turn for longer than a commit takes. Any thread may ask."""
        signed = self._read_signature()
        if signed is None or signed.pid == self._pid or signed.since_ms is None or not self._is_taken():
            return None
        return signed if time.time_ns() // 1_000_000 - signed.since_ms >= STUCK_MS else None

    def watch_writer(self, watch_ms: int) -> LockHolder | None:
        """Return who is in one write transaction, or in one after the other, for as long as it is watched."""
        until = time.monotonic() + watch_ms / 1000
        first = find_writer(self._database)
        while first not in (None, self._pid) and time.monotonic() < until:
            time.sleep(_POLL_S)
            if find_writer(self._database) != first:
                return None
        return None if first in (None, self._pid) else LockHolder(first, command_of(first))

    def _is_taken(self) -> bool:
        """Whether somebody has the turn: who was killed in it has left its signature."""
        with forks.held_off():
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def _sign(self, since_ms: int) -> None:
        if self._record is not None:
            _RECORD.pack_into(self._record, 0, self._pid, since_ms, self._command)

    def _read_signature(self) -> LockHolder | None:
        record = self._record
        if record is None or record.closed:
            return None
        pid, since_ms, command = _RECORD.unpack_from(record)
        return LockHolder(pid, command.rstrip(b"\0").decode("utf-8", "replace"), since_ms) if since_ms else None
