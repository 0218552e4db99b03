"""Wakes other processes of one database: a datagram per commit that appended, to all who listen.

A datagram that is lost costs time, not data: listeners look for themselves every half second.
"""

import hashlib
import logging
import os
import secrets
import socket
import tempfile
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Final

logger = logging.getLogger(__name__)

_MAX_SOCKET_PATH: Final = 100
_MAX_PARTITIONS: Final = 100


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
        self._directory = wake_directory(database)
        self._path = self._directory / f"{os.getpid()}-{secrets.token_hex(4)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._is_listening = False

    def listen(self) -> None:
        """Start to receive. Before this only `notify` works."""
        if not self._is_listening:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._socket.bind(str(self._path))
            self._is_listening = True

    def fileno(self) -> int:
        return self._socket.fileno()

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
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return
        for name in names:
            if name != self._path.name:
                self._send(self._directory / name, datagram)

    def _send(self, path: Path, datagram: bytes) -> None:
        try:
            self._socket.sendto(datagram, str(path))
        except BlockingIOError:
            return  # its buffer is full: it has wake-ups enough
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)  # its process is gone
        except OSError as error:
            logger.debug("no wake-up through %s: %s", path.name, error)

    def close(self) -> None:
        self._socket.close()
        if self._is_listening:
            self._path.unlink(missing_ok=True)
