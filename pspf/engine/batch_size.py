"""Size of batches: fixed, or adapted to the time between commits and to a limit of bytes."""

from collections.abc import Sequence
from operator import itemgetter
from typing import Final

from pspf.records import Record

_UNSEEN: Final = 100
"""How many records are read at most before the size of any is known."""
_KEPT: Final = 0.9
"""How much of a size is still believed in when smaller records come: large ones may come between them."""
_value_of: Final = itemgetter(Record._fields.index("value"))


class BatchSize:
    """The size of the next batch, of about `most_bytes` at most. Adaptive unless `fixed`: fast handlers get large ones.

    Each partition has two batches in memory: the one that is handled, and the one that was read ahead.
    """

    def __init__(self, *, fixed: int | None, smallest: int, largest: int, target_ms: int, most_bytes: int) -> None:
        self._fixed = fixed
        self._largest = largest
        self._target_ms = target_ms
        self._most_bytes = most_bytes
        self._fitting = fixed or min(smallest, largest)
        """How many records fit the time."""
        self._record_bytes: float | None = None

    @property
    def records(self) -> int:
        """How many records to read."""
        if self._record_bytes is None:
            return min(self._fitting, _UNSEEN)
        if self._fitting * self._record_bytes <= self._most_bytes:
            return self._fitting
        return max(1, int(self._most_bytes / self._record_bytes))

    def weigh(self, records: Sequence[Record], size_bytes: int | None = None) -> None:
        """Take in how large records were that were read; `size_bytes` is what they have together, if it is known."""
        if records:
            if size_bytes is None:
                size_bytes = sum(map(len, map(_value_of, records)))
            mean = size_bytes / len(records)
            self._record_bytes = max(mean, (self._record_bytes or 0) * _KEPT)

    @property
    def limit_ms(self) -> int | None:
        """The time after which a batch is cut, None for a fixed size: twice the target, as batches vary."""
        return None if self._fixed is not None else 2 * self._target_ms

    def fitting(self, records: int, elapsed_ms: float) -> int:
        """Return how many records fit the time between commits, where `records` took `elapsed_ms`; at least 1."""
        return max(1, round(records * self._target_ms / max(elapsed_ms, 0.001)))

    def learn(self, records: int, elapsed_ms: float, *, is_cut: bool = False) -> None:
        """Take in how long a batch took, its commit included; double at most.

        Halve at most, too, as one batch may be slow by chance; not where it was cut, as its records are slow.
        """
        if self._fixed is not None or records == 0:
            return
        fitting = self.fitting(records, elapsed_ms)
        least = 1 if is_cut else self.records // 2
        self._fitting = max(1, min(self._largest, self.records * 2, max(fitting, least)))

    @property
    def is_slow(self) -> bool:
        """Whether one record fills the time: then nothing is read ahead that another worker could take."""
        return self._fixed is None and self._fitting < 4
