"""A timer that is due, as its function gets it."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Generic

from typing_extensions import TypeVar

P = TypeVar("P", default=Any)
"""The type of the payload; a Timer without one has what JSON has."""


@dataclass(frozen=True, slots=True)
class Timer(Generic[P]):
    """A timer that is due. `Timer[Reminder]` reads the payload as a Reminder; without a type it is as JSON has it.

    `at_ms` is when it was to be due: event time, or the broker's clock where it was set with `after_ms`; milliseconds
    since the epoch. `attempt` counts its runs, this one included.
    """

    name: str
    key: str
    payload: P
    at_ms: int
    is_event_time: bool
    attempt: int = 1

    @property
    def at(self) -> datetime:
        """`at_ms` as a datetime, UTC."""
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=self.at_ms)
