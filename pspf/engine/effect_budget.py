"""Budget of a commit: what closes a batch, and what one record alone may do."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EffectLimits:
    """What closes a batch, and what one record alone may do; sizes are bytes."""

    operations: int = 5_000
    effect_bytes: int = 4 << 20
    record_operations: int = 50_000
    record_effect_bytes: int = 32 << 20


class EffectBudget:
    """What one commit can still hold: a batch's worth, and the last record's on top."""

    def __init__(self, limits: EffectLimits) -> None:
        self._limits = limits
        self._operations = 0
        self._bytes = 0

    @property
    def size(self) -> tuple[int, int]:
        """What was counted: how many, and their bytes."""
        return self._operations, self._bytes

    @property
    def is_full(self) -> bool:
        """Whether the batch is to be closed."""
        return self._operations >= self._limits.operations or self._bytes >= self._limits.effect_bytes

    @property
    def is_half_full(self) -> bool:
        """Whether it holds as many effects as those of other batches' records should be."""
        limits = self._limits
        return 2 * self._operations >= limits.operations or 2 * self._bytes >= limits.effect_bytes

    def take(self, operations: int, size_bytes: int) -> bool:
        """Return whether these fit; the first ones always do."""
        limits = self._limits
        after, bytes_after = self._operations + operations, self._bytes + size_bytes
        is_first = not self._operations and not self._bytes
        if not is_first and (
            after > limits.operations + limits.record_operations
            or bytes_after > limits.effect_bytes + limits.record_effect_bytes
        ):
            return False
        self._operations, self._bytes = after, bytes_after
        return True

    def has_room(self, operations: int, size_bytes: int) -> bool:
        """Whether these leave the batch open."""
        limits = self._limits
        return self._operations + operations < limits.operations and self._bytes + size_bytes < limits.effect_bytes

    def add(self, operations: int, size_bytes: int) -> None:
        """Count what has to fit."""
        self._operations += operations
        self._bytes += size_bytes
