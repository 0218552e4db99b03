"""Open windows and slices that are many: the same as one by one, at a cost that grows with their number alone."""

import time

from hypothesis import given
from hypothesis import strategies as st

from pspf import Mean, SlidingWindow
from pspf.windowing.definitions import Windowing
from pspf.windowing.slices import Slices
from pspf.windowing.spans import NEVER, SpanIndex
from pspf.windowing.table import SlotEntries

DUE = st.integers(0, 400)


def spans_of(size_ms: int, slide_ms: int, lateness_ms: int = 0) -> SpanIndex:
    window = SlidingWindow(size_ms, slide_ms)
    return SpanIndex(Windowing(window, aggregation=Mean("v"), emit="final", to="out", allowed_lateness_ms=lateness_ms))


@given(
    st.sampled_from([(20, 5), (20, 20), (30, 12), (7, 1), (5, 20)]),
    st.lists(st.tuples(st.integers(0, 30), DUE), max_size=30),
)
def test_open_windows_are_those_of_the_slots_that_are_not_closed(
    sizes: tuple[int, int], steps: list[tuple[int, int]]
) -> None:
    spans, expected, watermark_ms = spans_of(*sizes), set[int](), 0
    for place, jump_ms in steps:
        slot = (watermark_ms // spans.slot_ms + place) * spans.slot_ms
        spans.open(slot, watermark_ms)
        expected |= {start for start in spans.starts_in(slot) if start + spans.due_after_ms > watermark_ms}
        due_ms = [start + spans.due_after_ms for start in expected]
        assert spans.last_due_ms == max(due_ms, default=None)
        watermark_ms += jump_ms // 20
        while (start := spans.get_due(watermark_ms)) is not None:
            assert start == min(expected)
            spans.pause()
            behind = sorted(expected)[1:2]
            assert spans.next_ms == (behind[0] + spans.due_after_ms if behind else NEVER)
            spans.close(start)
            expected.discard(start)
        assert all(start + spans.due_after_ms > watermark_ms for start in expected)


@given(
    st.sampled_from([(20, 5), (30, 12), (7, 1)]),
    st.dictionaries(st.integers(0, 60), st.floats(-1e9, 1e9), max_size=40),
    st.sets(st.integers(-10, 60), max_size=20),
)
def test_the_windows_of_a_key_together_are_what_each_is_to_the_last_bit(
    sizes: tuple[int, int], values: dict[int, float], places: set[int]
) -> None:
    spans = spans_of(*sizes)
    slices = Slices(spans, lambda one, other: one + other, 1_000)
    slots: dict[int, SlotEntries] = {}
    for place, value in values.items():
        slot = slots[place * spans.slot_ms] = SlotEntries(is_stored=False)
        slot.entries["k"] = value
    starts = sorted(place * spans.slide_ms for place in places)
    each = {start: slices.combine_one(start, "k", slots) for start in starts}
    assert slices.combine_key("k", starts, slots) == {
        start: state for start, state in each.items() if state is not None
    }
    assert set(slices.slots_of(starts)) >= {slot for start in starts for slot in spans.slots_of(start)}


def test_the_windows_of_a_key_take_about_three_merges_each() -> None:
    spans, merges = spans_of(1_000, 1), 0

    def merge(one: int, other: int) -> int:
        nonlocal merges
        merges += 1
        return one + other

    slots = {at: SlotEntries(is_stored=False) for at in range(3_000)}
    for slot in slots.values():
        slot.entries["k"] = 1
    found = Slices(spans, merge, 1_000).combine_key("k", range(2_000), slots)
    assert set(found.values()) == {1_000}
    assert merges < 4 * 2_000


def test_slots_that_share_their_windows_are_opened_and_closed_at_a_price_of_their_own() -> None:
    spans = spans_of(20_000, 1)
    begun_s = time.process_time()
    for slot in range(20_000):
        spans.open(slot, -1 << 40)
    while (start := spans.get_due(30_000)) is not None:
        spans.close(start)
    assert time.process_time() - begun_s < 5  # one by one it takes longer than a minute
