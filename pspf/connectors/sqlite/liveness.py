"""Which sessions live: each holds the lock of a file of its own, which the kernel frees when it dies.

A process that hangs keeps its lock; it is found out by its renewals, which stop.
"""

import fcntl
import os
import threading
from abc import ABC, abstractmethod
from pathlib import Path


class Liveness(ABC):
    """Who lives, as far as can be seen at once."""

    @abstractmethod
    def enter(self, session: str) -> None:
        """Show that `session` lives, until `leave` or the end of the process."""

    @abstractmethod
    def leave(self, session: str) -> None:
        """Stop to show it. Safe to call twice."""

    @abstractmethod
    def is_dead(self, session: str) -> bool:
        """Return True where `session` certainly ended."""

    @abstractmethod
    def forget(self, session: str) -> None:
        """Remove what a dead session left."""


class FileLiveness(Liveness):
    """Lock files beside the database."""

    def __init__(self, database: Path) -> None:
        self._directory = Path(f"{database}-sessions")
        self._held: dict[str, int] = {}
        self._mutex = threading.Lock()

    def enter(self, session: str) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._directory / session, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with self._mutex:
            self._held[session] = descriptor

    def leave(self, session: str) -> None:
        with self._mutex:
            descriptor = self._held.pop(session, None)
        if descriptor is not None:
            os.close(descriptor)

    def is_dead(self, session: str) -> bool:
        try:
            descriptor = os.open(self._directory / session, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True

    def forget(self, session: str) -> None:
        (self._directory / session).unlink(missing_ok=True)


class MemoryLiveness(Liveness):
    """A set, for a broker that only this process sees."""

    def __init__(self) -> None:
        self._alive: set[str] = set()

    def enter(self, session: str) -> None:
        self._alive.add(session)

    def leave(self, session: str) -> None:
        self._alive.discard(session)

    def is_dead(self, session: str) -> bool:
        return session not in self._alive

    def forget(self, session: str) -> None:
        self._alive.discard(session)
