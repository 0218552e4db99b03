"""Runs of offsets that a shared consumer has claimed, and the part of them that a commit settles."""

from bisect import bisect_right, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive offsets of one claim, -1 where none is known."""

    claim: int
    first: int
    last: int


def runs(offsets: Sequence[int], claim: int) -> Iterator[Run]:
    """Yield the runs of consecutive offsets; a batch is one, most of the time."""
    if not offsets:
        return
    ordered = sorted(offsets)
    if ordered[-1] - ordered[0] == len(ordered) - 1:
        yield Run(claim, ordered[0], ordered[-1])
        return
    first = last = ordered[0]
    for offset in ordered[1:]:
        if offset != last + 1:
            yield Run(claim, first, last)
            first = offset
        last = offset
    yield Run(claim, first, last)


class Outstanding:
    """The offsets that are claimed and not settled."""

    def __init__(self) -> None:
        self._runs: list[Run] = []

    @property
    def claims(self) -> set[int]:
        """The numbers of the claims of which something is left."""
        return {run.claim for run in self._runs}

    def add(self, claimed: Iterable[Run]) -> None:
        """Take in what was claimed."""
        for run in claimed:
            insort(self._runs, run, key=_first)

    def forget(self, settled: Sequence[Run]) -> None:
        """Take out the settled offsets; a retry may be there again, with a new claim."""
        left: list[Run] = []
        for run in self._runs:
            begin = run.first
            for gone in settled:
                if gone.claim == run.claim and begin <= gone.first and gone.last <= run.last:
                    if begin < gone.first:
                        left.append(Run(run.claim, begin, gone.first - 1))
                    begin = gone.last + 1
            if begin <= run.last:
                left.append(Run(run.claim, begin, run.last))
        self._runs = left

    def clear(self) -> None:
        """Take out all."""
        self._runs = []

    def find(self, offsets: Sequence[int]) -> Iterator[Run]:
        """Yield the runs of sorted offsets by the claim that we know for them, -1 where we know none."""
        known = self._runs
        for run in runs(offsets, -1):
            begin = run.first
            index = max(0, bisect_right(known, begin, key=_first) - 1)
            while begin <= run.last and index < len(known) and known[index].first <= run.last:
                claimed = known[index]
                index += 1
                if claimed.last < begin:
                    continue
                if begin < claimed.first:
                    yield Run(-1, begin, claimed.first - 1)
                yield Run(claimed.claim, max(begin, claimed.first), min(run.last, claimed.last))
                begin = claimed.last + 1
            if begin <= run.last:
                yield Run(-1, begin, run.last)


def _first(run: Run) -> int:
    return run.first
