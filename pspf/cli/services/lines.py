"""Lines of a file or a pipe, in groups of those that are available, so that a slow producer is not delayed."""

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

CHUNK_BYTES: Final = 1 << 20
MAX_LINE_BYTES: Final = 16 << 20
_BOM: Final = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """One line without its end; `text` is None where it was longer than any event may be."""

    number: int
    text: bytes | None


class LineSplitter:
    """Makes lines of chunks. Blank lines are passed over but counted."""

    def __init__(self) -> None:
        self._rest = b""
        self._number = 0
        self._skipping = False

    def feed(self, chunk: bytes) -> list[Line]:
        """Return the lines that `chunk` completes."""
        *complete, self._rest = (self._rest + chunk).split(b"\n")
        lines = [line for raw in complete if (line := self._take(raw)) is not None]
        if len(self._rest) > MAX_LINE_BYTES:
            self._rest, self._skipping = b"", True
        return lines

    def finish(self) -> list[Line]:
        """Return the last line, where it has no end."""
        line = self._take(self._rest) if self._rest or self._skipping else None
        self._rest = b""
        return [] if line is None else [line]

    def _take(self, raw: bytes) -> Line | None:
        self._number += 1
        if self._skipping:
            self._skipping = False
            return Line(self._number, None)
        if self._number == 1:
            raw = raw.removeprefix(_BOM)
        raw = raw.strip(b" \t\r")
        return Line(self._number, raw) if raw else None


def read_lines(read: Callable[[int], bytes], *, at_most: int) -> Iterator[list[Line]]:
    """Yield groups of 1 to `at_most` lines of what `read(size)` gives, until it gives nothing."""
    splitter = LineSplitter()
    while chunk := read(CHUNK_BYTES):
        yield from _groups(splitter.feed(chunk), at_most)
    yield from _groups(splitter.finish(), at_most)


def _groups(lines: list[Line], at_most: int) -> Iterator[list[Line]]:
    for start in range(0, len(lines), at_most):
        yield lines[start : start + at_most]
