"""Times of schedules: multiples of an interval, and those of a cron expression in a time zone."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final, Protocol
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from pspf.errors import ConfigurationError
from pspf.events.durations import describe_ms

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND: Final = timedelta(seconds=1)
_DAY_MS: Final = 86_400_000
_LOOK_BACK_MS: Final = (60_000, 3_600_000, _DAY_MS, 7 * _DAY_MS, 32 * _DAY_MS, 367 * _DAY_MS, 20_000 * _DAY_MS)
"""How far back the latest time is looked for, the shortest first: few times of an expression lie within each."""
SHORTEST_MS: Final = 10


class ScheduleTimes(Protocol):
    """The times at which a schedule ticks, as milliseconds since the epoch."""

    @property
    def tz(self) -> tzinfo:
        """The time zone that they are read in."""
        ...

    @property
    def set_back_ms(self) -> int:
        """How far a clock may be set back until it is taken to have been wrong, and times come again."""
        ...

    def after(self, at_ms: int) -> int:
        """Return the first time behind `at_ms`."""
        ...

    def latest(self, at_ms: int) -> int:
        """Return the last time that is not behind `at_ms`."""
        ...


@dataclass(frozen=True, slots=True)
class Every:
    """The multiples of an interval, counted from 1970-01-01 00:00 UTC: the same for whoever counts."""

    interval_ms: int

    def __str__(self) -> str:
        return f"every {describe_ms(self.interval_ms)}"

    @property
    def tz(self) -> tzinfo:
        return UTC

    @property
    def set_back_ms(self) -> int:
        return max(self.interval_ms, 60_000)

    def after(self, at_ms: int) -> int:
        return self.latest(at_ms) + self.interval_ms

    def latest(self, at_ms: int) -> int:
        return at_ms - at_ms % self.interval_ms


@dataclass(frozen=True, slots=True)
class Cron:
    """The times of a cron expression of five fields, or six with seconds first, as Debian's cron has them.

    Around a change of the clocks: an hour that is `*` ticks by what has passed, each hour once. A time of day that does
    not exist is taken at the first minute that does; one that is there twice is taken the first time.
    """

    expression: str
    zone: str = "UTC"
    tz: tzinfo = field(default=UTC)
    set_back_ms: int = 3 * 3_600_000  # as Debian's cron has it

    def __str__(self) -> str:
        return f"cron {self.expression}" + ("" if self.zone == "UTC" else f" {self.zone}")

    def after(self, at_ms: int) -> int:
        # A time of day that is there twice is found again in its second hour: those that have passed are left out.
        begin = (_EPOCH + at_ms // 1_000 * _SECOND).astimezone(self.tz)
        for found in CronSim(self.expression, begin):
            found_ms = (found.astimezone(UTC) - _EPOCH) // _SECOND * 1_000
            if found_ms > at_ms:
                return found_ms
        raise CronSimError(f"{self.expression} names no time")

    def latest(self, at_ms: int) -> int:
        for back_ms in _LOOK_BACK_MS:
            latest_ms, next_ms = None, self.after(at_ms - back_ms)
            while next_ms <= at_ms:
                latest_ms, next_ms = next_ms, self.after(next_ms)
            if latest_ms is not None:
                return latest_ms
        raise CronSimError(f"{self.expression} has named no time for {_LOOK_BACK_MS[-1] // _DAY_MS} days")


def make_every(where: str, interval_ms: int) -> Every:
    """Return the multiples of an interval.

    Raises:
        ConfigurationError: It is too short.
    """
    if interval_ms < SHORTEST_MS:
        raise ConfigurationError(f"{where}: an interval of {interval_ms} ms; {SHORTEST_MS} ms is the shortest")
    return Every(interval_ms)


def make_cron(where: str, expression: object, zone: object) -> Cron:
    """Return the times of an expression in a time zone, by its IANA name.

    Raises:
        ConfigurationError: The expression is none or names no time, or there is no such time zone.
    """
    if not isinstance(expression, str):
        raise ConfigurationError(f'{where}: cron takes an expression, not {expression!r:.80}: cron("0 6 * * *")')
    if not isinstance(zone, str):
        raise ConfigurationError(f'{where}: tz={zone!r:.80}; give the name of a time zone, such as "Europe/Berlin"')
    text = " ".join(expression.split())
    try:
        cron = Cron(text, zone, UTC if zone == "UTC" else ZoneInfo(zone))
        cron.after(0)
    except (CronSimError, StopIteration) as error:
        raise ConfigurationError(
            f"{where}: cron {expression!r:.80}: {str(error) or 'it names no time'}; five fields are minute hour day"
            ' month weekday, such as "0 6 * * MON-FRI"; a sixth in front is seconds'
        ) from error
    except (OSError, ValueError, KeyError) as error:  # ZoneInfoNotFoundError is a KeyError
        raise ConfigurationError(
            f"{where}: tz={zone!r:.80}: there is no such time zone here; names are as Europe/Berlin (the system's"
            " tzdata, or the package tzdata, has them)"
        ) from error
    return cron
