"""Limits and targets of the loop, from the settings."""

from dataclasses import dataclass, field

from pspf.engine.effect_budget import EffectLimits
from pspf.settings import Settings


@dataclass(frozen=True, slots=True)
class Tuning:
    """The numbers of the loop. Times are milliseconds, sizes bytes."""

    smallest_batch: int = 1
    largest_batch: int = 1_000
    largest_window_batch: int = 5_000
    batch_bytes: int = 8_000_000
    target_commit_ms: int = 100
    effects: EffectLimits = field(default_factory=EffectLimits)
    state_cache_entries: int = 100_000
    window_cache_states: int = 1_000_000
    max_crashes: int = 3
    max_held_back: int = 1_000

    @classmethod
    def from_settings(cls, settings: Settings) -> "Tuning":
        """Return the numbers in force."""
        return cls(
            smallest_batch=settings.MIN_BATCH_RECORDS,
            largest_batch=settings.MAX_BATCH_RECORDS,
            largest_window_batch=settings.MAX_WINDOW_BATCH_RECORDS,
            target_commit_ms=settings.TARGET_COMMIT_MS,
            effects=EffectLimits(
                operations=settings.MAX_OPERATIONS,
                effect_bytes=settings.MAX_EFFECT_BYTES,
                record_operations=settings.MAX_RECORD_OPERATIONS,
                record_effect_bytes=settings.MAX_RECORD_EFFECT_BYTES,
            ),
            state_cache_entries=settings.STATE_CACHE_ENTRIES,
            window_cache_states=settings.WINDOW_CACHE_STATES,
            max_crashes=settings.MAX_CRASHES,
            max_held_back=settings.MAX_HELD_BACK,
        )
