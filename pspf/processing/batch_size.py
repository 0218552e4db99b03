"""How many records a batch takes: a fixed number, or as many as fit the time between commits."""


class BatchSize:
    """The size of the next batch. Adaptive unless `fixed`: fast handlers get large batches."""

    def __init__(self, *, fixed: int | None, smallest: int, largest: int, target_ms: int) -> None:
        self._fixed = fixed
        self._largest = largest
        self._target_ms = target_ms
        self.records = fixed or min(smallest, largest)

    def learn(self, records: int, elapsed_ms: float) -> None:
        """Take in how long a batch took, its commit included; halve or double at most."""
        if self._fixed is not None or records == 0:
            return
        fitting = round(records * self._target_ms / max(elapsed_ms, 0.001))
        self.records = max(1, min(self._largest, self.records * 2, max(fitting, self.records // 2)))

    @property
    def is_slow(self) -> bool:
        """Whether one record fills the time: then nothing is read ahead that another worker could take."""
        return self._fixed is None and self.records < 4
