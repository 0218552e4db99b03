"""Clocks: time as integer milliseconds, replaceable in tests."""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from pspf.errors import ConfigurationError


class ScheduledCall(Protocol):
    """A call that is to come."""

    def cancel(self) -> object:
        """Let it not come."""
        ...


class Clock(Protocol):
    """Two readings: the wall clock for what is stored, the monotonic one for waiting."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch, UTC."""
        ...

    def monotonic_ms(self) -> int:
        """Milliseconds since some moment; never goes back."""
        ...

    def call_later(self, delay_ms: int, callback: Callable[[], object]) -> ScheduledCall:
        """Call `callback` in this event loop when so many milliseconds have passed."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000

    def call_later(self, delay_ms: int, callback: Callable[[], object]) -> ScheduledCall:
        return asyncio.get_running_loop().call_later(delay_ms / 1000, callback)


class _ManualTimer:
    """A call of a manual clock; it comes when the clock is moved to its time."""

    def __init__(self, due_ms: int, callback: Callable[[], object], timers: "set[_ManualTimer]") -> None:
        self.due_ms = due_ms
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._timers = timers
        timers.add(self)

    def cancel(self) -> None:
        self._timers.discard(self)

    def fire(self) -> None:
        self.cancel()
        self._loop.call_soon_threadsafe(self._callback)


class ManualClock:
    """A clock that moves only by `advance`."""

    def __init__(self, start_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = start_ms
        self._monotonic_ms = start_ms
        self._timers: set[_ManualTimer] = set()

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic_ms(self) -> int:
        return self._monotonic_ms

    def call_later(self, delay_ms: int, callback: Callable[[], object]) -> ScheduledCall:
        timer = _ManualTimer(self._monotonic_ms + delay_ms, callback, self._timers)
        if delay_ms <= 0:
            timer.fire()
        return timer

    def advance(self, by_ms: float) -> None:
        """Move both readings `by_ms` milliseconds on, a whole number of them.

        Raises:
            ConfigurationError: It is no duration, or would go back.
        """
        given: object = by_ms
        whole = int(given) if isinstance(given, float) and given.is_integer() else given
        if type(whole) is not int or whole < 0:
            raise ConfigurationError(f"a clock goes on by whole milliseconds, 0 or more, not by {by_ms!r:.80}")
        self._now_ms += whole
        self._monotonic_ms += whole
        for timer in [timer for timer in self._timers if timer.due_ms <= self._monotonic_ms]:
            timer.fire()

    def set_wall(self, now_ms: int) -> None:
        """Set the wall clock, as an administrator does; the monotonic one goes on."""
        self._now_ms = now_ms
