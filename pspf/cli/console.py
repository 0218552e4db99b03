"""Output of commands: data to stdout, messages to stderr; tables by rich on a terminal, aligned text elsewhere."""

import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from pspf.settings import hide_passwords

_HIGH: Final = r"\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_CONTROL: Final = re.compile(rf"[\x00-\x1f{_HIGH}]")
_CONTROL_IN_TEXT: Final = re.compile(rf"[\x00-\x08\x0b-\x1f{_HIGH}]")

Cell = str | int | float | None


class ClosedPipe(Exception):
    """Nobody reads our output any more: no error, the reader has what it wants (`| head -1`)."""


def write(text: str) -> None:
    """Write a line of data to stdout, or several; what could drive a terminal is escaped.

    Raises:
        ClosedPipe: The reader is gone.
    """
    try:
        sys.stdout.write(_CONTROL_IN_TEXT.sub(_escape, text) + "\n")
    except BrokenPipeError:
        raise ClosedPipe from None


def flush() -> None:
    """Hand over what `write` took, so that a reader of a live command sees it now.

    Raises:
        ClosedPipe: The reader is gone.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise ClosedPipe from None


def say(text: str) -> None:
    """Write a line of talk to stderr, or several; a reader that is gone or a full disk is no failure of the command."""
    try:
        sys.stderr.write(_CONTROL_IN_TEXT.sub(_escape, hide_passwords(text)) + "\n")
        sys.stderr.flush()
    except OSError:
        return  # the rest of the buffer follows with the next line


def write_json(value: Any) -> None:
    """Write one JSON document, indented for people on a terminal and compact for programs."""
    write(json.dumps(value, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None))


def write_json_line(value: Any) -> None:
    """Write one JSON object as one line."""
    write(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def visible(text: str) -> str:
    """Return `text` with control characters as escapes, so that a stored event can't drive the terminal."""
    return _CONTROL.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    """Return a character as an escape, behind ASCII as JSON has it: a value that is JSON stays it."""
    character = match[0]
    return f"\\u{ord(character):04x}" if character >= "\x7f" else character.encode("unicode_escape").decode()


def shorten(text: str, length: int) -> str:
    """Return `text` cut to `length` characters, with an ellipsis where something is missing."""
    return text if len(text) <= length else text[: length - 1] + "…"


def format_time(time_ms: int | None) -> str:
    """Return a UTC time to the millisecond, `-` where there is none."""
    if time_ms is None:
        return "-"
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):  # a record may carry any number as its time
        return f"{time_ms} ms"


def format_span(span_ms: int | None) -> str:
    """Return a span for people: `812 ms`, `3.2 s`, `5 min`, `2.0 h`, `7 d`."""
    if span_ms is None:
        return "-"
    for limit_ms, unit_ms, name, digits in (
        (1_000, 1, "ms", 0),
        (120_000, 1_000, "s", 1),
        (7_200_000, 60_000, "min", 0),
        (172_800_000, 3_600_000, "h", 1),
    ):
        if span_ms < limit_ms:
            return f"{span_ms / unit_ms:.{digits}f} {name}"
    return f"{span_ms / 86_400_000:.0f} d"


def format_size(size_bytes: int | None) -> str:
    """Return a size for people: `812 B`, `3.2 MB`; decimal units."""
    if size_bytes is None:
        return "-"
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1_000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1_000
    return f"{size:,.1f} TB"


def count_of(count: int, noun: str) -> str:
    """Return a count with its noun: `1 record`, `2,000 records`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def write_table(headers: Sequence[str], rows: Iterable[Sequence[Cell]], *, empty: str = "nothing there") -> None:
    """Write a table; numbers are set right. With no rows `empty` goes to stderr and stdout stays empty."""
    cells = [["-" if cell is None else cell for cell in row] for row in rows]
    if not cells:
        say(empty)
        return
    numeric = [all(isinstance(row[i], int | float) or row[i] == "-" for row in cells) for i in range(len(headers))]
    text = [[visible(str(cell)) for cell in row] for row in cells]
    if sys.stdout.isatty():
        _write_rich_table(headers, text, numeric)
        return
    widths = [max(len(header), *(len(row[i]) for row in text)) for i, header in enumerate(headers)]
    for row in [[header.upper() for header in headers], *text]:
        padded = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        write("  ".join(padded).rstrip())


def _write_rich_table(headers: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for header, right in zip(headers, numeric, strict=True):
        table.add_column(header, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    try:
        Console().print(table)
    except BrokenPipeError:
        raise ClosedPipe from None
