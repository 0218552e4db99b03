"""A retry policy: how often and when a failed record runs again."""

import random
from dataclasses import dataclass
from typing import Final

from pspf.errors import ConfigurationError, EventRejected, HandlerCrashed, RetryLater, StateUnreadable
from pspf.events.durations import Duration, as_ms
from pspf.settings import settings

_FINAL: Final = (EventRejected, HandlerCrashed, ConfigurationError, StateUnreadable)
"""The parts of a call that are equal at each attempt."""


@dataclass(frozen=True, slots=True, init=False)
class RetryPolicy:
    """How often and when a failed record runs again.

    `max_attempts` counts the first run. The wait starts at `initial_ms`, doubles up to `max_ms`,
    and is spread by `jitter` (0.2 = 20 % either way). Both are durations: text such as `10s`, a timedelta or
    milliseconds. Errors of the types in `give_up_on` are not retried.
    """

    max_attempts: int = 5
    initial_ms: int = 200
    max_ms: int = 60_000
    jitter: float = 0.2
    give_up_on: tuple[type[BaseException], ...] = ()

    def __init__(
        self,
        max_attempts: int = 5,
        initial_ms: Duration = 200,
        max_ms: Duration = 60_000,
        jitter: float = 0.2,
        give_up_on: tuple[type[BaseException], ...] = (),
    ) -> None:
        for name, value in (
            ("max_attempts", max_attempts),
            ("initial_ms", as_ms("RetryPolicy", "initial_ms", initial_ms)),
            ("max_ms", as_ms("RetryPolicy", "max_ms", max_ms)),
            ("jitter", jitter),
            ("give_up_on", give_up_on),
        ):
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        if self.max_attempts < 1 or self.initial_ms < 0 or self.max_ms < self.initial_ms or not 0 <= self.jitter < 1:
            raise ConfigurationError(
                f"{self}: max_attempts is 1 or more, 0 <= initial_ms <= max_ms, and jitter from 0 up to 1"
            )

    def gives_up(self, error: BaseException, attempts: int) -> bool:
        """Return whether a record is dead after this error, in the run that made it `attempts`."""
        is_final = isinstance(error, (*_FINAL, *self.give_up_on))
        return is_final or attempts >= self.max_attempts

    def wait_ms(self, attempts: int, error: BaseException | None = None) -> int:
        """Return how long to wait after `attempts` runs failed, the last one with `error`."""
        if isinstance(error, RetryLater):
            return error.wait_ms
        wait_ms = min(self.max_ms, self.initial_ms << min(attempts - 1, 40))
        return round(wait_ms * random.uniform(1 - self.jitter, 1 + self.jitter))


def read_default_retry() -> RetryPolicy:
    """Return the policy of handlers that have none of their own, as the settings have it.

    Raises:
        ConfigurationError: The settings don't fit each other.
    """
    return RetryPolicy(
        settings.RETRY_MAX_ATTEMPTS, settings.RETRY_INITIAL_MS, settings.RETRY_MAX_MS, settings.RETRY_JITTER
    )
