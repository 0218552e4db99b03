"""Histograms that are updated once a batch: counts by bound, in plain integers.

prometheus's own `observe` costs 0.9 us and a lock, an event's whole budget; one `add` here costs 0.1 us
and stands for all events of a batch. Times are integers (us or ms), so that sums stay exact.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

HANDLER_US: Final = (10, 50, 100, 500, 1_000, 5_000, 10_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000, 60_000_000)
"""Bounds of the time that a handler takes for an event."""
BATCH_EVENTS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000)
"""Bounds of the size of a batch."""
COMMIT_US: Final = (
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    1_000_000,
    5_000_000,
    30_000_000,
)
"""Bounds of the time that a commit takes."""
END_TO_END_MS: Final = (1, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 60_000, 600_000, 3_600_000)
"""Bounds of the time from a record's timestamp to its commit."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """How values were spread: `counts[i]` of them were at most the i-th bound and above the one before.

    The last count is of those above all bounds; `total` is the sum of the values.
    """

    counts: tuple[int, ...]
    total: int = 0

    @classmethod
    def empty(cls, bounds: Sequence[int]) -> Self:
        """Return the distribution of nothing."""
        return cls((0,) * (len(bounds) + 1))

    def __add__(self, other: "Distribution") -> "Distribution":
        return Distribution(
            tuple(mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)),
            self.total + other.total,
        )


class Histogram:
    """Counts of values by bound. Written by one thread; `read` may be called from another."""

    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, bounds: tuple[int, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0

    def add(self, value: int, times: int = 1) -> None:
        """Count `value`, so often."""
        self._counts[bisect_left(self._bounds, value)] += times
        self._total += value * times

    def add_shared(self, total: int, times: int) -> None:
        """Count so many values that are `total` together, each as their mean."""
        self._counts[bisect_left(self._bounds, total // times)] += times
        self._total += total

    def read(self) -> Distribution:
        """Return what has been counted."""
        return Distribution(tuple(self._counts), self._total)
