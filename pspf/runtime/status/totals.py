"""Totals of a worker's processes, those that have ended included: counts that never decrease."""

from collections.abc import Iterable
from dataclasses import dataclass

from pspf.observability.telemetry import HandlerCounters
from pspf.runtime.status.reports import Pulse

_Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Tally:
    """What a worker did since it started: counts by handler, and (topic, group, processes that crashed)."""

    counters: tuple[HandlerCounters, ...] = ()
    restarts: tuple[tuple[str, str, int], ...] = ()


class ProcessTotals:
    """Adds up the counters of a worker's processes.

    Each process counts from 0 and reports its counts with each pulse; the work of a killed one after its last
    pulse, a second at most, is not counted.
    """

    def __init__(self) -> None:
        self._ended: dict[_Key, HandlerCounters] = {}

    def close(self, pulse: Pulse | None) -> None:
        """Keep the last counts of a process that has ended."""
        if pulse is not None:
            _add(self._ended, pulse)

    def add_up(self, pulses: Iterable[Pulse]) -> tuple[HandlerCounters, ...]:
        """Return what the ended processes and these living ones did, by topic, group and handler."""
        sums = dict(self._ended)
        for pulse in pulses:
            _add(sums, pulse)
        return tuple(sums[key] for key in sorted(sums))


def _add(sums: dict[_Key, HandlerCounters], pulse: Pulse) -> None:
    for each in pulse.subscriptions:
        before = sums.get(each.counters.key)
        sums[each.counters.key] = each.counters if before is None else before + each.counters
