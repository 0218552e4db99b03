"""Session windows on one cursor.

Two states become one where the aggregation can merge them. Where it can't, a session keeps its records
while it is open, and one that bridges two has all of them folded again, in the order they came in.
"""

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from pspf.context import HandlerScope
from pspf.engine.batch_outcome import BatchRun
from pspf.engine.operators.host import BREATH_RECORDS, Aside, Item, OperatorHost, OperatorScope, TooLate
from pspf.errors import StateUnreadable
from pspf.events.decoding import Decoder, SectionDecoder
from pspf.records import Record
from pspf.subscription import Subscription
from pspf.windowing.event_time import Key, decode_key, encode_key
from pspf.windowing.folds import HandlerFold
from pspf.windowing.progress import Progress
from pspf.windowing.session_rows import ROWS, TOGETHER, decode_sessions, read_rows, rows_of
from pspf.windowing.sessions import SessionIndex, SessionSpan
from pspf.windowing.spans import BEGINNING, NEVER
from pspf.windowing.table import LARGE_BYTES, Changes

_PAGE: Final = 1_000

_T = TypeVar("_T")


class SessionWindows(OperatorHost):
    """Keeps the sessions of each key, and closes them as they are due."""

    def __init__(
        self,
        subscription: Subscription,
        decode: Decoder,
        read: SectionDecoder,
        around: HandlerScope,
        room: OperatorScope,
    ) -> None:
        super().__init__(subscription, decode, read, around, room)
        self._sessions = SessionIndex(self.windowing)
        self._bound_ms = NEVER
        """The earliest watermark at which a session of the section in hand could be due."""
        self._closed_ms = BEGINNING
        """Sessions whose last record is not after it are closed."""
        self._withheld: set[Key] = set()
        self._together: dict[Key, Sequence[SessionSpan]] = {}
        """The sessions of the keys whose sessions are stored together: they get rows when one of them changes."""
        self._updates = self.windowing.emit == "updates"
        self._keeps_records = not self.fold.can_merge

    async def restore(self, progress: Progress, *, is_new: bool) -> None:
        sessions = self._sessions = SessionIndex(self.windowing)
        self._together = {}
        found: dict[Key, list[SessionSpan]] = {}
        if not is_new:
            cursor = self.room.consumer.cursor
            place = (self.fold.decode, cursor.topic, cursor.partition)
            for stored_key, stored in await self._scan(TOGETHER):
                key = decode_key(stored_key)
                found[key] = list(self._decoded(lambda: decode_sessions(stored, *place)))  # noqa: B023 (called here)
                self._together[key] = tuple(found[key])
            rows = await self._scan(ROWS)
            for key, session in self._decoded(lambda: [*read_rows(rows, *place)]):
                found.setdefault(key, []).append(session)
            for key, mine in found.items():
                self._check_records(mine)
                sessions.restore(key, mine)
        self._closed_ms = progress.closed_ms
        self.floor_ms = BEGINNING if self._closed_ms == BEGINNING else self._closed_ms + self.windowing.due_after_ms
        sessions.judged_ms = max(sessions.judged_ms, progress.watermark_ms, self.floor_ms)
        if self._updates and progress.emission != "updates":
            self._mark_unsent()

    async def _scan(self, slot: int) -> Sequence[tuple[bytes, bytes]]:
        """Return what is stored in a slot, by key."""
        consumer, after = self.room.consumer, None
        found: list[tuple[bytes, bytes]] = []
        while True:
            begin = after
            page = await self.ask(
                "read windows",
                lambda: consumer.scan_windows(slot, after=begin, max_entries=_PAGE),  # noqa: B023 (awaited here)
            )
            found += page
            if len(page) < _PAGE:
                return found
            after = page[-1][0]

    def _decoded(self, decode: Callable[[], _T]) -> _T:
        try:
            return decode()
        except (struct.error, OverflowError, ValueError) as error:
            raise self.fold.unreadable(error) from error

    def _check_records(self, sessions: Sequence[SessionSpan]) -> None:
        if self._keeps_records and any(one.records is None and not one.is_closed for one in sessions):
            raise StateUnreadable(
                f"handler {self._name} has open sessions that were made with merge=, and has none now: without their"
                " records they can't be joined; give merge= again, or another name="
            )

    def _mark_unsent(self) -> None:
        """Let what is open go out with the next commit: its updates were not asked for before.

        Raises:
            StateUnreadable: It is more than one commit may hold.
        """
        sessions, most = self._sessions, self.room.limits.record_operations // 2
        for key, mine in sessions.of_key.items():
            for session in mine:
                session.is_fresh = True
                sessions.dirty[session] = key
        count = sum(map(len, sessions.of_key.values()))
        if count > most:
            raise StateUnreadable(
                f"handler {self._name} has over {most:,} open sessions to emit as updates, which it did not emit"
                " before: give it another name=, or close them first by a worker with --final"
            )

    def next_ms(self) -> int:
        return min(self._bound_ms, self._sessions.next_ms)

    def last_due_ms(self) -> int:
        due = (self._sessions.due_ms(session) for session in self._sessions.open_sessions())
        return max(due, default=self.watermark_ms) if self._sessions.closes else self.watermark_ms

    def place(self, time_ms: int, key: Key, at_ms: int) -> int:
        due_ms = time_ms + self._sessions.due_after_ms
        # One that is late alone can only make longer what is due later; whether it does is seen when it is folded.
        if due_ms < self._bound_ms and (due_ms > at_ms or not self._sessions.closes):
            self._bound_ms = due_ms
        return time_ms

    # Folding

    async def fold_section(self, section: Sequence[Item], run: BatchRun) -> int:
        for taken, item in enumerate(section):
            if not taken % BREATH_RECORDS:
                await self.breathe(run)
            where = item[3]
            touching = () if isinstance(where, Aside) else self._sessions.touching(item[2], where, item[4])
            whole = self._count_whole(touching)
            if run.is_closed or (whole and not self.has_room(whole)):
                run.is_closed = True
                self._bound_ms = NEVER
                return taken
            if run.has_to_ask and not self.admit(item, run):
                continue
            if isinstance(where, Aside):
                self.set_aside(item, run)
                continue
            self.call.record = item[0]
            try:
                is_late = await self._fold(item, touching, whole, run)
            except BaseException as error:  # the boundary of the record
                self.fail(item, error, run)
                continue
            if run.has_to_ask and not is_late:
                if self._sessions.closes:
                    self._withheld.add(item[2])
                run.succeed(item[0])
        self._bound_ms = NEVER
        return len(section)

    async def _fold(self, item: Item, touching: Sequence[SessionSpan], whole: int, run: BatchRun) -> bool:
        """Aggregate one record; return whether it was late instead. What raises has changed nothing."""
        record, event, key, time_ms, at_ms = item
        sessions = self._sessions
        self._weigh_growth(record, touching, whole, run)
        first_ms = min([time_ms, *(session.first_ms for session in touching)])
        last_ms = max([time_ms, *(session.last_ms for session in touching)])
        due_ms = last_ms + self.windowing.due_after_ms
        limit_ms = at_ms if sessions.closes else self.floor_ms
        if due_ms <= limit_ms:
            self.send_late(item, TooLate(first_ms, last_ms + sessions.gap_ms, limit_ms - due_ms + 1), run)
            return True
        if len(touching) == 1:
            session = touching[0]
            session.state = await self.grow(event, record, session.state)
            session.first_ms, session.last_ms = first_ms, last_ms
            if session.records is not None:
                session.records.append(record)
                session.size_bytes += len(record.value)
            sessions.dirty[session] = key
        else:
            state, records = await self._join(touching, event, record)
            session = SessionSpan(first_ms, last_ms, state, records)
            if records is not None:
                session.size_bytes = len(record.value) + sum([one.size_bytes - one.state_bytes for one in touching])
            run.count(sum([one.rows for one in touching]), 0)
            sessions.put(key, session, touching)
        session.is_fresh = True
        if isinstance(self.fold, HandlerFold) and session.state is not None:
            self.weigh(record, len(session.state), run)
        return False

    def _count_whole(self, touching: Sequence[SessionSpan]) -> int:
        """Return the bytes of what is written as a whole where it is much and a record comes to these sessions.

        Of one session that is its state, once a batch; sessions that become one are written with all their records.
        """
        if not touching:
            return 0
        if len(touching) > 1:
            whole = sum([session.size_bytes for session in touching])
        else:
            whole = 0 if touching[0] in self._sessions.dirty else touching[0].state_bytes
        return whole if whole >= LARGE_BYTES else 0

    def _weigh_growth(self, record: Record, touching: Sequence[SessionSpan], whole: int, run: BatchRun) -> None:
        """Count what a record adds to sessions, about. Errors as in `weigh`."""
        if whole or self._keeps_records or self.fold.keeps_values:
            before = sum([session.size_bytes for session in touching])
            self.weigh_growth(record, before, run, whole=whole)

    async def _join(self, parts: Sequence[SessionSpan], event: Any, record: Record) -> tuple[Any, list[Record] | None]:
        """Return the state, and the records where they are kept, of no session or several and one record more."""
        state: Any = None
        if not self._keeps_records:
            for part in parts:
                if part.state is not None:
                    state = part.state if state is None else self.fold.merge(state, part.state)
            return await self.grow(event, record, state), None
        records = sorted((each for part in parts for each in part.records or ()), key=lambda each: each.offset)
        for each in records:
            state = await self.grow(self.decode(each), each, state)
        return await self.grow(event, record, state), [*records, record]

    # Closing

    async def settle(self, watermark_ms: int, source: int, run: BatchRun, *, may_pause: bool) -> bool:
        sessions = self._sessions
        if sessions.next_ms > watermark_ms:
            return True
        has_held = len(self.room.held) > 0
        due = sessions.take_due(watermark_ms)
        for done, (key, session) in enumerate(due):
            if run.is_closed:
                for rest_key, rest in due[done:]:
                    sessions.watch(rest_key, rest)
                return False
            if sessions.closes and has_held and not session.is_closed and self.is_held(key):
                self._withheld.add(key)
            else:
                self._close(key, session, source, run)
        return True

    def _close(self, key: Key, session: SessionSpan, source: int, run: BatchRun) -> None:
        rows = session.rows  # which are removed, or written anew
        if not session.is_closed and session.state is not None:
            is_final = self.windowing.emit == "final"
            if is_final or (self._updates and session.is_fresh):
                self._emit_session(key, session, source, run)
                rows -= 1  # one goes with its result
        run.count(max(0, rows), 0)
        self._sessions.close(key, session)

    def _emit_session(self, key: Key, session: SessionSpan, source: int, run: BatchRun) -> None:
        end_ms = session.last_ms + self._sessions.gap_ms
        self.emit(key, session.first_ms, end_ms, session.state, source, run)
        session.is_fresh = False

    async def conclude(self, source: int, run: BatchRun) -> None:
        sessions = self._sessions
        free = sorted((key for key in self._withheld if not self.is_held(key)), key=lambda key: key or "")
        for key in free:
            self._withheld.discard(key)
            for session in tuple(sessions.of_key.get(key, ())):
                if sessions.due_ms(session) <= self.watermark_ms:
                    self._close(key, session, source, run)
                else:
                    sessions.watch(key, session)
        if self._updates:
            for session, key in sorted(sessions.dirty.items(), key=lambda entry: (entry[1] or "", entry[0].last_ms)):
                is_open = not session.is_closed and not session.is_gone
                if is_open and session.is_fresh and session.state is not None:
                    self._emit_session(key, session, source, run)

    def states_of(self, item: Item) -> Iterable[Any]:
        _, _, key, where, at_ms = item
        return () if isinstance(where, Aside) else [one.state for one in self._sessions.touching(key, where, at_ms)]

    def count_dirty(self) -> int:
        return len(self._sessions.dirty)

    # For the commit

    def take_changes(self) -> Changes:
        sessions = self._sessions
        states: dict[int, dict[bytes, bytes | None]] = {}
        for key in {key for key in sessions.dirty.values() if key in self._together} if self._together else ():
            for session in self._together.pop(key):
                sessions.give_number(session)
                if not session.is_gone:
                    sessions.dirty[session] = key
            states.setdefault(TOGETHER, {})[encode_key(key)] = None
        rows: dict[bytes, bytes | None] = {}
        for session, key in sessions.dirty.items():
            rows.update(rows_of(session, key, self.fold.encode))
        if rows:
            states[ROWS] = rows
        sessions.dirty.clear()
        return Changes((), states)

    def note(self, held_ms: Mapping[int, int]) -> Progress:
        if self._sessions.closes and self.watermark_ms > BEGINNING:
            self._closed_ms = max(self._closed_ms, self.watermark_ms - self.windowing.due_after_ms)
        return Progress(self.watermark_ms, self.watermark_ms, self._closed_ms, held=held_ms)
