"""Claims of a shared consumer as ranges of offsets: how they are cut, settled, and found again. No I/O."""

from bisect import bisect_right, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive offsets of one claim, -1 where none is known."""

    claim: int
    first: int
    last: int

    def split(self, size: int) -> "tuple[Run, Run | None]":
        """Return the first `size` offsets and the rest, None where nothing is left; `size` is 1 or more."""
        end = min(self.last, self.first + size - 1)
        return Run(self.claim, self.first, end), Run(self.claim, end + 1, self.last) if end < self.last else None

    def without(self, gone: "Run") -> "Iterator[Run]":
        """Yield what is left of it before and behind `gone`, which overlaps it."""
        if self.first < gone.first:
            yield Run(self.claim, self.first, gone.first - 1)
        if gone.last < self.last:
            yield Run(self.claim, gone.last + 1, self.last)

    def missing_in(self, held: "Sequence[Run]") -> Iterator[int]:
        """Yield its offsets that are in none of `held`."""
        if len(held) == 1 and held[0].first <= self.first and self.last <= held[0].last:
            return  # the most frequent case by far
        for offset in range(self.first, self.last + 1):
            if not any(each.first <= offset <= each.last for each in held):
                yield offset


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
        """Take out the settled runs, as `find` gave them; a retry may be there again, with a new claim."""
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
