"""Time, as the rest of PSPF sees it: integer milliseconds, and replaceable in tests."""

import time
from typing import Protocol


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

    def advance(self, by_ms: int) -> None:
        """Move both readings `by_ms` milliseconds on."""
        self._now_ms += by_ms
        self._monotonic_ms += by_ms

    def set_wall(self, now_ms: int) -> None:
        """Set the wall clock, as an administrator does; the monotonic one goes on."""
        self._now_ms = now_ms
