"""Waits between tries of something that fails."""

import random
import time
from typing import Final

CALM_MS: Final = 10_000
"""A failure that comes so long after the wait for the last one is a first one again."""


def backoff_ms(failures: int, initial_ms: int = 100, max_ms: int = 5_000) -> int:
    """Return how long to wait after so many failures: `initial_ms` doubled for each, spread by a fifth."""
    wait_ms = min(max_ms, initial_ms << min(max(0, failures - 1), 20))
    return round(wait_ms * random.uniform(0.8, 1.2))


class Backoff:
    """Waits that double from `initial_ms` to `max_ms`, until something works again, or works for a while.

    A loop whose tries succeed and fail in turn calls no `reset`: its waits begin anew once it was calm.
    """

    def __init__(self, initial_ms: int = 100, max_ms: int = 5_000) -> None:
        self._initial_ms = initial_ms
        self._max_ms = max_ms
        self._failures = 0
        self._calm_at_s = 0.0

    @property
    def is_first(self) -> bool:
        """Whether nothing has failed since the last success."""
        return self._failures == 0 or time.monotonic() >= self._calm_at_s

    def next_ms(self) -> int:
        """Return how long to wait now."""
        if self.is_first:
            self._failures = 0
        self._failures += 1
        wait_ms = backoff_ms(self._failures, self._initial_ms, self._max_ms)
        self._calm_at_s = time.monotonic() + (wait_ms + CALM_MS) / 1000
        return wait_ms

    def next_after_first_ms(self) -> int:
        """Return how long to wait now where the first failure needs no wait: something is made again at once, once."""
        is_first = self.is_first
        wait_ms = self.next_ms()
        return 0 if is_first else wait_ms

    def reset(self) -> None:
        """Begin anew."""
        self._failures = 0


class Sparing:
    """Lets one thing be said in `every_s` seconds, of all that share it: what fails once fails in many places.

    Who may not say it asks again when it fails again, so that what has a reason of its own is said, too.
    """

    def __init__(self, every_s: float = 10.0) -> None:
        self._every_s = every_s
        self._next_at_s = 0.0

    def may_say(self) -> bool:
        """Return whether to say it now."""
        now_s = time.monotonic()
        if now_s < self._next_at_s:
            return False
        self._next_at_s = now_s + self._every_s
        return True
