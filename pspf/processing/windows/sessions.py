"""The sessions of each grouping key: which a record touches, when they are due, how they are stored.

Sessions of a key are stored together, under the key alone. All of them are in memory.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import count
from typing import Any, Final

from pspf.processing.windows.place import Key
from pspf.processing.windows.spans import NEVER
from pspf.processing.windows.table import LARGE_BYTES
from pspf.records import Record
from pspf.windows import SessionWindow, Windowing

_HEAD: Final = struct.Struct("<qqBqq")  # first, last, is closed; bytes of the state, number of records (-1: none)
_RECORD: Final = struct.Struct("<16sqqqq")  # offset; time; bytes of key, headers (-1: none) and value


class Session:
    """One session: the times of its first and last record, its state, and its records where they are kept."""

    __slots__ = ("first_ms", "is_closed", "is_fresh", "is_gone", "last_ms", "records", "state")

    def __init__(self, first_ms: int, last_ms: int, state: Any, records: list[Record] | None) -> None:
        self.first_ms = first_ms
        self.last_ms = last_ms
        self.state = state
        self.records = records
        self.is_closed = False
        self.is_fresh = False
        """Whether it changed since the last commit."""
        self.is_gone = False
        """Whether it became part of another one, or was dropped."""


class Sessions:
    """All sessions of one operator. `next_ms` is the watermark that something waits for."""

    def __init__(self, windowing: Windowing) -> None:
        assert isinstance(windowing.window, SessionWindow)
        self.gap_ms = windowing.window.gap_ms
        self.closes = windowing.closes
        # Closed for good when last + gap + allowed lateness < W; without closing, dropped after retention.
        self.due_after_ms = self.gap_ms + (windowing.allowed_lateness_ms + 1 if self.closes else windowing.retention_ms)
        self._retention_ms = windowing.retention_ms if self.closes else 0
        self.of_key: dict[Key, list[Session]] = {}
        self.dirty: set[Key] = set()
        self.sizes: dict[Key, int] = {}
        """The bytes of what is stored of keys, where it is much."""
        self._heap: list[tuple[int, int, Key, Session]] = []
        self._numbers = count()

    @property
    def next_ms(self) -> int:
        """A watermark before which nothing is due."""
        return self._heap[0][0] if self._heap else NEVER

    def due_ms(self, session: Session) -> int:
        """Return the watermark at which a session is closed, or, once it is, dropped."""
        return session.last_ms + self.due_after_ms + (self._retention_ms if session.is_closed else 0)

    def touching(self, key: Key, time_ms: int, at_ms: int) -> list[Session]:
        """Return the sessions that a record belongs to, by their beginning, but those that are due at `at_ms`."""
        gap_ms = self.gap_ms
        found = [
            session
            for session in self.of_key.get(key, ())
            if session.first_ms - gap_ms <= time_ms <= session.last_ms + gap_ms
            and not session.is_closed
            and (not self.closes or self.due_ms(session) > at_ms)
        ]
        if len(found) > 1:
            found.sort(key=_first_of)
        return found

    def put(self, key: Key, session: Session, instead_of: Sequence[Session] = ()) -> None:
        """Add a session, in the place of others that it is made of."""
        mine = self.of_key.setdefault(key, [])
        for other in instead_of:
            other.is_gone = True
            mine.remove(other)
        mine.append(session)
        self.dirty.add(key)
        self.watch(key, session)

    def watch(self, key: Key, session: Session) -> None:
        """See to it that a session is found when it is due."""
        heappush(self._heap, (self.due_ms(session), next(self._numbers), key, session))

    def take_due(self, watermark_ms: int) -> list[tuple[Key, Session]]:
        """Return what is due, in the order of ends; what is not done with it has to be watched again."""
        due: list[tuple[Key, Session]] = []
        seen: set[int] = set()  # one that was withheld may be watched twice
        while self._heap and self._heap[0][0] <= watermark_ms:
            _, _, key, session = heappop(self._heap)
            if session.is_gone or id(session) in seen:
                continue
            seen.add(id(session))
            if self.due_ms(session) > watermark_ms:  # it has grown since
                self.watch(key, session)
            else:
                due.append((key, session))
        due.sort(key=lambda entry: (entry[1].last_ms, entry[1].first_ms, entry[0] is not None, entry[0] or ""))
        return due

    def close(self, key: Key, session: Session) -> None:
        """Note that a session is closed; it stays as long as closed ones can be read."""
        self.dirty.add(key)
        if session.is_closed or not self._retention_ms:
            self.drop(key, session)
            return
        session.is_closed = True
        session.records = None
        self.watch(key, session)

    def drop(self, key: Key, session: Session) -> None:
        """Forget a session."""
        self.dirty.add(key)
        session.is_gone = True
        mine = self.of_key[key]
        mine.remove(session)
        if not mine:
            del self.of_key[key]

    def note_size(self, key: Key, size_bytes: int) -> None:
        """Remember how much is stored of a key, where it is much."""
        if size_bytes >= LARGE_BYTES:
            self.sizes[key] = size_bytes
        else:
            self.sizes.pop(key, None)

    def open_sessions(self) -> Iterator[Session]:
        """Give all sessions that are not closed."""
        return (session for mine in self.of_key.values() for session in mine if not session.is_closed)

    def restore(self, key: Key, sessions: Sequence[Session]) -> None:
        """Take over what is stored of a key."""
        self.of_key[key] = list(sessions)
        for session in sessions:
            self.watch(key, session)


def _first_of(session: Session) -> int:
    return session.first_ms


def encode_sessions(sessions: Sequence[Session], encode: Callable[[Any], bytes]) -> bytes:
    """Return the sessions of a key as they are stored."""
    parts: list[bytes] = []
    for session in sessions:
        state = None if session.state is None else encode(session.state)
        kept = session.records
        parts.append(
            _HEAD.pack(
                session.first_ms,
                session.last_ms,
                session.is_closed,
                -1 if state is None else len(state),
                -1 if kept is None else len(kept),
            )
        )
        parts.append(state or b"")
        for record in kept or ():
            key, headers = record.raw_key, record.raw_headers
            lengths = (-1 if key is None else len(key), -1 if headers is None else len(headers), len(record.value))
            parts.append(_RECORD.pack(record.offset.to_bytes(16, "big"), record.timestamp_ms, *lengths))
            parts += [key or b"", headers or b"", record.value]
    return b"".join(parts)


def decode_sessions(stored: bytes, decode: Callable[[bytes], Any], topic: str, partition: int) -> list[Session]:
    """Return the sessions that `encode_sessions` was given."""
    sessions: list[Session] = []
    at = 0

    def take(length: int) -> bytes | None:
        nonlocal at
        if length < 0:
            return None
        at += length
        return stored[at - length : at]

    while at < len(stored):
        first_ms, last_ms, is_closed, state_bytes, records = _HEAD.unpack_from(stored, at)
        at += _HEAD.size
        state = take(state_bytes)
        kept: list[Record] | None = None if records < 0 else []
        for _ in range(records):
            raw_offset, timestamp_ms, key_bytes, header_bytes, value_bytes = _RECORD.unpack_from(stored, at)
            at += _RECORD.size
            key, headers, value = take(key_bytes), take(header_bytes), take(value_bytes)
            assert kept is not None
            offset = int.from_bytes(raw_offset, "big")
            kept.append(Record(topic, partition, offset, key, value or b"", headers, timestamp_ms))
        session = Session(first_ms, last_ms, None if state is None else decode(state), kept)
        session.is_closed = bool(is_closed)
        sessions.append(session)
    return sessions
