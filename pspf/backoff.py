"""Backoff: waits between tries of something that fails."""

import asyncio
import random
import time
from collections.abc import Callable
from typing import Final, Protocol

_SPACING_S: Final = 0.5
"""Between two tries of one process while its broker is away: a try is up to five commands on a server."""
_WAKE_MS: Final = 2_000
_WAKE_MAX_MS: Final = 60_000
CALM_MS: Final = 10_000
"""A failure that comes so long after the wait for the last one is a first one again."""


def backoff_ms(failures: int, initial_ms: int = 100, max_ms: int = 5_000) -> int:
    """Return how long to wait after so many failures: `initial_ms` doubled for each, spread by a fifth."""
    wait_ms = min(max_ms, initial_ms << min(max(0, failures - 1), 20))
    return round(wait_ms * random.uniform(0.8, 1.2))


class Backoff:
    """Waits that double from `initial_ms` to `max_ms`, until something works again, or works for a while.

    A loop whose tries succeed and fail in turn calls no `reset`: its waits begin again after a calm time.
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
        """Start again with the shortest wait."""
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


class Ends(Protocol):
    """What may end a wait, as `Stop` does."""

    def add(self, callback: Callable[[], None]) -> None:
        """Have it called then, or at once."""

    def remove(self, callback: Callable[[], None]) -> None:
        """Have it called no more."""


class Outage:
    """What the loops of a process share while their broker is away: when each of them tries again, and who says so.

    What fails once fails in many loops. Each waits for its own backoff, then for a turn: turns of all of them are
    `spacing_s` apart, however many they are. Once something works all try at once; where that comes again and again,
    seldomer each time.
    """

    def __init__(self, spacing_s: float = _SPACING_S) -> None:
        self._saying = Sparing()
        self._spacing_s = spacing_s
        self._next_turn_s = 0.0
        self._wakes = Backoff(_WAKE_MS, _WAKE_MAX_MS)
        self._next_wake_s = 0.0
        self._waiting: set[_Waiter] = set()

    def may_say(self) -> bool:
        """Return whether to say now that something fails: one line in 10 s of all loops."""
        return self._saying.may_say()

    async def wait(self, wait_ms: float, ends: Ends | None = None) -> None:
        """Wait to try again what failed: `wait_ms`, then for a turn; less where something works, or `ends` comes."""
        waiting = _Waiter()
        if ends is not None:
            ends.add(waiting.end)
        self._waiting.add(waiting)
        try:
            if await waiting.lasts(wait_ms / 1000):
                now_s = time.monotonic()
                turn_s = max(now_s, self._next_turn_s)
                self._next_turn_s = turn_s + self._spacing_s
                await waiting.lasts(turn_s - now_s)
        finally:
            self._waiting.discard(waiting)
            if ends is not None:
                ends.remove(waiting.end)

    def worked(self) -> None:
        """Have all try at once that wait: the broker did something. May be called from any thread."""
        if not self._waiting:
            return
        now_s = time.monotonic()
        if now_s < self._next_wake_s:
            return
        self._next_wake_s = now_s + self._wakes.next_ms() / 1000
        self._next_turn_s = now_s
        for waiting in list(self._waiting):
            waiting.end()


class _Waiter:
    """A wait that can be ended from any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()

    def end(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._ended.set)

    async def lasts(self, wait_s: float) -> bool:
        """Return whether it lasted for so long."""
        try:
            async with asyncio.timeout(max(0.0, wait_s)):
                await self._ended.wait()
        except TimeoutError:
            return True
        return False
