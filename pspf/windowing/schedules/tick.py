"""A tick of a schedule, as its function gets it."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Tick:
    """A time that a schedule names, and that has come.

    `at_ms` is that time, not when the function runs: milliseconds since the epoch. `previous_at_ms` is that of the tick
    that ran before, None for the first one. `attempt` counts the runs of this tick, this one included. `tz` is the time
    zone of the schedule.
    """

    schedule: str
    at_ms: int
    previous_at_ms: int | None = None
    attempt: int = 1
    tz: tzinfo = UTC

    @property
    def at(self) -> datetime:
        """`at_ms` as a datetime, in the schedule's time zone."""
        return _as_datetime(self.at_ms).astimezone(self.tz)

    @property
    def previous_at(self) -> datetime | None:
        """`previous_at_ms` as a datetime, in the schedule's time zone."""
        return None if self.previous_at_ms is None else _as_datetime(self.previous_at_ms).astimezone(self.tz)

    @property
    def id(self) -> str:
        """A text that is the same at each run of this tick, and of no other one."""
        return f"{self.schedule}@{format_utc(self.at_ms)}"


def _as_datetime(at_ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=at_ms)


def format_utc(at_ms: int) -> str:
    """Return a time as ISO text, UTC, with milliseconds where there are some."""
    return _as_datetime(at_ms).isoformat(timespec="milliseconds" if at_ms % 1_000 else "seconds")[:-6] + "Z"
