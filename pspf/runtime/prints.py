"""What the app prints: shown at once, and no reason for a record to fail when nobody reads it any more."""

import errno
import io
import logging
import sys
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

logger = logging.getLogger(__name__)

_GONE: Final = (errno.EPIPE, errno.EIO)
"""Whoever read a pipe has ended; a terminal has hung up."""


class _Lasting(io.FileIO):
    """Standard output or error, which takes what is written also when nobody reads it, and drops it then."""

    def __init__(self, descriptor: int, *, tells: bool) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self._tells = tells
        self._is_gone = False

    def write(self, chunk: "ReadableBuffer", /) -> int:
        if not self._is_gone:
            try:
                return super().write(chunk)
            except OSError as error:
                if error.errno not in _GONE:
                    raise
            self._is_gone = True
            if self._tells:
                logger.warning("nobody reads standard output any more: what is printed is dropped from now on")
        return memoryview(chunk).nbytes


def show_prints() -> None:
    """Have a print of the app's show at once, also through a pipe, and never twice after a fork.

    Where its reader has gone it is dropped: the handler that prints did its work all the same.
    """
    sys.stdout = _wrap(sys.stdout, tells=True)
    sys.stderr = _wrap(sys.stderr, tells=False)  # nobody would read it


def _wrap(stream: TextIO, *, tells: bool) -> TextIO:
    if stream not in (sys.__stdout__, sys.__stderr__):  # somebody else's, or wrapped before
        return stream
    stream.flush()
    raw = io.BufferedWriter(_Lasting(stream.fileno(), tells=tells))
    return io.TextIOWrapper(raw, encoding=stream.encoding, errors=stream.errors, line_buffering=True)
