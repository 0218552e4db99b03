"""What `pspf workers list` shows of a process, made of its pulse."""

import time
from collections import deque
from typing import Any, Final

from pspf.runtime.status.reports import Busy, Pulse

_RATE_MS: Final = 10_000

_Key = tuple[str, str, str]


class Rates:
    """How many events a second each handler processed in the last 10 s."""

    def __init__(self) -> None:
        self._samples: deque[tuple[int, dict[_Key, int]]] = deque()

    def sample(self, pulse: Pulse) -> None:
        """Note how much has been processed."""
        now_ms = time.monotonic_ns() // 1_000_000
        self._samples.append((now_ms, {each.counters.key: each.counters.processed for each in pulse.subscriptions}))
        while len(self._samples) > 2 and self._samples[1][0] < now_ms - _RATE_MS:
            self._samples.popleft()

    def reset(self) -> None:
        """Begin anew, with another process."""
        self._samples.clear()

    def rate_of(self, key: _Key) -> float:
        """Return the events per second of (topic, group, handler)."""
        if len(self._samples) < 2:
            return 0.0
        (begin_ms, before), (end_ms, after) = self._samples[0], self._samples[-1]
        span_ms = end_ms - begin_ms
        return round(max(0, after.get(key, 0) - before.get(key, 0)) * 1000 / span_ms, 1) if span_ms > 0 else 0.0


def describe_pulse(pulse: Pulse | None, rates: Rates) -> dict[str, Any]:
    """Return the part of a process's status that it tells itself; empty lists where it has not told anything yet."""
    busy = () if pulse is None else pulse.busy
    return {
        "worker": None if pulse is None else pulse.session,
        "busy": [_describe_busy(each) for each in busy if not each.is_waiting],
        "waiting": [_describe_busy(each) for each in busy if each.is_waiting],
        "subscriptions": [
            {
                "topic": each.counters.topic,
                "group": each.counters.group,
                "handler": each.counters.handler,
                "partitions": list(each.partitions),
                "processed": each.counters.processed,
                "failed": each.counters.failed,
                "dead": each.counters.dead,
                "rate": rates.rate_of(each.counters.key),
                "last_commit_ms": each.counters.last_commit_ms,
            }
            for each in (() if pulse is None else pulse.subscriptions)
        ],
    }


def _describe_busy(busy: Busy) -> dict[str, Any]:
    return {
        "topic": busy.topic,
        "group": busy.group,
        "handler": busy.handler,
        "partition": busy.partition,
        "records": busy.records,
        "for_ms": busy.for_ms,
        "state": busy.state,
        "ids": list(busy.ids),
    }
