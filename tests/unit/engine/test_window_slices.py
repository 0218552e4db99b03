"""Windows that share slices come to what their slices hold, whatever changes in between."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pspf import Sum
from pspf.windowing.definitions import SlidingWindow, Windowing
from pspf.windowing.slices import Slices
from pspf.windowing.spans import SpanIndex
from pspf.windowing.table import SlotEntries

State = tuple[str, ...]
Change = tuple[int, str]
"""One more value of a key, in a slot that is counted from the beginning of the window that closes next."""


def spans_of(size_ms: int, slide_ms: int) -> SpanIndex:
    return SpanIndex(Windowing(SlidingWindow(size_ms, slide_ms), aggregation=Sum("n"), emit="final", to="out"))


def add(slots: dict[int, SlotEntries], slices: Slices, at: int, key: str, value: Any) -> None:
    """Do what the operator does when it folds a record."""
    entries = slots.setdefault(at, SlotEntries(is_stored=False)).entries
    entries[key] = entries[key] + value if key in entries else value
    if at < slices.merged_ms:
        slices.touch(key)


def in_order(slots: dict[int, SlotEntries], spans: SpanIndex, start: int) -> dict[Any, State]:
    """Return the states of a window, merged one slot after the other."""
    states: dict[Any, State] = {}
    for at in spans.slots_of(start):
        for key, state in slots[at].entries.items() if at in slots else ():
            states[key] = states.get(key, ()) + state
    return states


changes = st.lists(st.tuples(st.integers(0, 11), st.sampled_from("ab")), max_size=4)


@given(
    rounds=st.lists(st.tuples(changes, st.integers(1, 3)), max_size=25),
    sizes=st.sampled_from([(6, 1), (6, 4), (4, 2), (3, 5), (5, 3), (4, 4)]),
    max_states=st.sampled_from([3, 1_000]),
    begin=st.integers(-12, 12),
)
def test_a_window_is_its_slots_merged_in_their_order(
    rounds: list[tuple[list[Change], int]], sizes: tuple[int, int], max_states: int, begin: int
) -> None:
    spans = spans_of(*sizes)
    slices = Slices(spans, lambda one, other: one + other, max_states)
    slots: dict[int, SlotEntries] = {}
    start = begin * spans.slide_ms
    for number, (added, step) in enumerate(rounds):
        for ahead, key in added:
            add(slots, slices, start + ahead * spans.slot_ms, key, (f"{number}.{ahead}",))
        assert slices.combine(start, slots) == in_order(slots, spans, start)
        start += step * spans.slide_ms
        for gone in [at for at in slots if at < start]:
            del slots[gone]


def test_a_sum_of_floats_is_the_same_after_a_restart() -> None:
    spans = spans_of(7, 1)
    values = {at: 10.0 ** (at * 5 % 17) / 3 for at in range(40)}
    for restarted_at in range(25):
        found = []
        for begin in (0, restarted_at):
            slices = Slices(spans, lambda one, other: one + other, 1_000)
            slots: dict[int, SlotEntries] = {}
            for at, value in values.items():
                add(slots, slices, at, "a", value)
            windows = [slices.combine(start, slots)["a"] for start in range(begin, restarted_at + 8)]
            found.append(windows[-8:])
        assert found[0] == found[1]


def test_a_window_costs_about_three_merges_a_key_however_many_slices_it_has() -> None:
    spans = spans_of(60_000, 1_000)
    merges = 0

    def merge(one: int, other: int) -> int:
        nonlocal merges
        merges += 1
        return one + other

    slices = Slices(spans, merge, 1_000_000)
    slots: dict[int, SlotEntries] = {}
    for at in range(0, 600_000, 1_000):
        for key in "abcde":
            add(slots, slices, at, key, 1)
    windows = range(0, 540_000, 1_000)
    assert all(set(slices.combine(start, slots).values()) == {60} for start in windows)
    assert merges / (len(windows) * 5) < 3.5
