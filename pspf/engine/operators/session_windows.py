"""Session windows on one cursor.

Two states become one where the aggregation can merge them. Where it can't, a session keeps its records
while it is open, and one that bridges two has all of them folded again, in the order they came in.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pspf.engine.batch_outcome import BatchRun
from pspf.engine.operators.context import OperatorContext
from pspf.engine.operators.growth import StateGrowth
from pspf.engine.operators.operator import Operator
from pspf.engine.operators.places import Aside, Item, TooLate
from pspf.engine.operators.window_results import WindowResults
from pspf.errors import StateUnreadable
from pspf.records import EntryChanges, Record
from pspf.windowing.definitions import Windowing
from pspf.windowing.event_time import Key, decode_key, encode_key
from pspf.windowing.folds import HandlerFold
from pspf.windowing.progress import Progress, read_part
from pspf.windowing.session_rows import ROWS, TOGETHER, decode_sessions, read_rows, rows_of
from pspf.windowing.sessions import SessionIndex, SessionSpan
from pspf.windowing.spans import BEGINNING, NEVER
from pspf.windowing.table import LARGE_BYTES

_T = TypeVar("_T")


class SessionWindows(Operator):
    """Keeps the sessions of each key, and closes them as they are due."""

    def __init__(self, context: OperatorContext) -> None:
        super().__init__(context)
        assert isinstance(context.definition, Windowing)
        self._windowing = windowing = context.definition
        self._growth = growth = StateGrowth(context.subscription, windowing)
        self._fold = growth.fold
        self.runs_in_thread = growth.runs_in_thread
        self._results = WindowResults(windowing, self._fold, context.results)
        self._sessions = SessionIndex(windowing)
        self._bound_ms = NEVER
        """The earliest watermark at which a session of the section being folded could be due."""
        self._closed_ms = BEGINNING
        """Sessions whose last record is not after it are closed."""
        self._withheld: set[Key] = set()
        self._together: dict[Key, Sequence[SessionSpan]] = {}
        """The sessions of the keys whose sessions are stored together: they get rows when one of them changes."""
        self._touching: Sequence[SessionSpan] = ()
        """The sessions that the record being folded belongs to, and the bytes of them that are written as a whole."""
        self._whole_bytes = 0
        self._emits_updates = windowing.emit == "updates"
        if self._emits_updates:
            context.budget.writes = 2
        self._keeps_records = not self._fold.can_merge

    async def restore(self, stored: Mapping[str, Any] | None) -> None:
        context = self.context
        sessions = self._sessions = SessionIndex(self._windowing)
        progress = Progress() if stored is None else read_part(context.name, lambda: Progress.read(stored))
        self._together = {}
        if stored is not None:
            for key, mine in (await self._read_stored()).items():
                self._check_records(mine)
                sessions.restore(key, mine)
        self._closed_ms, time = progress.closed_ms, context.time
        if self._closed_ms != BEGINNING:
            time.floor_ms = self._closed_ms + self._windowing.due_after_ms
        sessions.judged_ms = max(sessions.judged_ms, time.watermark_ms, time.floor_ms)
        if self._emits_updates and progress.emission != "updates":
            self._mark_unsent()

    async def _read_stored(self) -> dict[Key, list[SessionSpan]]:
        """Return the stored sessions of each key: those that are stored together, and those with rows of their own."""
        cursor, entries = self.context.scope.consumer.cursor, self.context.entries
        place = (self._fold.decode, cursor.topic, cursor.partition)
        found: dict[Key, list[SessionSpan]] = {}
        for stored_key, stored in await entries.read_all(TOGETHER):
            key = decode_key(stored_key)
            found[key] = list(self._decoded(lambda: decode_sessions(stored, *place)))  # noqa: B023 (called here)
            self._together[key] = tuple(found[key])
        rows = await entries.read_all(ROWS)
        for key, session in self._decoded(lambda: [*read_rows(rows, *place)]):
            found.setdefault(key, []).append(session)
        return found

    def _decoded(self, decode: Callable[[], _T]) -> _T:
        try:
            return decode()
        except (struct.error, OverflowError, ValueError) as error:
            raise self._fold.unreadable(error) from error

    def _check_records(self, sessions: Sequence[SessionSpan]) -> None:
        if self._keeps_records and any(one.records is None and not one.is_closed for one in sessions):
            raise StateUnreadable(
                f"handler {self.context.name} has open sessions that were made with merge=, and has none now: without"
                " their records they can't be joined; give merge= again, or another name="
            )

    def _mark_unsent(self) -> None:
        """Emit the open windows with the next commit: their updates were not asked for before.

        Raises:
            StateUnreadable: It is more than one commit may hold.
        """
        sessions, most = self._sessions, self.context.scope.limits.record_operations // 2
        for key, mine in sessions.of_key.items():
            for session in mine:
                session.is_fresh = True
                sessions.dirty[session] = key
        count = sum(map(len, sessions.of_key.values()))
        if count > most:
            raise StateUnreadable(
                f"handler {self.context.name} has over {most:,} open sessions to emit as updates, which it did not emit"
                " before: give it another name=, or close them first by a worker with --final"
            )

    def due_watermark_ms(self) -> int:
        return min(self._bound_ms, self._sessions.next_ms)

    def last_due_watermark_ms(self) -> int | None:
        if not self._sessions.closes:
            return None
        return max((self._sessions.due_ms(session) for session in self._sessions.open_sessions()), default=None)

    def place(self, time_ms: int, key: Key, at_ms: int) -> int:
        due_ms = time_ms + self._sessions.due_after_ms
        # One that is late alone can only make longer what is due later; whether it does is seen when it is folded.
        if due_ms < self._bound_ms and (due_ms > at_ms or not self._sessions.closes):
            self._bound_ms = due_ms
        return time_ms

    # Folding

    async def fold(self, section: Sequence[Item], run: BatchRun) -> int:
        taken = await super().fold(section, run)
        self._bound_ms = NEVER
        return taken

    def fits(self, item: Item) -> bool:
        _, _, key, where, at_ms = item
        self._touching = () if isinstance(where, Aside) else self._sessions.touching(key, where, at_ms)
        self._whole_bytes = self._count_whole(self._touching)
        return not self._whole_bytes or self.context.budget.has_room(self._whole_bytes)

    async def fold_one(self, item: Item, run: BatchRun) -> None:
        record, event, key, time_ms, at_ms = item
        sessions, touching = self._sessions, self._touching
        self._weigh_growth(record, touching, self._whole_bytes, run)
        first_ms = min([time_ms, *(session.first_ms for session in touching)])
        last_ms = max([time_ms, *(session.last_ms for session in touching)])
        due_ms = last_ms + self._windowing.due_after_ms
        limit_ms = at_ms if sessions.closes else self.context.time.floor_ms
        if due_ms <= limit_ms:
            late = TooLate(first_ms, last_ms + sessions.gap_ms, limit_ms - due_ms + 1)
            self.context.late.send(item, late, run)
            return
        if len(touching) == 1:
            session = touching[0]
            session.state = await self._growth.grow(event, record, session.state)
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
        if isinstance(self._fold, HandlerFold) and session.state is not None:
            self.context.budget.weigh(record, len(session.state), run)
        if run.has_to_ask and sessions.closes:
            self._withheld.add(key)

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
        """Count what a record adds to sessions, about. Errors as in `Budget.weigh`."""
        if whole or self._keeps_records or self._fold.keeps_values:
            before = sum([session.size_bytes for session in touching])
            self.context.budget.weigh_growth(record, before, run, whole=whole)

    async def _join(self, parts: Sequence[SessionSpan], event: Any, record: Record) -> tuple[Any, list[Record] | None]:
        """Return the state, and the records where they are kept, of no session or several and one record more."""
        state: Any = None
        if not self._keeps_records:
            for part in parts:
                if part.state is not None:
                    state = part.state if state is None else self._fold.merge(state, part.state)
            return await self._growth.grow(event, record, state), None
        records = sorted((each for part in parts for each in part.records or ()), key=lambda each: each.offset)
        for each in records:
            state = await self._growth.grow(self.context.source.decode(each), each, state)
        return await self._growth.grow(event, record, state), [*records, record]

    # Closing

    async def on_watermark(self, watermark_ms: int, source: int, run: BatchRun, *, may_pause: bool) -> bool:
        sessions = self._sessions
        if sessions.next_ms > watermark_ms:
            return True
        admission = self.context.admission
        has_held = len(admission.held) > 0
        due = sessions.take_due(watermark_ms)
        for done, (key, session) in enumerate(due):
            if run.is_closed:
                for rest_key, rest in due[done:]:
                    sessions.watch(rest_key, rest)
                return False
            if sessions.closes and has_held and not session.is_closed and admission.is_held(key):
                self._withheld.add(key)
            else:
                self._close(key, session, source, run)
        return True

    def _close(self, key: Key, session: SessionSpan, source: int, run: BatchRun) -> None:
        rows = session.rows  # which are removed, or replaced
        if not session.is_closed and session.state is not None:
            is_final = self._windowing.emit == "final"
            if is_final or (self._emits_updates and session.is_fresh):
                self._emit_session(key, session, source, run)
                rows -= 1  # one goes with its result
        run.count(max(0, rows), 0)
        self._sessions.close(key, session)

    def _emit_session(self, key: Key, session: SessionSpan, source: int, run: BatchRun) -> None:
        end_ms = session.last_ms + self._sessions.gap_ms
        self._results.emit(key, session.first_ms, end_ms, session.state, source, run)
        session.is_fresh = False

    async def end_batch(self, source: int, run: BatchRun) -> None:
        sessions = self._sessions
        free = [key for key in self._withheld if not self.context.admission.is_held(key)]
        for key in sorted(free, key=lambda key: key or ""):
            self._withheld.discard(key)
            for session in tuple(sessions.of_key.get(key, ())):
                if sessions.due_ms(session) <= self.context.time.watermark_ms:
                    self._close(key, session, source, run)
                else:
                    sessions.watch(key, session)
        if self._emits_updates:
            for session, key in sorted(sessions.dirty.items(), key=lambda entry: (entry[1] or "", entry[0].last_ms)):
                is_open = not session.is_closed and not session.is_gone
                if is_open and session.is_fresh and session.state is not None:
                    self._emit_session(key, session, source, run)

    def check_states(self, item: Item) -> None:
        _, _, key, where, at_ms = item
        for session in () if isinstance(where, Aside) else self._sessions.touching(key, where, at_ms):
            self._fold.check(session.state)

    def count_changes(self) -> int:
        return len(self._sessions.dirty)

    # For the commit

    def take_changes(self) -> EntryChanges:
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
            rows.update(rows_of(session, key, self._fold.encode))
        if rows:
            states[ROWS] = rows
        sessions.dirty.clear()
        return EntryChanges((), states)

    def progress(self) -> Mapping[str, Any]:
        watermark_ms = self.context.time.watermark_ms
        if self._sessions.closes and watermark_ms > BEGINNING:
            self._closed_ms = max(self._closed_ms, watermark_ms - self._windowing.due_after_ms)
        return Progress(watermark_ms, self._closed_ms).as_json()
