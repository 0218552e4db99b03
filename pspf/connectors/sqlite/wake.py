"""Wake-up datagrams: a commit that appended notifies the other processes of the database.

A datagram that is lost costs time, not data: listeners look for themselves every half second.
"""

import hashlib
import os
import secrets
import selectors
import socket
import tempfile
import time
from array import array
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from pspf.connectors.sqlite import forks
from pspf.connectors.sqlite.ownership import follow, make_directory
from pspf.loggers import get_logger

logger = get_logger(__name__)

_MAX_SOCKET_PATH: Final = 100
_MAX_PARTITIONS: Final = 100
_MTIME_STEP_NS: Final = 1_000_000_000
"""A directory that changed so shortly ago may change again without a new modification time."""


def wake_directory(database: Path) -> Path:
    """Return where the listeners' sockets are: beside the database, or in the temporary directory.

    A unix socket's path is limited to about 100 bytes, so that a deep database needs the latter.
    """
    beside = Path(f"{database.resolve()}-wake")
    if len(os.fsencode(beside)) + 22 <= _MAX_SOCKET_PATH:
        return beside
    digest = hashlib.blake2b(os.fsencode(database.resolve()), digest_size=8).hexdigest()
    return Path(tempfile.gettempdir()) / f"pspf-{os.getuid()}-{digest}"


class Wake:
    """This process's socket, and the way to the others'. Used by the engine's thread."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._directory = wake_directory(database)
        self._path = self._directory / f"{os.getpid()}-{secrets.token_hex(4)}"
        self._socket = _make_socket()
        self.is_listening = False
        self._others: list[str] = []
        self._others_at_ns = 0

    def tend(self, selector: selectors.BaseSelector, *, is_wanted: bool) -> None:
        """Start to receive where it `is_wanted`, and again where somebody removed the socket.

        Raises:
            OSError: It can't now; another call may.
        """
        if self.is_listening and not os.path.lexists(self._path):
            selector.unregister(self._socket)
            self.is_listening = False
            self._socket.close()
            self._socket = _make_socket()
        if is_wanted and not self.is_listening:
            make_directory(self._directory, self._database)
            self._socket.bind(str(self._path))
            follow(self._path, self._database)
            self.is_listening = True
            selector.register(self._socket, selectors.EVENT_READ)

    def read(self) -> tuple[set[int], bool]:
        """Return the ids of partitions that grew, and whether any partition may have."""
        grown: set[int] = set()
        is_any = False
        while True:
            try:
                datagram = self._socket.recv(8 * _MAX_PARTITIONS)
            except BlockingIOError:
                return grown, is_any
            ids = array("q")
            ids.frombytes(datagram[: len(datagram) // 8 * 8])
            grown.update(ids)
            is_any = is_any or not ids

    def notify(self, partition_ids: Iterable[int]) -> None:
        """Tell all other listeners that these partitions grew."""
        ids = array("q", partition_ids)
        datagram = ids.tobytes() if len(ids) <= _MAX_PARTITIONS else b""
        for path in self._find_others():
            self._send(path, datagram)

    def _find_others(self) -> Sequence[str]:
        """Return the paths of the other listeners' sockets; listed again when the directory has changed."""
        try:
            changed_ns = os.stat(self._directory).st_mtime_ns
        except FileNotFoundError:
            return ()
        if changed_ns != self._others_at_ns or time.time_ns() - changed_ns < _MTIME_STEP_NS:
            self._others_at_ns = changed_ns
            self._others = [
                os.path.join(self._directory, name) for name in os.listdir(self._directory) if name != self._path.name
            ]
        return self._others

    def _send(self, path: str, datagram: bytes) -> None:
        try:
            self._socket.sendto(datagram, path)
        except BlockingIOError:
            return  # its buffer is full: it has wake-ups enough
        except ConnectionRefusedError:
            with suppress(FileNotFoundError):
                os.unlink(path)  # its process is gone
        except OSError as error:
            logger.debug("no wake-up through %s: %s", path, error)

    def close(self) -> None:
        self._socket.close()
        if self.is_listening:
            self._path.unlink(missing_ok=True)

    def drop(self) -> None:
        """Close the descriptor and nothing else: the socket is another process's."""
        self._socket.close()


def _make_socket() -> socket.socket:
    with forks.held_off():
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.setblocking(False)
    return made
