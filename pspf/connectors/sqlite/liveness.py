"""Liveness of sessions: each holds a file lock that the kernel frees when its process ends.

A process that stands still keeps its lock; it is found out by its renewals, which stop. A file that is gone tells
nothing: it was removed, and its session creates it again; or the session has ended without reaching the database.
"""

import fcntl
import os
import threading
from abc import ABC, abstractmethod
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Final
from weakref import WeakSet

from pspf.connectors.sqlite.ownership import make_directory
from pspf.errors import BackendUnavailable


class Sign(Enum):
    """What can be seen of a session at once."""

    LIVES = "its process runs, or stands still"
    DEAD = "its process has ended"
    UNKNOWN = "it shows nothing"


class Liveness(ABC):
    """Who lives, as far as can be seen at once."""

    @abstractmethod
    def enter(self, session: str) -> None:
        """Show that `session` lives, until `leave` or the end of the process. Called again, it mends a missing file.

        Raises:
            BackendUnavailable: It can't be shown.
        """

    @abstractmethod
    def leave(self, session: str) -> None:
        """Stop to show it. Safe to call twice."""

    @abstractmethod
    def look(self, session: str) -> Sign:
        """Return what can be seen of `session`."""

    @abstractmethod
    def forget(self, session: str) -> None:
        """Remove what a session left that has ended."""

    def is_dead(self, session: str) -> bool:
        """Return True where `session` certainly ended."""
        return self.look(session) is Sign.DEAD


class FileLiveness(Liveness):
    """Lock files beside the database."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._directory = Path(f"{database}-sessions")
        self._held: dict[str, int] = {}
        self._mutex = threading.Lock()
        _OPEN.add(self)

    def enter(self, session: str) -> None:
        path = self._directory / session
        try:
            with self._mutex:
                if session in self._held and _is_at(path, self._held[session]):
                    return
                descriptor = self._make(path)
                before = self._held.get(session)
                self._held[session] = descriptor
            if before is not None:
                os.close(before)
        except OSError as error:
            way_out = (
                f"\n  give {self._directory} to the user that {self._database.name} belongs to, or run as its owner"
                if isinstance(error, PermissionError)
                else ""
            )
            raise BackendUnavailable(
                f"{path}: this session's lock can't be taken: {error.strerror or error}{way_out}"
            ) from error

    def _make(self, path: Path) -> int:
        """Make the file and hold its lock. It gets its name when it is locked: before, it would be a dead session's."""
        make_directory(self._directory, self._database)
        hidden = path.with_name(f".{path.name}")
        descriptor = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            hidden.rename(path)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def leave(self, session: str) -> None:
        with self._mutex:
            descriptor = self._held.pop(session, None)
        if descriptor is not None:
            os.close(descriptor)

    def look(self, session: str) -> Sign:
        try:
            descriptor = os.open(self._directory / session, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # it is gone, another user's, or this process has no descriptor left
            return Sign.UNKNOWN
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return Sign.LIVES
        finally:
            os.close(descriptor)
        return Sign.DEAD

    def forget(self, session: str) -> None:
        with suppress(OSError):  # another user's: it stays, and is not asked for again
            (self._directory / session).unlink(missing_ok=True)

    def let_go(self) -> None:
        """Close the locks that a forked process has inherited: they are its parent's, which they must not outlive."""
        held, self._held, self._mutex = self._held, {}, threading.Lock()
        for descriptor in held.values():
            os.close(descriptor)


_OPEN: Final[WeakSet[FileLiveness]] = WeakSet()


def _let_all_go() -> None:
    for liveness in list(_OPEN):
        liveness.let_go()


os.register_at_fork(after_in_child=_let_all_go)


def _is_at(path: Path, descriptor: int) -> bool:
    """Return whether `path` is the file that is open."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


class MemoryLiveness(Liveness):
    """A set, for a broker that only this process sees."""

    def __init__(self) -> None:
        self._alive: set[str] = set()

    def enter(self, session: str) -> None:
        self._alive.add(session)

    def leave(self, session: str) -> None:
        self._alive.discard(session)

    def look(self, session: str) -> Sign:
        return Sign.LIVES if session in self._alive else Sign.DEAD

    def forget(self, session: str) -> None:
        self._alive.discard(session)
