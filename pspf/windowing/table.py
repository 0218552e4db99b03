"""The table of window states in memory, by slot and grouping key, with the changes since the last commit.

A slot is a window's start, or that of a slice where windows share slices. Dicts of text to bytes are not
looked into by the garbage collector. A slot that is whole has all of its keys here; of others, and of those
that had to make room, the store knows more: `missing` says what to load before records are folded.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from pspf.records import EntryChanges, EntryPlace
from pspf.windowing.event_time import Key, decode_key, encode_key

LARGE_BYTES: Final = 4_096
"""From where on a state's size is worth remembering."""


class SlotEntries:
    """The states of one slot. `dirty` are the keys whose state changed; one that is not in `entries` is gone.

    `sizes` are the bytes of the large states, as they were stored.
    """

    __slots__ = ("dirty", "entries", "is_stored", "is_whole", "sizes")

    def __init__(self, *, is_stored: bool) -> None:
        self.entries: dict[Key, Any] = {}
        self.dirty: set[Key] = set()
        self.sizes: dict[Key, int] = {}
        self.is_stored = is_stored
        self.is_whole = not is_stored


class Table:
    """All slots of one operator. `max_entries` is how many states stay in memory."""

    def __init__(
        self,
        encode_all: Callable[[Sequence[Any]], Sequence[bytes]],
        decode: Callable[[bytes], Any],
        max_entries: int,
        stored: Iterable[int],
    ) -> None:
        self.slots: dict[int, SlotEntries] = {start: SlotEntries(is_stored=True) for start in stored}
        self.touched: set[int] = set()
        """The slots that may have dirty keys."""
        self._encode_all = encode_all
        self._decode = decode
        self._max_entries = max_entries
        self._dropped: list[int] = []
        self._partial = set(self.slots)
        self._ordered: tuple[int, list[bytes]] | None = None
        """The keys that were in memory when a slot began to be read page by page, in their order."""

    def open(self, start: int) -> SlotEntries:
        """Return a new slot at `start`."""
        slot = self.slots[start] = SlotEntries(is_stored=False)
        return slot

    def drop(self, start: int) -> None:
        """Forget a slot and all its states."""
        slot = self.slots.pop(start)
        self.touched.discard(start)
        self._partial.discard(start)
        if self._ordered is not None and self._ordered[0] == start:
            self._ordered = None
        if slot.is_stored:
            self._dropped.append(start)

    @property
    def has_partial(self) -> bool:
        """Whether there is a slot that is not whole."""
        return bool(self._partial)

    def missing(self, places: Iterable[tuple[int, Key]]) -> list[EntryPlace]:
        """Return which states have to be loaded before these are folded."""
        wanted: dict[EntryPlace, None] = {}
        for start, key in places:
            if start in self._partial:
                slot = self.slots[start]
                if key not in slot.entries and key not in slot.dirty:
                    wanted[start, encode_key(key)] = None
        return list(wanted)

    def fill(self, found: Mapping[EntryPlace, bytes]) -> None:
        """Take in what was loaded."""
        for (start, stored_key), value in found.items():
            key, slot = decode_key(stored_key), self.slots[start]
            slot.entries[key] = self._decode(value)
            if len(value) >= LARGE_BYTES:
                slot.sizes[key] = len(value)

    def fill_page(self, start: int, page: Iterable[tuple[bytes, bytes]]) -> None:
        """Take in a page of a slot, except for states that are newer in memory."""
        slot = self.slots[start]
        for stored_key, value in page:
            key = decode_key(stored_key)
            if key not in slot.entries and key not in slot.dirty:
                slot.entries[key] = self._decode(value)
                if len(value) >= LARGE_BYTES:
                    slot.sizes[key] = len(value)

    def overlay(
        self, start: int, page: Sequence[tuple[bytes, bytes]], low: bytes | None, *, is_last: bool
    ) -> Iterator[tuple[Key, Any]]:
        """Return the states of a page of a slot as they are now, in the order of keys.

        `page` holds the stored states behind the key `low`; states in memory alone are merged in by key, up
        to the page's end (with `is_last` to the slot's).
        """
        slot = self.slots[start]
        if self._ordered is None or self._ordered[0] != start or low is None:
            self._ordered = start, sorted(map(encode_key, slot.entries))
        ordered = self._ordered[1]
        begin = 0 if low is None else bisect_right(ordered, low)
        end = len(ordered) if is_last or not page else bisect_right(ordered, page[-1][0])
        states: dict[bytes, Any] = {}
        for stored_key, value in page:
            key = decode_key(stored_key)
            if key not in slot.entries and key not in slot.dirty:
                states[stored_key] = self._decode(value)
        for stored_key in ordered[begin:end]:
            key = decode_key(stored_key)
            if key in slot.entries:
                states[stored_key] = slot.entries[key]
        for stored_key in sorted(states):
            yield decode_key(stored_key), states[stored_key]

    def make_whole(self, start: int) -> None:
        """Note that all of a slot's stored states have been filled in."""
        self.slots[start].is_whole = True
        self._partial.discard(start)

    @property
    def dirty(self) -> int:
        """How many states changed since the last commit."""
        return sum(len(self.slots[start].dirty) for start in self.touched)

    def take_changes(self) -> EntryChanges:
        """Return what changed since the last call, for the commit, and make room."""
        states: dict[int, dict[bytes, bytes | None]] = {}
        for start in sorted(self.touched):
            slot = self.slots[start]
            if slot.dirty:
                changed = self._changes_of(slot)
                if changed:
                    states[start] = changed
                slot.is_stored = True
                slot.dirty = set()
        self.touched.clear()
        dropped, self._dropped = self._dropped, []
        self._make_room()
        return EntryChanges(dropped, states)

    def _changes_of(self, slot: SlotEntries) -> dict[bytes, bytes | None]:
        entries, dirty = slot.entries, slot.dirty
        kept = [key for key in dirty if key in entries]
        encoded = self._encode_all([entries[key] for key in kept])
        if slot.sizes or max(map(len, encoded), default=0) >= LARGE_BYTES:
            for key, state in zip(kept, encoded, strict=True):
                if len(state) >= LARGE_BYTES:
                    slot.sizes[key] = len(state)
                else:
                    slot.sizes.pop(key, None)
        changed: dict[bytes, bytes | None] = dict(zip(map(encode_key, kept), encoded, strict=True))
        if slot.is_stored and len(kept) < len(dirty):
            changed.update((encode_key(key), None) for key in dirty if key not in entries)
        return changed

    def _make_room(self) -> None:
        """Forget states that are stored, the oldest slots' first, down to three quarters of what may stay."""
        total = sum([len(slot.entries) for slot in self.slots.values()])
        if total <= self._max_entries:
            return
        excess = total - self._max_entries * 3 // 4
        for start in sorted(self.slots):
            slot = self.slots[start]
            if not slot.entries:
                continue
            gone = min(excess, len(slot.entries))
            slot.entries = dict(islice(slot.entries.items(), gone, None))
            slot.is_whole = False
            self._partial.add(start)
            excess -= gone
            if excess <= 0:
                return
