"""Status of a process, made of its pulse; rates of its handlers."""

import time
from collections import deque
from dataclasses import replace
from typing import Final

from pspf.observability.worker_status import HandlerStatus, ProcessStatus
from pspf.runtime.status.reports import Pulse

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
        """Forget the samples: another process begins."""
        self._samples.clear()

    def rate_of(self, key: _Key) -> float:
        """Return the events per second of (topic, group, handler)."""
        if len(self._samples) < 2:
            return 0.0
        (begin_ms, before), (end_ms, after) = self._samples[0], self._samples[-1]
        span_ms = end_ms - begin_ms
        return round(max(0, after.get(key, 0) - before.get(key, 0)) * 1000 / span_ms, 1) if span_ms > 0 else 0.0


def describe_handlers(pulse: Pulse, rates: Rates) -> tuple[HandlerStatus, ...]:
    """Return the status of each handler of a process."""
    return tuple(
        HandlerStatus(
            each.counters.topic,
            each.counters.group,
            each.counters.handler,
            each.partitions,
            each.counters.processed,
            each.counters.failed,
            each.counters.dead,
            rates.rate_of(each.counters.key),
            each.counters.last_commit_ms,
            each.topics,
        )
        for each in pulse.subscriptions
    )


def with_pulse(status: ProcessStatus, pulse: Pulse | None, rates: Rates) -> ProcessStatus:
    """Return a process's status with what it reports itself; as it is where nothing has been reported yet."""
    if pulse is None:
        return status
    return replace(
        status,
        worker=pulse.session,
        busy=pulse.in_hand,
        waiting=tuple(each for each in pulse.busy if each.is_waiting),
        subscriptions=describe_handlers(pulse, rates),
    )
