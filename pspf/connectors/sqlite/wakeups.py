"""Wake-ups of the engine's thread: a pipe for this process's tasks, a socket for the other processes."""

import os
import selectors
from pathlib import Path

from pspf.connectors.sqlite import forks
from pspf.connectors.sqlite.wake import Wake
from pspf.loggers import get_logger

logger = get_logger(__name__)


class WakeUps:
    """What the thread waits for. Used by it alone, but for `ring`."""

    def __init__(self, database: Path | None) -> None:
        self._database = database
        self._wake: Wake | None = None
        self._selector: selectors.BaseSelector | None = None
        self._read_end = self._write_end = -1

    def open(self) -> None:
        """Get ready to be rung. OSError: there is no descriptor."""
        with forks.held_off():
            self._read_end, self._write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            self._selector = selectors.DefaultSelector()
        self._selector.register(self._read_end, selectors.EVENT_READ)

    def ring(self) -> None:
        """Wake the thread up, from any thread. OSError: it has ended."""
        try:
            os.write(self._write_end, b"!")
        except BlockingIOError:
            return  # it has rung often enough

    def wait(self, timeout_ms: int) -> tuple[set[int], bool]:
        """Wait to be woken up; return the partitions that grew in other processes, and whether any may have."""
        assert self._selector is not None
        self._selector.select(timeout_ms / 1000)
        self._drain()
        if self._wake is None or not self._wake.is_listening:
            return set(), False
        return self._wake.read()

    def _drain(self) -> None:
        try:
            os.read(self._read_end, 4096)
        except BlockingIOError:
            return  # it was not rung

    def tend(self, *, is_wanted: bool) -> None:
        """Listen for other processes, once something waits; without it they are only heard of later.

        OSError: that can't be done now.
        """
        if self._database is None or self._selector is None:
            return
        if self._wake is None:
            self._wake = Wake(self._database)
        self._wake.tend(self._selector, is_wanted=is_wanted)

    def listen(self) -> None:
        """Listen for other processes from now on, if that can be done now."""
        if self._wake is not None and self._wake.is_listening:
            return
        try:
            self.tend(is_wanted=True)
        except OSError as error:
            logger.debug("%s: not listening yet: %s", self._database, error)

    def notify(self, grown: set[int]) -> None:
        """Tell other processes what grew. What was written stays written, whatever becomes of it."""
        try:
            if self._wake is None:
                self.tend(is_wanted=False)
            if self._wake is not None:
                self._wake.notify(grown)
        except OSError as error:
            logger.debug("%s: other processes can't be woken: %s", self._database, error)

    def drop_after_fork(self) -> None:
        """Close the descriptors, in a child that was forked: the socket's name is its parent's."""
        if self._wake is not None:
            self._wake.drop()
            self._wake = None
        self.stop_ringing()

    def stop_ringing(self) -> None:
        """Close the pipe: a later wake-up gets an error, as the thread has ended."""
        if self._selector is not None:
            self._selector.close()
            self._selector = None
        for end in (self._read_end, self._write_end):
            if end >= 0:
                os.close(end)
        self._read_end = self._write_end = -1

    def close(self) -> None:
        """Close all. Safe to call twice."""
        self.stop_ringing()
        if self._wake is not None:
            self._wake.close()
            self._wake = None
