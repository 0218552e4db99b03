"""Claimed ranges come to what sets of offsets would, however they are cut and settled."""

from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pspf.connectors.sqlite.claims import Outstanding, Run, runs

END = 24
OFFSETS = st.sets(st.integers(0, END - 1))
STEPS = st.lists(st.tuples(st.sampled_from(["claim", "settle"]), OFFSETS), max_size=12)


@st.composite
def ranges(draw: st.DrawFn, claim: int = 1) -> Run:
    first = draw(st.integers(0, END))
    return Run(claim, first, draw(st.integers(first, END)))


def offsets_of(run: Run) -> set[int]:
    return set(range(run.first, run.last + 1))


@given(OFFSETS)
def test_runs_are_the_offsets_in_as_few_ranges_as_they_are(offsets: set[int]) -> None:
    found = list(runs(list(offsets), 7))
    assert [each.claim for each in found] == [7] * len(found)
    assert [offset for run in found for offset in sorted(offsets_of(run))] == sorted(offsets)
    groups = groupby(enumerate(sorted(offsets)), key=lambda pair: pair[1] - pair[0])
    assert len(found) == sum(1 for _ in groups)


@given(ranges(), st.integers(1, END))
def test_a_split_range_is_its_first_offsets_and_the_rest(run: Run, size: int) -> None:
    taken, rest = run.split(size)
    left = set() if rest is None else offsets_of(rest)
    assert sorted(offsets_of(taken)) == sorted(offsets_of(run))[:size]
    assert offsets_of(taken) | left == offsets_of(run)
    assert not offsets_of(taken) & left


@given(ranges(), ranges())
def test_what_is_left_of_a_range_is_the_difference_of_the_sets(run: Run, gone: Run) -> None:
    if not offsets_of(run) & offsets_of(gone):
        return
    left = list(run.without(gone))
    assert {offset for each in left for offset in offsets_of(each)} == offsets_of(run) - offsets_of(gone)
    assert all(each.first <= each.last and each.claim == run.claim for each in left)


@given(ranges(), st.lists(ranges(), max_size=4))
def test_the_missing_offsets_are_those_in_no_range(run: Run, held: list[Run]) -> None:
    covered = {offset for each in held for offset in offsets_of(each)}
    assert list(run.missing_in(held)) == sorted(offsets_of(run) - covered)


@given(STEPS)
def test_what_is_outstanding_is_what_was_claimed_and_not_settled(steps: list[tuple[str, set[int]]]) -> None:
    outstanding, model = Outstanding(), dict[int, int]()
    for claim, (step, offsets) in enumerate(steps, 1):
        if step == "claim":
            new = offsets - model.keys()
            outstanding.add(runs(list(new), claim))
            model |= dict.fromkeys(new, claim)
        else:
            outstanding.forget(list(outstanding.find(sorted(offsets))))
            model = {offset: each for offset, each in model.items() if offset not in offsets}
        found = list(outstanding.find(range(END)))
        known = {offset: run.claim for run in found for offset in offsets_of(run)}
        assert known == {offset: model.get(offset, -1) for offset in range(END)}
        assert [run.first for run in found] == sorted(run.first for run in found)
        assert outstanding.claims == set(model.values())


@given(STEPS, OFFSETS)
def test_only_the_offsets_that_were_asked_for_are_found(steps: list[tuple[str, set[int]]], wanted: set[int]) -> None:
    outstanding = Outstanding()
    outstanding.add(run for claim, (_, offsets) in enumerate(steps) for run in runs(list(offsets), claim))
    found = [offset for run in outstanding.find(sorted(wanted)) for offset in sorted(offsets_of(run))]
    assert set(found) == wanted


def test_a_retry_that_was_claimed_again_stays_when_its_first_claim_is_settled() -> None:
    outstanding = Outstanding()
    outstanding.add([Run(1, 5, 5)])
    settled = list(outstanding.find([5]))
    outstanding.add([Run(2, 5, 5)])
    outstanding.forget(settled)
    assert list(outstanding.find([5])) == [Run(2, 5, 5)]


@pytest.mark.parametrize(
    ("offsets", "found"), [([], []), ([3], [(3, 3)]), ([5, 3, 4], [(3, 5)]), ([9, 3, 4], [(3, 4), (9, 9)])]
)
def test_a_batch_in_one_piece_is_one_run(offsets: list[int], found: list[tuple[int, int]]) -> None:
    assert [(run.first, run.last) for run in runs(offsets, 1)] == found
