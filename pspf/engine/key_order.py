"""Order per key while records fail: which records wait, and for which others.

A failed record holds back the later ones of its key, and no others. Both are kept beside the
cursor's position, so that it moves on. Records without a key hold back none. No record is due
before the first of its key: a broker would give it again and again, and none could run.
"""

from bisect import insort
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from enum import Enum
from itertools import islice, takewhile
from typing import Final

from pspf.records import Record, Retry

_RELEASED: Final = 300
"""How many records a commit lets go at once, beside one of each key: each is a write."""


class Verdict(Enum):
    """What is to be done with a record that was read."""

    RUN = "run"
    HOLD = "hold"
    """It is new, and an earlier record of its key is not done."""
    SKIP = "skip"
    """It was read ahead, and has been settled or put off since."""


def key_of_record(record: Record) -> bytes | None:
    """Return the key that a record's order belongs to, where nothing else is said."""
    return record.raw_key


class KeyOrder:
    """The records before the position that are not done. Changes are collected for the next commit.

    `key_of` says in which order a record stands, None for one that stands alone.
    """

    def __init__(
        self, rows: Sequence[Retry], position: int, key_of: Callable[[Record], bytes | None] = key_of_record
    ) -> None:
        self.key_of = key_of
        self._rows = {row.offset: row for row in rows}
        self._of_key: dict[bytes, list[int]] = {}
        self._changes: dict[int, Retry] = {}
        self.position = position
        """The first offset that no earlier batch has read."""
        for row in sorted(rows, key=lambda row: row.offset):
            if row.key is not None:
                self._of_key.setdefault(row.key, []).append(row.offset)
        for key in self._of_key:
            self._wait_for_first(key)

    def __len__(self) -> int:
        return len(self._rows)

    def knows(self, record: Record) -> bool:
        """Return whether a record is from before the position: not done, or settled since it was read."""
        return record.offset in self._rows or record.offset < self.position

    def is_waiting(self, offset: int) -> bool:
        """Return whether the record at `offset` was read and is not done."""
        return offset in self._rows

    @property
    def keys(self) -> Collection[bytes]:
        """The keys of which a record is not done."""
        return self._of_key.keys()

    def holds(self, key: bytes) -> bool:
        """Return whether a record of `key` is not done."""
        return key in self._of_key

    def admit(self, record: Record, now_ms: int) -> Verdict:
        """Return whether a record of a batch may run now. Asked once a record, in order within its key.

        One that has run since it was read is given again by the broker, with its new attempts.
        """
        row = self._rows.get(record.offset)
        if row is None:
            if record.offset < self.position:
                return Verdict.SKIP
            return Verdict.HOLD if self._of_key and self.key_of(record) in self._of_key else Verdict.RUN
        if row.due_ms is None or row.due_ms > now_ms or row.attempts != record.attempts:
            return Verdict.SKIP
        if row.key is not None and self._of_key[row.key][0] != row.offset:
            return Verdict.SKIP
        return Verdict.RUN

    def blocks(self, record: Record) -> bool:
        """Return whether an earlier record of the same key is not done."""
        key = self.key_of(record)
        return key is not None and self._of_key.get(key, [record.offset])[0] < record.offset

    def hold(self, record: Record) -> None:
        """Put a new record behind the earlier ones of its key."""
        self._put(Retry(record.offset, self.key_of(record), record.attempts, None))

    def put_off(self, record: Record, attempts: int, due_ms: int, error: str) -> None:
        """Let a record that failed wait until `due_ms`, and the later ones of its key with it."""
        known = self._rows.get(record.offset)
        key = self.key_of(record) if known is None else known.key
        self._put(Retry(record.offset, key, attempts, due_ms, error))
        if key is not None:
            self._wait_for_first(key)

    def settle(self, record: Record, now_ms: int) -> None:
        """Let go of a record that succeeded or is dead; the next ones of its key are due."""
        row = self._rows.pop(record.offset, None)
        if row is None:
            return
        self._changes.pop(record.offset, None)
        if row.key is None:
            return
        offsets = self._of_key[row.key]
        offsets.remove(row.offset)
        if not offsets:
            del self._of_key[row.key]
        else:
            self._release(offsets, now_ms)

    def _release(self, offsets: Sequence[int], now_ms: int) -> None:
        """Let the first of a key's records be due, each before the next one.

        A broker gives the first ones by their due time: of those that are due at one time it may give the last ones,
        and none of these could run.
        """
        most = max(1, _RELEASED - len(self._changes))
        held = takewhile(lambda offset: self._rows[offset].due_ms is None, islice(offsets, most))
        released = list(held)
        for due_ms, offset in enumerate(released, now_ms - len(released) + 1):
            self._put(replace(self._rows[offset], due_ms=due_ms))

    def _wait_for_first(self, key: bytes) -> None:
        """Let no record of a key be due before its first one is."""
        first, *later = self._of_key[key]
        first_ms = self._rows[first].due_ms
        for offset in later:
            due_ms = self._rows[offset].due_ms
            if due_ms is not None and (first_ms is None or due_ms < first_ms):
                self._put(replace(self._rows[offset], due_ms=None))

    def _put(self, row: Retry) -> None:
        is_known = row.offset in self._rows
        self._rows[row.offset] = row
        self._changes[row.offset] = row
        if row.key is not None and not is_known:
            insort(self._of_key.setdefault(row.key, []), row.offset)

    def take_changes(self) -> tuple[Retry, ...]:
        """Return what changed since the last call, for the commit."""
        changes, self._changes = self._changes, {}
        return tuple(changes.values())
