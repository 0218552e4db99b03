"""Shared slices of sliding windows: a window's state without merging all of its slices again.

Time is cut into blocks as long as a window, so that a window is the end of one block and the beginning of the
next. The ends of a block are merged from its last slice backwards, all at once; the beginning of the next grows
from window to window. A window so costs about three merges a key, however many slices it has (two stacks;
Tangwongsan et al., "Low-latency sliding-window aggregation in worst-case constant time", DEBS 2017).

Blocks lie where they are in time: the order of merges, and with it a sum of floats, is the same after a restart.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from pspf.windowing.event_time import Key
from pspf.windowing.spans import BEGINNING, SpanIndex
from pspf.windowing.table import SlotEntries

States = dict[Key, Any]


class Slices:
    """Merges slots into windows. Memory is bounded: with more than `max_states` ends, keys are merged one by one."""

    def __init__(self, spans: SpanIndex, merge: Callable[[Any, Any], Any], max_states: int) -> None:
        self._size_ms, self._offset_ms = spans.size_ms, spans.offset_ms
        self._slot_ms = spans.slot_ms
        self._merge = merge
        self._max_states = max_states
        self._middle_ms: int | None = None
        self._ends: dict[int, States] | None = {}
        self._beginning: States = {}
        self.merged_ms = BEGINNING
        """Slots before it are merged; a changed state of theirs has to be passed to `touch`."""
        self._touched: set[Key] = set()

    def touch(self, key: Key) -> None:
        """Note that a state changed in a slot that was merged already."""
        self._touched.add(key)

    def wanted(self, start: int) -> tuple[Sequence[int], list[tuple[int, Key]]]:
        """Return what `combine` is going to look at: slots as a whole, and single places."""
        slots = range(start, start + self._size_ms, self._slot_ms)
        if self._middle_of(start) != self._middle_ms or self._ends is None:
            return slots, []
        return range(self.merged_ms, start + self._size_ms, self._slot_ms), [
            (slot, key) for key in self._touched for slot in slots
        ]

    def combine(self, start: int, slots: Mapping[int, SlotEntries]) -> States:
        """Return the states of the window at `start`, which comes after those that were combined before."""
        middle, end = self._middle_of(start), start + self._size_ms
        # A new block begins: the end of the one before is merged backwards, for all windows that begin in it.
        if middle != self._middle_ms:
            self._middle_ms, self._beginning, self.merged_ms = middle, {}, middle
            self._ends = self._merge_ends(start, middle, slots)
            self._touched.clear()
        # The beginning of the next block grows by the slots that no earlier window had.
        merge, beginning = self._merge, self._beginning
        for at in range(self.merged_ms, end, self._slot_ms):
            if at in slots:
                for key, state in slots[at].entries.items():
                    beginning[key] = merge(beginning[key], state) if key in beginning else state
        self.merged_ms = end
        # The ends would be too many to keep: each key is merged from all of its slots.
        if self._ends is None:
            keys = {key for at in range(start, end, self._slot_ms) if at in slots for key in slots[at].entries}
            return {key: self.combine_one(start, key, slots) for key in keys}
        # The window is its part of the end and the beginning that has grown so far.
        states = dict(self._ends.get(start, ()))
        while self._ends and next(reversed(self._ends)) <= start:  # they were put in from the last one on
            self._ends.popitem()
        for key, state in beginning.items():
            states[key] = merge(states[key], state) if key in states else state
        # What changed in a slot that was merged before is not in either of them.
        for key in self._touched:
            state = self.combine_one(start, key, slots)
            if state is not None:
                states[key] = state
        return states

    def combine_one(self, start: int, key: Key, slots: Mapping[int, SlotEntries]) -> Any:
        """Return the state of one key in the window at `start`, None where it has none; merged in the same order."""
        middle, end = self._middle_of(start), start + self._size_ms
        tail = head = None
        for at in range(middle - self._slot_ms, start - 1, -self._slot_ms):
            state = slots[at].entries.get(key) if at in slots else None
            if state is not None:
                tail = state if tail is None else self._merge(state, tail)
        for at in range(middle, end, self._slot_ms):
            state = slots[at].entries.get(key) if at in slots else None
            if state is not None:
                head = state if head is None else self._merge(head, state)
        if tail is None or head is None:
            return head if tail is None else tail
        return self._merge(tail, head)

    def combine_key(self, key: Key, starts: Sequence[int], slots: Mapping[int, SlotEntries]) -> dict[int, Any]:
        """Return the states of one key in windows, in the order of their starts, as `combine_one` does for each.

        Those of a block are merged together: from its last slice backwards, and from the next one's first on.
        """
        merge, found = self._merge, dict[int, Any]()
        for middle, block in groupby(starts, self._middle_of):
            mine = list(block)
            there = [
                (at, slots[at].entries[key])
                for at in range(mine[0], mine[-1] + self._size_ms, self._slot_ms)
                if at in slots and key in slots[at].entries
            ]
            split = bisect_left(there, middle, key=itemgetter(0))
            # From the block's last slice backwards: what each window has of this block.
            tails: dict[int, Any] = {}
            tail, left = None, split
            for start in reversed(mine):
                while left and there[left - 1][0] >= start:
                    left -= 1
                    tail = there[left][1] if tail is None else merge(there[left][1], tail)
                tails[start] = tail
            # From the next block's first slice on: what each window has of that, put behind its part of this one.
            head = None
            for start in mine:
                while split < len(there) and there[split][0] < start + self._size_ms:
                    head = there[split][1] if head is None else merge(head, there[split][1])
                    split += 1
                tail = tails[start]
                state = (head if tail is None else tail) if tail is None or head is None else merge(tail, head)
                if state is not None:
                    found[start] = state
        return found

    def slots_of(self, starts: Sequence[int]) -> Iterator[int]:
        """Give the slots that windows are made up of, each once a block; `starts` are in order."""
        for _, block in groupby(starts, self._middle_of):
            mine = list(block)
            yield from range(mine[0], mine[-1] + self._size_ms, self._slot_ms)

    def _middle_of(self, start: int) -> int:
        """Return where the block ends that `start` lies in; where one begins, that is it."""
        return start + (self._offset_ms - start) % self._size_ms

    def _merge_ends(self, start: int, middle: int, slots: Mapping[int, SlotEntries]) -> dict[int, States] | None:
        """Return the states from each slot on up to the block's end; None where they are too many."""
        merge, ends, count = self._merge, dict[int, States](), 0
        states: States = {}
        for at in range(middle - self._slot_ms, start - 1, -self._slot_ms):
            if at in slots and slots[at].entries:
                states = dict(states)
                for key, state in slots[at].entries.items():
                    states[key] = merge(state, states[key]) if key in states else state
                count += len(states)
                if count > self._max_states:
                    return None
            ends[at] = states
        return ends
