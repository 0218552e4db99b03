"""A schedule: the times of its ticks, and what becomes of those that were missed."""

from dataclasses import dataclass
from datetime import tzinfo
from typing import Any, Final, Literal, NamedTuple, get_args

from pspf.errors import ConfigurationError
from pspf.windowing.schedules.times import Cron, Every

CatchUp = Literal["all", "last", "none"]
_CHOICES: Final = get_args(CatchUp)
_LATE_MS: Final = 60_000
"""How long after its time a tick is missed."""


class Choice(NamedTuple):
    """What a schedule does when a tick is due: the one to run, None: none; and when the next one is due."""

    run_ms: int | None
    next_ms: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """The times of ticks. `catch_up`: of those that were missed all run, or the last one, or none."""

    times: Every | Cron
    catch_up: CatchUp

    def __str__(self) -> str:
        return str(self.times)

    @property
    def tz(self) -> tzinfo:
        """The time zone of its times."""
        return self.times.tz

    def choose(self, at_ms: int, now_ms: int) -> Choice:
        """Return what to do at `now_ms` about the tick of `at_ms`, the earliest that has not been looked at."""
        next_ms = self.times.after(at_ms)
        if self.catch_up == "all":
            return Choice(at_ms, next_ms)
        if next_ms <= now_ms:
            at_ms = self.times.latest(now_ms)
            next_ms = self.times.after(at_ms)
        if self.catch_up == "none" and now_ms - at_ms > _LATE_MS:
            return Choice(None, next_ms)
        return Choice(at_ms, next_ms)

    def correct(self, next_ms: int, last_ms: int | None, now_ms: int) -> int:
        """Return when the next tick is due by a clock that may have been set back since `next_ms` was worked out.

        A tick that ran does not run again, unless the clock was set back by more than the times' `set_back_ms`: then it
        was wrong before. `last_ms` is the time of the last one that ran.
        """
        if next_ms <= now_ms:
            return next_ms
        first_ms = self.times.after(now_ms)
        if last_ms is None or first_ms > last_ms or last_ms - now_ms > self.times.set_back_ms:
            return first_ms
        return next_ms

    def as_json(self, now_ms: int) -> dict[str, Any]:
        """Return what `pspf show --json` has for it; `next_ms` is its next time behind `now_ms`."""
        times = self.times
        kind = {"every_ms": times.interval_ms} if isinstance(times, Every) else {"cron": times.expression}
        return {**kind, "tz": str(times.tz), "catch_up": self.catch_up, "next_ms": times.after(now_ms)}


def ticks_topic(group: str) -> str:
    """Return the topic that the schedules of a group have their cursors on."""
    return f"{group}.ticks"


def make_schedule(where: str, times: Every | Cron, catch_up: Any) -> Schedule:
    """Return a schedule.

    Raises:
        ConfigurationError: `catch_up` is none of its values.
    """
    if catch_up not in _CHOICES:
        raise ConfigurationError(f"{where}: catch_up={catch_up!r:.80}; use {', '.join(map(repr, _CHOICES))}")
    return Schedule(times, catch_up)
