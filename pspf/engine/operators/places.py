"""Places of records: where in its operator a record belongs, or why it is not aggregated."""

from dataclasses import dataclass
from typing import Any

from pspf.records import Record
from pspf.windowing.event_time import Key

Item = tuple[Record, Any, Key, Any, int]
"""A record that is about to be folded: its event, key, where it belongs, and the watermark at its position."""


class Aside:
    """Where a record belongs that is not aggregated."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Broken(Aside):
    """Where a record belongs that can't be read, with the reason."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class TooLate(Aside):
    """Where a record belongs whose windows are all closed: the last of them, and by how much it missed it."""

    start_ms: int
    end_ms: int
    by_ms: int


@dataclass(frozen=True, slots=True)
class Mark(Aside):
    """Where a record belongs that is in no window: in a gap between them, or one that tells the time of a source."""
