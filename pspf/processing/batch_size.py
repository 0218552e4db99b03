"""How many records a batch takes: a fixed number, or as many as fit the time between commits."""


class BatchSize:
    """The size of the next batch. Adaptive unless `fixed`: fast handlers get large batches."""

    def __init__(self, *, fixed: int | None, smallest: int, largest: int, target_ms: int) -> None:
        self._fixed = fixed
        self._largest = largest
        self._target_ms = target_ms
        self.records = fixed or min(smallest, largest)

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
        self.records = max(1, min(self._largest, self.records * 2, max(fitting, least)))

    @property
    def is_slow(self) -> bool:
        """Whether one record fills the time: then nothing is read ahead that another worker could take."""
        return self._fixed is None and self.records < 4
