"""The session index: open sessions of each grouping key, in memory, and when each is due."""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from itertools import count, pairwise
from typing import Any

from pspf.records import Record
from pspf.windowing.definitions import SessionWindow, Windowing
from pspf.windowing.event_time import Key
from pspf.windowing.spans import BEGINNING, NEVER


class SessionSpan:
    """One session: the times of its first and last record, its state, and its records where they are kept."""

    __slots__ = (
        "first_ms",
        "is_closed",
        "is_fresh",
        "is_gone",
        "last_ms",
        "number",
        "paged",
        "pages",
        "records",
        "rows",
        "size_bytes",
        "state",
        "state_bytes",
    )

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
        self.number = 0
        """Its number among the sessions of its key, part of its entry keys."""
        self.rows = 0
        """How many rows are stored: the first for its times and state, the others are pages of its records."""
        self.pages = 0
        """How many of these pages are full, and written no more."""
        self.paged = 0
        """How many of its records are in full pages."""
        self.state_bytes = 0
        self.size_bytes = 0
        """The bytes of all its rows, and of the records that came since, about."""


class SessionIndex:
    """All sessions of one operator. `next_ms` is the watermark that something waits for."""

    def __init__(self, windowing: Windowing) -> None:
        assert isinstance(windowing.window, SessionWindow)
        self.gap_ms = windowing.window.gap_ms
        self.closes = windowing.closes
        # Closed for good when last + gap + allowed lateness < W; without closing, dropped after retention.
        self.due_after_ms = self.gap_ms + (windowing.allowed_lateness_ms + 1 if self.closes else windowing.retention_ms)
        self._retention_ms = windowing.retention_ms if self.closes else 0
        self.of_key: dict[Key, list[SessionSpan]] = {}
        """The sessions that are not closed, by the time of their last record."""
        self.dirty: dict[SessionSpan, Key] = {}
        """Sessions that changed since the last commit, closed ones included."""
        self.judged_ms = BEGINNING
        """The highest watermark that a record was judged by. A session not due at it is reached by no later one."""
        self._heap: list[tuple[int, int, Key, SessionSpan]] = []
        self._numbers = count()
        self._next_number = 0

    @property
    def next_ms(self) -> int:
        """A watermark before which nothing is due."""
        return self._heap[0][0] if self._heap else NEVER

    def due_ms(self, session: SessionSpan) -> int:
        """Return the watermark at which a session is closed, or, once it is, dropped."""
        return session.last_ms + self.due_after_ms + (self._retention_ms if session.is_closed else 0)

    def touching(self, key: Key, time_ms: int, at_ms: int) -> list[SessionSpan]:
        """Return the sessions that a record belongs to, by their beginning, but those that are due at `at_ms`."""
        mine = self.of_key.get(key)
        if not mine:
            return []
        gap_ms, closes = self.gap_ms, self.closes
        if at_ms > self.judged_ms:
            self.judged_ms = at_ms
        found: list[SessionSpan] = []
        for at in range(bisect_left(mine, time_ms - gap_ms, key=_last_of), len(mine)):
            session = mine[at]
            if session.first_ms - gap_ms > time_ms:
                if not closes or self.due_ms(session) > self.judged_ms:
                    break
            elif not closes or self.due_ms(session) > at_ms:
                found.append(session)
        if len(found) > 1:
            found.sort(key=_first_of)
        return found

    def put(self, key: Key, session: SessionSpan, instead_of: Sequence[SessionSpan] = ()) -> None:
        """Add a session, in the place of others that it is made of."""
        for other in instead_of:
            self.drop(key, other)
        session.number, self._next_number = self._next_number, self._next_number + 1
        insort(self.of_key.setdefault(key, []), session, key=_last_of)
        self.dirty[session] = key
        self.watch(key, session)

    def watch(self, key: Key, session: SessionSpan) -> None:
        """See to it that a session is found when it is due."""
        heappush(self._heap, (self.due_ms(session), next(self._numbers), key, session))

    def take_due(self, watermark_ms: int) -> list[tuple[Key, SessionSpan]]:
        """Return the sessions that are due, in the order of ends; one that is not closed has to be watched again."""
        due: list[tuple[Key, SessionSpan]] = []
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

    def close(self, key: Key, session: SessionSpan) -> None:
        """Note that a session is closed; it stays as long as closed ones can be read."""
        if session.is_closed or not self._retention_ms:
            self.drop(key, session)
            return
        self._take_out(key, session)
        self.dirty[session] = key
        session.is_closed = True
        session.records = None
        self.watch(key, session)

    def drop(self, key: Key, session: SessionSpan) -> None:
        """Forget a session."""
        self.dirty[session] = key
        session.is_gone = True
        if not session.is_closed:
            self._take_out(key, session)

    def _take_out(self, key: Key, session: SessionSpan) -> None:
        mine = self.of_key[key]
        at = bisect_left(mine, session.last_ms, key=_last_of)
        while mine[at] is not session:
            at += 1
        del mine[at]
        if not mine:
            del self.of_key[key]

    def open_sessions(self) -> Iterator[SessionSpan]:
        """Give all sessions that are not closed."""
        return (session for mine in self.of_key.values() for session in mine)

    def restore(self, key: Key, sessions: Sequence[SessionSpan]) -> None:
        """Take over the stored sessions of a key."""
        mine = sorted((session for session in sessions if not session.is_closed), key=_last_of)
        if mine:
            self.of_key[key] = mine
        if any(one.first_ms > other.first_ms for one, other in pairwise(mine)):
            self.judged_ms = NEVER
        for session in sessions:
            self._next_number = max(self._next_number, session.number + 1)
            self.watch(key, session)

    def give_number(self, session: SessionSpan) -> None:
        """Give a session a number that has none yet: it was stored with its key's others."""
        session.number, self._next_number = self._next_number, self._next_number + 1


def _first_of(session: SessionSpan) -> int:
    return session.first_ms


def _last_of(session: SessionSpan) -> int:
    return session.last_ms
