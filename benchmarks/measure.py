"""Medians, percentiles, and what the disk itself takes."""

import os
import random
import time
from collections.abc import Sequence
from pathlib import Path

PROBE_BYTES = 4096


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest of `values` that `percent` of them don't exceed."""
    ordered = sorted(values)
    rank = max(1, -(-len(ordered) * percent // 100))
    return ordered[int(rank) - 1]


def fsync_ms(folder: Path, samples: int = 100, per_second: float = 20) -> list[float]:
    """Return how many ms `folder`'s disk takes to make each of some appends of 4 KiB safe, at the pace of the emits.

    The pace matters: a disk that is never idle answers several times as fast as one that wakes up for each write.
    """
    sync = os.fdatasync if hasattr(os, "fdatasync") else os.fsync
    path = folder / "fsync.probe"
    times = []
    file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    try:
        for _ in range(samples):
            time.sleep(random.uniform(0.5, 1.5) / per_second)
            started = time.perf_counter_ns()
            os.write(file, bytes(PROBE_BYTES))
            sync(file)
            times.append((time.perf_counter_ns() - started) / 1e6)
    finally:
        os.close(file)
        path.unlink()
    return times
