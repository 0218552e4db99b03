"""Idle time of a cursor: for how long reads have found nothing new. It has no clock of its own."""


class IdleTracker:
    """Counts from the first read that found nothing, and only as far as reads have shown it.

    A read that found nothing shows that there was nothing when it began: what was stored before would
    have been found. So silence has lasted until the beginning of the last read, and not until now.
    """

    def __init__(self) -> None:
        self.reads = 0
        """How many reads were begun."""
        self.shown = 0
        """The number of the last read that found nothing, 0 where something was found since."""
        self._begun_ms = 0
        self._since_ms: int | None = None
        self._until_ms = 0

    def begin_read(self, now_ms: int) -> None:
        """Note that a read is being sent."""
        self.reads += 1
        self._begun_ms = now_ms

    def go_on(self) -> None:
        """Note that the read found nothing."""
        if self._since_ms is None:
            self._since_ms = self._begun_ms
        self._until_ms = self._begun_ms
        self.shown = self.reads

    def end(self) -> None:
        """Note that something new was read, or that the broker was away, so that no event could arrive."""
        self._since_ms = None
        self.shown = 0

    @property
    def lasted_ms(self) -> int:
        """For how long there was nothing, as far as it is known."""
        return 0 if self._since_ms is None else self._until_ms - self._since_ms

    def left_ms(self, wanted_ms: int, now_ms: int) -> int:
        """Return how long a read that begins now may wait, so that the one after it shows `wanted_ms` of silence."""
        return wanted_ms if self._since_ms is None else max(0, self._since_ms + wanted_ms - now_ms)
