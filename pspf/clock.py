"""Time, as the rest of PSPF sees it: integer milliseconds, and replaceable in tests."""

import time
from typing import Protocol

from pspf.errors import ConfigurationError


class Clock(Protocol):
    """Two readings: the wall clock for what is stored, the monotonic one for waiting."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch, UTC."""
        ...

    def monotonic_ms(self) -> int:
        """Milliseconds since some moment; never goes back."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000


class ManualClock:
    """A clock that moves only when told to."""

    def __init__(self, start_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = start_ms
        self._monotonic_ms = start_ms

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic_ms(self) -> int:
        return self._monotonic_ms

    def advance(self, by_ms: float) -> None:
        """Move both readings `by_ms` milliseconds on, a whole number of them.

        Raises:
            ConfigurationError: It is none, or would go back.
        """
        given: object = by_ms
        whole = int(given) if isinstance(given, float) and given.is_integer() else given
        if type(whole) is not int or whole < 0:
            raise ConfigurationError(f"a clock goes on by whole milliseconds, 0 or more, not by {by_ms!r:.80}")
        self._now_ms += whole
        self._monotonic_ms += whole

    def set_wall(self, now_ms: int) -> None:
        """Set the wall clock, as an administrator does; the monotonic one goes on."""
        self._now_ms = now_ms
