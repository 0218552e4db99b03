"""Ticker of a schedule: the timer of its next tick, and those of ticks that are to run, in the table of its cursor."""

from typing import Final

import orjson

from pspf.clock import Clock
from pspf.records import state_key
from pspf.windowing.schedules.schedule import Schedule
from pspf.windowing.schedules.tick import format_utc
from pspf.windowing.timers.rows import CLOCK, TimerRow, due_of, place_of
from pspf.windowing.timers.table import TimerTable

NEXT: Final = "next"
"""The name of the timer that stands for the next tick."""


class Ticker:
    """Makes the ticks of one schedule.

    no timer ──begin──> `next` waits ──due──> `next` waits for the tick after it, and `tick TIME` is due at once

    `next` calls nobody. `tick TIME` is a timer as others are: it is retried beside the ticks that come after it.
    """

    def __init__(self, schedule: Schedule, handler: str, table: TimerTable, clock: Clock) -> None:
        self.place: Final = state_key(handler.encode(), NEXT)
        """The place of the timer of the next tick."""
        self._schedule = schedule
        self._key = handler.encode()
        self._table = table
        self._clock = clock
        self._begun_ms = 0
        self._seen_ms = 0

    @property
    def is_to_look(self) -> bool:
        """Whether `look` is to be called: at the start, and when the clock has gone back."""
        return self._clock.now_ms() < self._seen_ms or not self._begun_ms

    @property
    def has_more(self) -> bool:
        """Whether there is more to run, but for ticks that became due since this worker has begun."""
        due = self._table.queues[CLOCK].first(self._clock.now_ms(), 2)
        return any(place_of(index) != self.place or due_of(index) <= self._begun_ms for index in due)

    def look(self, row: TimerRow | None) -> None:
        """Let the next tick be the one that it is by the schedule as it is now, and by the clock."""
        now_ms = self._seen_ms = self._clock.now_ms()
        self._begun_ms = self._begun_ms or now_ms
        stored = {} if row is None else orjson.loads(row.payload)
        last_ms = stored.get("last_ms")
        if row is None or stored.get("schedule") != str(self._schedule):
            self._put_next(self._schedule.times.after(now_ms), last_ms)
        elif (next_ms := self._schedule.correct(row.due_ms, last_ms, now_ms)) != row.due_ms:
            self._put_next(next_ms, last_ms)

    def tick(self, row: TimerRow) -> None:
        """Take the tick that is due: set the timer by which it runs, and that of the next one."""
        now_ms = self._seen_ms = self._clock.now_ms()
        last_ms = orjson.loads(row.payload).get("last_ms")
        run_ms, next_ms = self._schedule.choose(row.at_ms, now_ms)
        if run_ms is not None:
            payload = orjson.dumps({"at_ms": run_ms, "previous_at_ms": last_ms})
            place = state_key(self._key, tick_name(run_ms))
            self._table.put(place, TimerRow(run_ms, False, run_ms, CLOCK, payload))
            last_ms = run_ms
        self._put_next(next_ms, last_ms)

    def _put_next(self, at_ms: int, last_ms: int | None) -> None:
        payload = orjson.dumps({"schedule": str(self._schedule), "last_ms": last_ms})
        self._table.put(self.place, TimerRow(at_ms, False, at_ms, CLOCK, payload))


def tick_name(at_ms: int) -> str:
    """Return the name of the timer of a tick."""
    return f"tick {format_utc(at_ms)}"
