"""What commits did to the windows of a cursor, on top of the rows of its states: as bytes, and as they are looked at.

Nearly every key of a commit has a page of its own among 100,000 others, so that each state that is written as a row
writes a page. In the log they are one value a commit; what comes of it is written as rows now and then, in the order
of the pages. A window that is dropped before that has never been among the rows.

Bytes: the numbers of dropped slots and of states; the slots, the lengths of the keys and of the states (-1: deleted)
as arrays of 64 bits in little-endian order; the keys; the states.
"""

import sys
from array import array
from bisect import bisect_right, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise, repeat
from typing import Final
from weakref import WeakSet

from pspf.errors import BackendCorrupt
from pspf.records import WindowStates


@dataclass(frozen=True, slots=True)
class Size:
    """What logs hold before one is written as rows, commits of each and all else together: they are in memory, too.

    A new owner reads as much before its first event. A window of 600,000 keys that closes before has no rows.
    """

    commits: int = 1_000
    states: int = 1_000_000
    size_bytes: int = 64 << 20


_HEAD_BYTES: Final = 16
_FEW: Final = 16
"""Of so many changes in a log one or none is still a row to be written, where it is written ahead of time."""


def encode(dropped: Sequence[int], states: WindowStates) -> bytes:
    """Return what a commit did: slots are dropped first, then states are set (None: gone)."""
    keys = [key for keys in states.values() for key in keys]
    values = [value for keys in states.values() for value in keys.values()]
    numbers = array("q", (len(dropped), len(keys)))
    numbers.extend(dropped)
    for slot, found in states.items():
        numbers.extend(repeat(slot, len(found)))
    numbers.extend(map(len, keys))
    numbers.extend([-1 if value is None else len(value) for value in values])
    _swap(numbers)
    return b"".join((numbers.tobytes(), *keys, *[value for value in values if value is not None]))


def decode(stored: bytes) -> tuple[Sequence[int], WindowStates]:
    """Return the dropped slots and the states that `encode` was given.

    Raises:
        BackendCorrupt: They are not what it gave.
    """
    try:
        dropped, count = _numbers(stored[:_HEAD_BYTES])
        begin = _HEAD_BYTES + 8 * (dropped + 3 * count)
        numbers = _numbers(stored[_HEAD_BYTES:begin])
    except ValueError as error:
        raise BackendCorrupt(f"a change of windows is no such: {error}") from error
    slots = numbers[dropped : dropped + count]
    key_bytes = numbers[dropped + count : dropped + 2 * count]
    value_bytes = numbers[dropped + 2 * count :]
    key_ends = list(accumulate(key_bytes, initial=begin))
    value_ends = list(accumulate([max(0, length) for length in value_bytes], initial=key_ends[-1]))
    if value_ends[-1] != len(stored):
        raise BackendCorrupt(f"a change of windows has {len(stored)} bytes and says {value_ends[-1]}")
    keys = [stored[at:end] for at, end in pairwise(key_ends)]
    values = [
        None if length < 0 else stored[at : at + length] for at, length in zip(value_ends, value_bytes, strict=False)
    ]
    states: dict[int, dict[bytes, bytes | None]] = {}
    begin = 0
    for slot, group in groupby(slots):
        end = begin + len(list(group))
        states.setdefault(slot, {}).update(zip(keys[begin:end], values[begin:end], strict=True))
        begin = end
    return numbers[:dropped], states


def _numbers(stored: bytes) -> "array[int]":
    numbers = array("q", stored)
    _swap(numbers)
    return numbers


def _swap(numbers: "array[int]") -> None:
    if sys.byteorder == "big":
        numbers.byteswap()


class Pool:
    """The overlays of a worker's cursors, of those that it still has."""

    def __init__(self, most: Size | None = None) -> None:
        self.most = most or Size()
        self._overlays: WeakSet[Overlay] = WeakSet()

    def enter(self, overlay: "Overlay") -> None:
        self._overlays.add(overlay)

    def has_room(self, size_bytes: int, states: int) -> bool:
        """Whether so much more fits."""
        for overlay in self._overlays:
            size_bytes += overlay.size_bytes
            states += overlay.states
        return size_bytes <= self.most.size_bytes and states <= self.most.states


class Overlay:
    """What a log says: the states that changed, by slot and key, and the slots whose rows do not count any more."""

    def __init__(self, pool: Pool | None = None) -> None:
        self.slots: dict[int, dict[bytes, bytes | None]] = {}
        self.dropped: set[int] = set()
        self.size_bytes = 0
        """What the log takes."""
        self.states = 0
        """What would be written as rows."""
        self._commits = 0
        self._changes = 0
        self._pool = pool or Pool()
        self._pool.enter(self)
        self._ordered: dict[int, list[bytes]] = {}
        """The keys of slots that are read page by page, in order."""

    @property
    def is_empty(self) -> bool:
        return not self._commits

    def has_room(self, size_bytes: int, states: int) -> bool:
        """Whether one more commit of this size can go into the log."""
        most = self._pool.most
        if self.size_bytes >= most.size_bytes // 4 and self.states * _FEW <= self._changes:
            return False  # now it costs next to nothing: most of it was dropped since
        return self._commits < most.commits and self._pool.has_room(size_bytes, states)

    def add(self, dropped: Iterable[int], states: WindowStates, size_bytes: int) -> None:
        """Take in a commit that is in the log with so many bytes."""
        self._commits += 1
        self.size_bytes += size_bytes
        slots = self.slots
        for slot in dropped:
            self.states -= len(slots.pop(slot, ()))
            self._ordered.pop(slot, None)
            self.dropped.add(slot)
        for slot, changed in states.items():
            keys = slots.setdefault(slot, {})
            ordered = self._ordered.get(slot)
            if ordered is not None:
                for key in changed.keys() - keys.keys():
                    insort(ordered, key)
            before = len(keys)
            keys.update(changed)
            self.states += len(keys) - before
            self._changes += len(changed)

    def clear(self) -> None:
        """Forget all: it is in the rows."""
        self.slots.clear()
        self.dropped.clear()
        self._ordered.clear()
        self._commits = self._changes = self.size_bytes = self.states = 0

    def keys_between(self, slot: int, after: bytes | None, last: bytes | None) -> Sequence[bytes]:
        """Return the keys of a slot behind `after`, up to and with `last` (None: the slot's end), in order."""
        keys = self.slots.get(slot)
        if not keys:
            return ()
        ordered = self._ordered.get(slot)
        if ordered is None:
            ordered = self._ordered[slot] = sorted(keys)
        begin = 0 if after is None else bisect_right(ordered, after)
        return ordered[begin : len(ordered) if last is None else bisect_right(ordered, last)]

    def rows(self, cursor_id: int) -> list[tuple[int, int, bytes, bytes]]:
        """Return the states that there are, as rows in the order of their pages."""
        return [
            (cursor_id, slot, key, state)
            for slot in sorted(self.slots)
            for key, state in sorted(self.slots[slot].items())
            if state is not None
        ]

    def gone(self, cursor_id: int) -> list[tuple[int, int, bytes]]:
        """Return the places whose rows are to be removed, beside those of dropped slots."""
        return [
            (cursor_id, slot, key)
            for slot, keys in self.slots.items()
            if slot not in self.dropped
            for key, state in keys.items()
            if state is None
        ]
