"""The entry log: changes that commits made to the entries of a cursor, on top of their rows, as bytes and in memory.

Nearly every key of a commit has a page of its own among 100,000 others, so that each entry that is written as a row
writes a page. In the log they are one value a commit; what comes of it is written as rows now and then, in the order
of the pages. A namespace that is dropped before that has never been among the rows.

Bytes: the numbers of dropped namespaces and of entries; the namespaces, the lengths of the keys and of the values
(-1: deleted) as arrays of 64 bits in little-endian order; the keys; the values.
"""

import sys
from array import array
from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise, repeat
from typing import Final
from weakref import WeakSet

from pspf.errors import BackendCorrupt
from pspf.records import EntryChanges


@dataclass(frozen=True, slots=True)
class Size:
    """What logs hold before one is written as rows, commits of each and all else together: they are in memory, too.

    A new owner reads as much before its first event. A window of 600,000 keys that closes before has no rows.
    """

    commits: int = 1_000
    entries: int = 1_000_000
    size_bytes: int = 64 << 20


_HEAD_BYTES: Final = 16
_FEW: Final = 16
"""Of so many changes in a log one or none is still a row to be written, where it is written ahead of time."""


def encode(changes: EntryChanges) -> bytes:
    """Return what a commit did: namespaces are dropped first, then entries are set (None: gone)."""
    dropped, entries = changes.dropped, changes.entries
    keys = [key for keys in entries.values() for key in keys]
    values = [value for keys in entries.values() for value in keys.values()]
    numbers = array("q", (len(dropped), len(keys)))
    numbers.extend(dropped)
    for namespace, found in entries.items():
        numbers.extend(repeat(namespace, len(found)))
    numbers.extend(map(len, keys))
    numbers.extend([-1 if value is None else len(value) for value in values])
    _swap(numbers)
    return b"".join((numbers.tobytes(), *keys, *[value for value in values if value is not None]))


def decode(stored: bytes) -> EntryChanges:
    """Return the changes that `encode` was given.

    Raises:
        BackendCorrupt: They are not what it gave.
    """
    try:
        dropped, count = _numbers(stored[:_HEAD_BYTES])
        begin = _HEAD_BYTES + 8 * (dropped + 3 * count)
        numbers = _numbers(stored[_HEAD_BYTES:begin])
    except ValueError as error:
        raise BackendCorrupt(f"a change of entries is no such: {error}") from error
    namespaces = numbers[dropped : dropped + count]
    key_bytes = numbers[dropped + count : dropped + 2 * count]
    value_bytes = numbers[dropped + 2 * count :]
    key_ends = list(accumulate(key_bytes, initial=begin))
    value_ends = list(accumulate([max(0, length) for length in value_bytes], initial=key_ends[-1]))
    if value_ends[-1] != len(stored):
        raise BackendCorrupt(f"a change of entries has {len(stored)} bytes and says {value_ends[-1]}")
    keys = [stored[at:end] for at, end in pairwise(key_ends)]
    values = [
        None if length < 0 else stored[at : at + length] for at, length in zip(value_ends, value_bytes, strict=False)
    ]
    entries: dict[int, dict[bytes, bytes | None]] = {}
    begin = 0
    for namespace, group in groupby(namespaces):
        end = begin + len(list(group))
        entries.setdefault(namespace, {}).update(zip(keys[begin:end], values[begin:end], strict=True))
        begin = end
    return EntryChanges(numbers[:dropped], entries)


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

    def leave(self, overlay: "Overlay") -> None:
        self._overlays.discard(overlay)

    def has_room(self, size_bytes: int, entries: int) -> bool:
        """Whether so much more fits."""
        for overlay in self._overlays:
            size_bytes += overlay.size_bytes
            entries += overlay.entries
        return size_bytes <= self.most.size_bytes and entries <= self.most.entries


class Overlay:
    """What a log says: the entries that changed, by namespace and key, and the namespaces whose rows count no more."""

    def __init__(self, pool: Pool | None = None) -> None:
        self.namespaces: dict[int, dict[bytes, bytes | None]] = {}
        self.dropped: set[int] = set()
        self.size_bytes = 0
        """What the log takes."""
        self.entries = 0
        """What would be written as rows."""
        self.commits = 0
        self._changes = 0
        self._pool = pool or Pool()
        self._pool.enter(self)
        self._ordered: dict[int, list[bytes]] = {}
        """The keys of namespaces that are read page by page, in order."""

    @property
    def is_empty(self) -> bool:
        return not self.commits

    def has_room(self, size_bytes: int, entries: int) -> bool:
        """Whether one more commit of this size can go into the log."""
        most = self._pool.most
        if self.size_bytes >= most.size_bytes // 4 and self.entries * _FEW <= self._changes:
            return False  # now it costs next to nothing: most of it was dropped since
        return self.commits < most.commits and self._pool.has_room(size_bytes, entries)

    def add(self, changes: EntryChanges, size_bytes: int) -> None:
        """Take in a commit that is in the log with so many bytes."""
        self.commits += 1
        self.size_bytes += size_bytes
        namespaces = self.namespaces
        for namespace in changes.dropped:
            self.entries -= len(namespaces.pop(namespace, ()))
            self._ordered.pop(namespace, None)
            self.dropped.add(namespace)
        for namespace, changed in changes.entries.items():
            keys = namespaces.setdefault(namespace, {})
            ordered = self._ordered.get(namespace)
            if ordered is not None:
                for key in changed.keys() - keys.keys():
                    insort(ordered, key)
            before = len(keys)
            keys.update(changed)
            self.entries += len(keys) - before
            self._changes += len(changed)

    def join(self, before: "Overlay") -> "Overlay":
        """Take the place of an overlay among those of its worker; return this one."""
        self._pool = before._pool
        self._pool.leave(before)
        self._pool.enter(self)
        return self

    def keys_between(self, namespace: int, after: bytes | None, last: bytes | None) -> Sequence[bytes]:
        """Return the keys of a namespace behind `after`, up to and with `last` (None: its end), in order."""
        keys = self.namespaces.get(namespace)
        if not keys:
            return ()
        ordered = self._ordered.get(namespace)
        if ordered is None:
            ordered = self._ordered[namespace] = sorted(keys)
        begin = 0 if after is None else bisect_right(ordered, after)
        return ordered[begin : len(ordered) if last is None else bisect_right(ordered, last)]
