"""Standard output of a worker: unbuffered, and dropped where its reader is gone, so that no handler fails or waits."""

import errno
import io
import os
import select
import stat
import sys
import time
from typing import TYPE_CHECKING, Final, TextIO

from pspf.loggers import get_logger

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

logger = get_logger(__name__)

_GONE: Final = (errno.EPIPE, errno.EIO)
"""The reader of a pipe has ended, or a terminal has hung up."""
_AT_ONCE_BYTES: Final = select.PIPE_BUF
"""A write of this size into a pipe that has room does not wait."""


class _Lasting(io.FileIO):
    """Standard output or error that drops text where its reader is gone.

    A reader that takes nothing is waited for, for `patience_s` at most; then text is dropped until it reads again,
    and a line says how much it has missed.
    """

    patience_s = 10.0
    """How long a write waits for its reader: shorter than a silent event loop is allowed to be."""

    def __init__(self, descriptor: int, *, tells: bool) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self._tells = tells
        self._is_gone = False
        self._dropped = 0
        self._pipe: tuple[os.stat_result, int] | None = None

    def write(self, chunk: "ReadableBuffer", /) -> int:
        rest = memoryview(chunk).cast("B")
        size_bytes = rest.nbytes
        if not self._is_gone:
            try:
                self._write_or_drop(rest)
            except OSError as error:  # a full disk may have room again
                self._is_gone = error.errno in _GONE
                self._tell(
                    "nobody reads standard output any more: what is printed is dropped from now on"
                    if self._is_gone
                    else f"standard output can't be written to ({error.strerror}): what is printed is dropped meanwhile"
                )
        return size_bytes

    def _tell(self, text: str) -> None:
        if self._tells:
            self._tells = False
            logger.warning("%s", text)

    def _write_or_drop(self, rest: memoryview) -> None:
        descriptor = self._open_apart()
        until_s = time.monotonic() + (0 if self._dropped else self.patience_s)
        room = select.poll()
        room.register(descriptor, select.POLLOUT)
        while rest:
            if not room.poll(max(0, until_s - time.monotonic()) * 1000):
                self._dropped += rest.nbytes
                return
            if self._dropped:
                note = f"\n... {self._dropped} bytes were dropped here: nobody read them\n"
                self._dropped = 0
                until_s = time.monotonic() + self.patience_s
                rest = memoryview(note.encode() + bytes(rest))
            try:
                rest = rest[os.write(descriptor, rest[:_AT_ONCE_BYTES]) :]
            except BlockingIOError:  # another process was faster
                continue

    def _open_apart(self) -> int:
        """Return a descriptor that never waits: of a pipe one of our own, as others share the flags of ours."""
        own = os.fstat(self.fileno())
        if not stat.S_ISFIFO(own.st_mode):
            return self.fileno()
        if self._pipe is None or not os.path.samestat(self._pipe[0], own):  # none yet, or replaced
            if self._pipe is not None and self._pipe[1] != self.fileno():
                os.close(self._pipe[1])
            try:
                apart = os.open(f"/proc/self/fd/{self.fileno()}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:  # no such folder, or another user's pipe
                apart = self.fileno()
            self._pipe = own, apart
        return self._pipe[1]


_shown: Final[dict[int, TextIO]] = {}
"""What `show_prints` has put in the place of standard output and error, by descriptor."""


def show_prints(*, patience_s: float) -> None:
    """Make prints of the app visible at once, also through a pipe, and never twice after a fork.

    Where its reader has gone, or the disk is full, it is dropped: the handler that prints did its work all the
    same. One that does not read is waited for, for `patience_s` in this process.
    """
    _Lasting.patience_s = patience_s
    sys.stdout = _shown[1] = _wrap(sys.stdout, tells=True)
    sys.stderr = _shown[2] = _wrap(sys.stderr, tells=False)  # it would have no reader


def take_back() -> None:
    """Put standard output and error back where an app has replaced or closed them, for the worker's last lines."""
    sys.stdout, sys.stderr = (_open_again(number) for number in (1, 2))


def _open_again(number: int) -> TextIO:
    """Return what `show_prints` has put for standard output or error, or the like of it where that was closed."""
    shown = _shown.get(number)
    if shown is None or shown.closed:
        try:
            raw = io.BufferedWriter(_Lasting(number, tells=False))
        except OSError:  # the descriptor was closed, too
            return open(os.devnull, "w")
        shown = io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True)
    return shown


def _wrap(stream: TextIO, *, tells: bool) -> TextIO:
    if stream not in (sys.__stdout__, sys.__stderr__):  # replaced by the app, or wrapped before
        return stream
    stream.flush()
    raw = io.BufferedWriter(_Lasting(stream.fileno(), tells=tells))
    return io.TextIOWrapper(raw, encoding=stream.encoding, errors=stream.errors, line_buffering=True)
