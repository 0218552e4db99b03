"""Restart policy: when a crashed process starts again, and when the supervisor gives up."""

import random
from dataclasses import dataclass
from typing import Final

_MAX_DOUBLINGS: Final = 20


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Limits of restarts. Times are milliseconds.

    `useless_starts` is after how many processes in a row that never began to consume a slot is
    hopeless; `useless_runs` the same for any that got nothing done. The second is larger: a record
    that ends its process is found by halving batches, and needs some crashes until it is a dead letter.
    """

    initial_ms: int = 1_000
    max_ms: int = 60_000
    healthy_ms: int = 60_000
    jitter: float = 0.2
    useless_starts: int = 5
    useless_runs: int = 20


class Restarts:
    """The crashes of one slot for a process, since it was last healthy.

    Healthy is a process that lived `healthy_ms`. One that committed something restarts the count,
    too: it got on.
    """

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._starts = 0
        self._runs = 0
        self.total = 0
        """How often a process has followed another one in this slot, since the supervisor began."""
        self.was_healthy = False
        """Whether a process in this slot has ever committed something, or lived long."""

    @property
    def in_a_row(self) -> int:
        """Crashes since the last process that was healthy."""
        return self._runs

    @property
    def is_hopeless(self) -> bool:
        """Whether one process after another makes no progress."""
        return self._starts >= self._policy.useless_starts or self._runs >= self._policy.useless_runs

    def reset(self) -> None:
        """Forget the crashes: the code has changed, or an operator asks for a new try."""
        self._starts = self._runs = 0

    def note_crash(self, *, lived_ms: int, began: bool, got_on: bool) -> int:
        """Count a crash; return how long to wait now, in milliseconds.

        Args:
            lived_ms: How long the process lived.
            began: Whether it began to consume.
            got_on: Whether it committed anything.
        """
        if got_on or lived_ms >= self._policy.healthy_ms:
            self.was_healthy = True
            self.reset()
        self._runs += 1
        self._starts = 0 if began else self._starts + 1
        self.total += 1
        wait_ms = min(self._policy.max_ms, self._policy.initial_ms << min(self._runs - 1, _MAX_DOUBLINGS))
        return round(wait_ms * random.uniform(1 - self._policy.jitter, 1 + self._policy.jitter))
