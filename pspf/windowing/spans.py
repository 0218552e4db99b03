"""Spans of tumbling and sliding windows: which are open, and when each is due.

A window is due at the watermark `end + allowed lateness` and closed there, once. A slot is dropped when
its last window closed and `retention_ms` passed; where windows never close, that long after their end.
All windows that were due at `frontier_ms` are closed, except for keys that are withheld; it stands still while
none closes. `closed_ms` tells the same by the windows' starts, which stay what they are when lateness changes.
"""

from bisect import bisect_left
from collections.abc import Iterable
from heapq import heappop, heappush
from operator import itemgetter
from typing import Final

from pspf.windowing.definitions import SlidingWindow, TumblingWindow, Windowing
from pspf.windowing.event_time import Key

NEVER: Final = 1 << 62
BEGINNING: Final = -(1 << 62)
"""A watermark before all times."""


class SpanIndex:
    """Open and due windows. Slots are added by `open`; `next_ms` is the watermark that something waits for."""

    def __init__(self, windowing: Windowing, closed_ms: int = BEGINNING) -> None:
        window = windowing.window
        assert isinstance(window, TumblingWindow | SlidingWindow)
        self.size_ms, self.slide_ms, self.offset_ms = window.size_ms, window.slide_ms, window.offset_ms
        self.is_sliced = windowing.is_sliced
        self.is_multiple = isinstance(window, SlidingWindow) and not self.is_sliced
        """Whether a record is in several slots: overlapping windows that can't share slices."""
        self.starts_of = window.starts_of
        self.slot_ms = window.slice_ms if self.is_sliced else self.slide_ms
        self.closes = windowing.closes
        self.due_after_ms = windowing.due_after_ms
        """From a window's start to when it is due."""
        self._drop_after_ms = windowing.retention_ms + (self.due_after_ms if self.closes else self.size_ms)
        self.frontier_ms = BEGINNING if closed_ms == BEGINNING else closed_ms + self.due_after_ms
        self.next_ms = NEVER
        self.is_paused = False
        """Whether the earliest window is due and being closed, beside what comes; `next_ms` is of the one behind it."""
        self._open: list[tuple[int, int]] = []
        """The first and last start of open windows that lie side by side; in order, none beside another."""
        self._drops: list[tuple[int, int]] = []
        self.withheld: dict[Key, set[int]] = {}
        """Windows that are due, by a key that has a record held back: they close when it is done."""
        self._postponed: set[int] = set()

    @property
    def closed_ms(self) -> int:
        """The start of the last windows that are closed."""
        return BEGINNING if self.frontier_ms == BEGINNING else self.frontier_ms - self.due_after_ms

    def is_withheld(self, start: int, key: Key) -> bool:
        """Return whether a window that is due is open for a key."""
        return start in self.withheld.get(key, ())

    def starts_in(self, slot: int) -> range:
        """Return the windows that a slot is part of."""
        if not self.is_sliced:
            return range(slot, slot + 1)
        beyond = slot - self.size_ms
        first = beyond + self.slide_ms - (beyond - self.offset_ms) % self.slide_ms
        return range(first, slot + 1, self.slide_ms)

    def slots_of(self, start: int) -> range:
        """Return the slots that a window is made up of."""
        return range(start, start + self.size_ms, self.slot_ms) if self.is_sliced else range(start, start + 1)

    def open(self, slot: int, watermark_ms: int) -> None:
        """Note that a slot is there: its windows that are not due at a watermark will be, and it will be dropped."""
        starts = self.starts_in(slot)
        if self.closes and starts:
            low, bound = starts[0], watermark_ms - self.due_after_ms
            if low <= bound:
                low += ((bound - low) // self.slide_ms + 1) * self.slide_ms
            if low <= starts[-1]:
                self._add_open(low, starts[-1])
        heappush(self._drops, ((starts[-1] if starts else slot) + self._drop_after_ms, slot))
        self._look()

    def _add_open(self, low: int, high: int) -> None:
        begin = end = bisect_left(self._open, low - self.slide_ms, key=itemgetter(1))
        while end < len(self._open) and self._open[end][0] <= high + self.slide_ms:
            low, high = min(low, self._open[end][0]), max(high, self._open[end][1])
            end += 1
        self._open[begin:end] = [(low, high)]

    def get_due(self, watermark_ms: int) -> int | None:
        """Return the earliest window that is due and not closed."""
        if self._open and self._open[0][0] + self.due_after_ms <= watermark_ms:
            return self._open[0][0]
        return None

    def close(self, start: int) -> None:
        """Note that the earliest window is closed."""
        low, high = self._open[0]
        assert low == start
        if low == high:
            del self._open[0]
        else:
            self._open[0] = low + self.slide_ms, high
        self.is_paused = False
        self.frontier_ms = max(self.frontier_ms, start + self.due_after_ms)
        self._look()

    def pause(self) -> None:
        """Let the earliest window, which is due, be closed beside further records; slots to be dropped wait for it."""
        self.is_paused = True
        self._look()

    @property
    def _due_behind_ms(self) -> int:
        low, high = self._open[0]
        if low < high:
            return low + self.slide_ms + self.due_after_ms
        return self._open[1][0] + self.due_after_ms if len(self._open) > 1 else NEVER

    def take_drops(self, watermark_ms: int) -> list[int]:
        """Return the slots that are to be dropped, once nothing that is due is open."""
        dropped = []
        waiting = self._waiting_slots() if self._drops and self._drops[0][0] <= watermark_ms else ()
        while self._drops and self._drops[0][0] <= watermark_ms:
            slot = heappop(self._drops)[1]
            if slot in waiting:
                self._postponed.add(slot)
            else:
                dropped.append(slot)
        self._look()
        return dropped

    def _waiting_slots(self) -> set[int]:
        """Return the slots of the windows that stay open for a key."""
        starts = set().union(*self.withheld.values())
        return {slot for start in starts for slot in self.slots_of(start)}

    def pass_by(self, watermark_ms: int) -> None:
        """Note that all that was due at a watermark is done."""
        if self.closes:
            self.frontier_ms = max(self.frontier_ms, watermark_ms)

    def withhold(self, start: int, key: Key) -> None:
        """Let a window that is due stay open for one key."""
        self.withheld.setdefault(key, set()).add(start)

    def take_withheld(self, key: Key, watermark_ms: int = NEVER) -> list[int]:
        """Return the windows that stayed open for a key and were due at a watermark, in order; they are closed."""
        starts = self.withheld.get(key, set())
        taken = sorted(start for start in starts if start + self.due_after_ms <= watermark_ms)
        starts.difference_update(taken)
        if not starts:
            self.withheld.pop(key, None)
        return taken

    def take_postponed(self) -> list[int]:
        """Return the slots that could not be dropped when it was time, and now can."""
        if not self._postponed:
            return []
        free = sorted(self._postponed - self._waiting_slots())
        self._postponed -= set(free)
        return free

    def restore_withheld(self, pairs: Iterable[tuple[int, Key]]) -> None:
        """Take over what was withheld before a restart."""
        for start, key in pairs:
            self.withhold(start, key)

    @property
    def last_due_ms(self) -> int | None:
        """The watermark at which all that is open is due, None where nothing is."""
        return self._open[-1][1] + self.due_after_ms if self._open else None

    def _look(self) -> None:
        due_ms = self._open[0][0] + self.due_after_ms if self._open else NEVER
        drop_ms = self._drops[0][0] if self._drops else NEVER
        self.next_ms = self._due_behind_ms if self.is_paused else min(due_ms, drop_ms)
