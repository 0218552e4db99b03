"""The budget of a commit: how much of an operator's states one batch may change."""

from typing import Final

from pspf.engine.batch_outcome import BatchRun
from pspf.engine.effect_budget import EffectLimits
from pspf.errors import TooManyEffects
from pspf.records import Record

SECTION_RECORDS: Final = 64
"""The most records of a section: few, so that they are folded while they are in the processor's caches."""


class Budget:
    """Counts the bytes of the states that a batch changes. Public attributes are those of the hot loops."""

    def __init__(self, limits: EffectLimits) -> None:
        self.limits = limits
        self.section_records = SECTION_RECORDS
        self.writes = 1
        """How often a state that changed is written: stored, and with updates emitted as well."""
        self.weight_bytes = 0
        self._large_bytes = 0

    def plan(self, effects_per_record: int) -> None:
        """Let a section of records change no more than a commit should hold, unless one of them alone does more."""
        self.section_records = max(1, min(SECTION_RECORDS, self.limits.operations // effects_per_record))

    def begin(self) -> None:
        """Start a batch."""
        self.weight_bytes = self._large_bytes = 0

    def close_if_full(self, run: BatchRun, changed: int, reach: int) -> None:
        """Close a batch whose `changed` states are as much as a commit should hold.

        It is closed also where a section that changes `reach` states more could make more of it than it can hold.
        """
        limits = self.limits
        operations, size_bytes = run.size
        most = limits.operations + limits.record_operations
        if (
            changed >= limits.operations
            or self.weight_bytes + size_bytes >= limits.effect_bytes
            # A record that changes more than one may is dead.
            or operations + self.writes * changed + min(reach, limits.record_operations) > most
        ):
            run.is_closed = True

    def weigh(self, record: Record, size_bytes: int, run: BatchRun) -> None:
        """Count what a record changes and is going to be stored; a batch that holds as much as it should is closed.

        Raises:
            TooManyEffects: It is more than a commit can hold, whatever else is in it.
        """
        self.weight_bytes += self.writes * size_bytes
        if self.weight_bytes >= self.limits.effect_bytes:
            self._check_size(record, size_bytes)
            run.is_closed = True

    def has_room(self, before: int) -> bool:
        """Return whether a commit that holds other large states can hold one more, of `before` bytes."""
        most = self.limits.record_effect_bytes - self.limits.effect_bytes
        return not self._large_bytes or self._large_bytes + self.writes * before <= most

    def weigh_growth(self, record: Record, before: int, run: BatchRun, *, whole: int) -> None:
        """Count what a record adds to a state of `before` bytes, about; `whole` of them are written once more for it.

        A large state alone ends no batch, or one would be written for each of its records. Errors as in `weigh`.
        """
        self._check_size(record, before + len(record.value))
        self._large_bytes += self.writes * whole
        self.weigh(record, len(record.value), run)

    def _check_size(self, record: Record, size_bytes: int) -> None:
        """Raise TooManyEffects where the states that one record changes are more than a commit can hold."""
        most = self.limits.record_effect_bytes
        if self.writes * size_bytes > most:
            raise TooManyEffects(
                f"{record.topic} {record.id}: {size_bytes:,} bytes of states in its windows; at most {most:,} are taken"
            )
