"""Medians, percentiles, and what the disk itself takes."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

PROBE_BYTES = 4096


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest of `values` that `percent` of them don't exceed."""
    ordered = sorted(values)
    rank = max(1, -(-len(ordered) * percent // 100))
    return ordered[int(rank) - 1]


def fsync_ms(folder: Path, samples: int = 200) -> float:
    """Return the median time, in ms, that `folder`'s disk takes to make an append of 4 KiB safe."""
    sync = os.fdatasync if hasattr(os, "fdatasync") else os.fsync
    path = folder / "fsync.probe"
    times = []
    file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    try:
        for _ in range(samples):
            started = time.perf_counter_ns()
            os.write(file, bytes(PROBE_BYTES))
            sync(file)
            times.append((time.perf_counter_ns() - started) / 1e6)
    finally:
        os.close(file)
        path.unlink()
    return median(times)
