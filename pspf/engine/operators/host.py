"""Windowed aggregation instead of a handler alone: the parts that all windows share.

Records are taken in sections. A section ends where the watermark makes something due: that is done before
the record that moved it is aggregated, so that results are a function of the input in its order, whatever
the batches were. What is not in memory is loaded before a section is folded; folding never waits.
"""

import asyncio
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeVar

from pspf import faults
from pspf.clock import Clock
from pspf.concurrency.background import run_in_thread
from pspf.connectors.base import Consumer
from pspf.context import HandlerScope
from pspf.engine.batch_outcome import BatchRun, EffectLimits, Failure
from pspf.engine.handlers.executor import Executor, YieldPoint, ends_run, enter_call
from pspf.engine.handlers.isolation import OwnContext, in_own_context
from pspf.engine.handlers.threads import THREAD_NAME
from pspf.engine.handlers.traced import span_batches
from pspf.engine.idleness import IdleTracker
from pspf.engine.key_order import KeyOrder
from pspf.errors import ConfigurationError, SchemaError, StateUnreadable, TooManyEffects, text_of
from pspf.events.decoding import Decoder, SectionDecoder, Unreadable
from pspf.events.timestamps import FutureGuard, find_latest_ms, time_of
from pspf.records import LATE_SUFFIX, NewRecord, Record, WindowChanges
from pspf.subscription import Subscription
from pspf.windowing.event_time import Key, KeyReader, make_key_reader, make_strict_key_reader
from pspf.windowing.folds import ReadyFold, make_fold
from pspf.windowing.inspect import tell
from pspf.windowing.progress import Progress, decode, describe, rules_of
from pspf.windowing.results import encode_late, encode_result, encode_results, make_encoder
from pspf.windowing.shuffle import SourceTimes, receive
from pspf.windowing.spans import BEGINNING
from pspf.windowing.table import Changes

T = TypeVar("T")

BREATH_RECORDS: Final = 64
BESIDE_RECORDS: Final = 2_000
"""How many records a batch takes beside half a batch of results: a large window is closed before long."""

Item = tuple[Record, Any, Key, Any, int]
"""A record that is about to be folded: its event, key, where it belongs, and the watermark at its position."""


@dataclass(frozen=True, slots=True)
class Broken:
    """Where a record belongs that can't be read, with the reason."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class TooLate:
    """Where a record belongs whose windows are all closed: the last of them, and by how much it missed it."""

    start_ms: int
    end_ms: int
    by_ms: int


@dataclass(frozen=True, slots=True)
class Mark:
    """Where what is in no window belongs: in a gap between them, or sent behind a hop to tell the time of a source."""


Aside = Broken | TooLate | Mark
"""Where a record belongs that is not aggregated."""


class RetryingCall(Protocol):
    """Does something with the broker, and again while it is not there."""

    def __call__(self, doing: str, act: Callable[[], Awaitable[T]], /) -> Coroutine[Any, Any, T]: ...


@dataclass(frozen=True, slots=True)
class OperatorScope:
    """What an operator works with. `on_more` is called when it has work that no record brings."""

    consumer: Consumer
    held: KeyOrder
    insist: RetryingCall
    clock: Clock
    limits: EffectLimits
    max_entries: int
    on_more: Callable[[], None]


class OperatorHost(Executor):
    """One windowed handler on one cursor. Its memory is what the last commit stored, or is about to."""

    def __init__(
        self,
        subscription: Subscription,
        decode: Decoder,
        read: SectionDecoder,
        around: HandlerScope,
        room: OperatorScope,
    ) -> None:
        assert subscription.windowing is not None
        self.windowing = windowing = subscription.windowing
        self.fold = make_fold(windowing)
        self.fold.owner = f"handler {subscription.name}"
        self.room = room
        self.watermark_ms = BEGINNING
        self.floor_ms = BEGINNING
        """No new record is judged by an earlier watermark: what was closed under other rules stays closed."""
        self.held_ms: dict[int, int] = {}
        """The watermark at the position of each record that was read and is not done, by offset."""
        self._subscription = subscription
        self._name = subscription.name
        self._around = around
        self._read = read
        self._key_of = _key_reader(subscription)
        self._times: SourceTimes | None = None
        """The times of the source partitions, behind a hop."""
        self._heard: list[tuple[int, int]] = []
        """What each record of the section in hand tells of its source."""
        self._decode = decode
        self._described = describe(windowing, self.fold)
        self._told = self._described | tell(windowing) | rules_of(windowing)
        self._encode_result = make_encoder(windowing.result)
        self._keys: dict[int, bytes] = {}
        self._late: list[NewRecord] = []
        self._is_open = False
        self._has_more = True  # of what the owner before has left; nobody knows before it is read
        self._is_final = False
        self._is_finished = False
        self._weight_bytes = self._large_bytes = 0
        self._in_hand: Sequence[Record] = ()
        self._future = FutureGuard(subscription.name)
        self._carried: tuple[Record, Sequence[Any]] | None = None
        """What was read beyond the end of the last section: its first record, and the events from it on."""
        handler = subscription.handler
        self.is_async = handler.is_async and windowing.aggregation is None
        self._in_thread = not handler.is_async and windowing.aggregation is None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._breath = None if self._in_thread else YieldPoint()
        self._span = span_batches(subscription, around.spans)
        function = _armed(handler.function, self.is_async)
        self.function = OwnContext(function) if self.is_async else in_own_context(function)
        self.most_effects = 1
        """How many states and updates one record changes at most."""
        self._writes = 2 if windowing.emit == "updates" else 1
        """How often a state that changed is written: stored, and told."""
        self.stretch_ms = 0
        """How far records of one place reach from it; 0 where each has to be placed."""
        room.held.key_of = lambda record: self._keys.get(record.offset)
        room.on_more()

    # One batch

    async def run(self, records: Sequence[Record], run: BatchRun) -> int:
        with self._span(records):
            if self._breath is not None:
                await self._breath.take()  # a window may close over many batches that read nothing
                return await self._work(records, run)
            self._loop = asyncio.get_running_loop()
            # In the thread nothing waits but `_ask`, which blocks: the coroutine runs through in one go.
            return (
                await run_in_thread(lambda: _drive(self._work(records, run)), THREAD_NAME, lambda: run.is_closed) or 0
            )

    @property
    def has_late(self) -> bool:
        return self._has_more or self._is_final

    def finish(self) -> None:
        """Close all that is open, as at the end of the input; `on_more` is called for it."""
        self._is_final = True
        self.room.on_more()

    def patience_ms(self, silence: IdleTracker, now_ms: int) -> int:
        idle_ms, longest_ms = self.windowing.idle_timeout_ms, super().patience_ms(silence, now_ms)
        if idle_ms is None or silence.lasted_ms >= idle_ms:
            return longest_ms
        return min(longest_ms, silence.left_ms(idle_ms, now_ms))

    async def notice(self, silence: IdleTracker) -> None:
        idle_ms = self.windowing.idle_timeout_ms
        if idle_ms is None or silence.lasted_ms < idle_ms:
            return
        if not self._is_open:
            await self._open()
        last_ms = self.last_due_ms()
        if last_ms > self.watermark_ms:
            self.watermark_ms = last_ms
            self._has_more = True

    async def _work(self, records: Sequence[Record], run: BatchRun) -> int:
        if not self._is_open:
            await self._open()
        self.call = enter_call(self._subscription.name, self._around.warned)
        self._late, self._weight_bytes, self._large_bytes = [], 0, 0
        self._in_hand = records
        taken, first = 0, records[0].offset if records else run.batch.end
        is_final = self._is_final and not records
        if is_final:
            self.watermark_ms = max(self.watermark_ms, self.last_due_ms())
        elif not records and not self._has_more:
            return 0
        fits = await self.settle(self.watermark_ms, first, run, may_pause=bool(records))
        while fits and taken < len(records) and not run.is_closed:
            if self.is_behind and taken >= BESIDE_RECORDS:
                break
            section, ahead_ms, stops = self._prepare(records, taken)
            await self.load(section)
            done = await self.fold_section(section, run)
            taken += done
            if self._times is not None:
                for source, source_ms in self._heard[:done]:
                    self._times.hear(source, source_ms)
            if done < len(section):
                # Nothing gets due within a section, and what its records are judged by may be ahead of the watermark.
                judged_ms = max((item[4] for item in section[:done]), default=self.watermark_ms)
                ahead_ms = min(ahead_ms, judged_ms, self.next_ms() - 1)
                stops = False
                fits = False
            self.watermark_ms = max(self.watermark_ms, ahead_ms)
            if stops:
                fits = await self.settle(self.watermark_ms, records[taken].offset, run, may_pause=True)
        await self.conclude(run.batch.end if not records else records[max(taken, 1) - 1].offset, run)
        if fits and is_final:
            self._is_final = False
        self._is_finished = fits and (is_final or (self._is_finished and not records))
        self._has_more = self.is_behind or (not fits and taken == len(records))
        self._store(run)
        if self.has_late:
            self.room.on_more()
        return taken

    async def _open(self) -> None:
        stored = await self.ask("read windows", self.room.consumer.read_progress)
        progress = Progress() if stored is None else self._read_progress(stored)
        self.watermark_ms = progress.watermark_ms
        # What waits is judged as it was when it was read, by the lateness of then.
        closes = self.windowing.closes and progress.due_after_ms is not None
        later_ms = self.windowing.due_after_ms - (progress.due_after_ms or 0) if closes else 0
        self.held_ms = {offset: at_ms + later_ms for offset, at_ms in progress.held.items()}
        await self.restore(progress, is_new=stored is None)
        hop = self._subscription.repartition
        if hop is not None:
            self._times = SourceTimes(hop.partitions, progress.source_times)
        is_due = self.next_ms() <= self.watermark_ms or self.count_dirty() > 0
        self._has_more, self._is_finished = progress.has_more or is_due, progress.is_finished
        self._is_open = True

    def _read_progress(self, stored: bytes) -> Progress:
        try:
            return decode(stored, self._described, self._name)
        except ConfigurationError as error:  # since this worker has begun: another version of the app is at work
            raise StateUnreadable(str(error)) from error

    def _prepare(self, records: Sequence[Record], begin: int) -> tuple[list[Item], int, bool]:
        """Return some of the records from `begin` on, at most up to the one before which something is due.

        With them comes the watermark after the last of them, or, where another record stops them, that
        record's own.
        """
        if self._times is not None:
            return self._prepare_behind_hop(records, begin, self._times.copy())
        section: list[Item] = []
        add, place = section.append, self.place
        key_of, held_ms = self._key_of, self.held_ms
        delay_ms, latest_ms = self.windowing.watermark_delay_ms, self._find_latest_ms()
        watermark_ms, next_ms, floor_ms = self.watermark_ms, self.next_ms(), self.floor_ms
        # Where the last record went; one of the same stretch goes there, as nothing gets due within a section.
        low_ms = high_ms = 0
        events = self._read_on(records, begin)
        for at, event in enumerate(events):
            record = records[begin + at]
            try:
                if isinstance(event, Unreadable):
                    raise event.error
                time_ms = time_of(event, record)
                key = key_of(event, record)
                if time_ms > latest_ms:
                    raise self._future.refuse(record, time_ms, latest_ms)
            except BaseException as error:  # the boundary of the record: it tells when its turn comes
                add((record, None, None, Broken(error), max(watermark_ms, floor_ms)))
                continue
            if time_ms - delay_ms > watermark_ms:
                watermark_ms = time_ms - delay_ms
            if watermark_ms >= next_ms and (section or watermark_ms > self.watermark_ms):
                self._carried = record, events[at:]
                return section, watermark_ms, True
            at_ms = watermark_ms if watermark_ms > floor_ms else floor_ms
            if low_ms <= time_ms < high_ms:
                add((record, event, key, low_ms, at_ms))
                continue
            if held_ms:
                at_ms = held_ms.get(record.offset, at_ms)
            where = place(time_ms, key, at_ms)
            next_ms = self.next_ms()
            if type(where) is int and not held_ms:
                low_ms, high_ms = where, where + self.stretch_ms
            add((record, event, key, where, at_ms))
        return section, watermark_ms, False

    def _find_latest_ms(self) -> int:
        return find_latest_ms(self.windowing.max_future_ms, self.room.clock)

    def _read_on(self, records: Sequence[Record], begin: int) -> Sequence[Any]:
        """Return the events of some records from `begin` on: those that were read already, else of a section."""
        if self._carried is not None:
            (first, events), self._carried = self._carried, None
            if first is records[begin]:
                return events
        return self._read(records[begin : begin + self.section_records])

    def _prepare_behind_hop(
        self, records: Sequence[Record], begin: int, times: SourceTimes
    ) -> tuple[list[Item], int, bool]:
        """Do what `_prepare` does for records that were sent on, and marks: there all sources move the watermark."""
        section: list[Item] = []
        self._heard = heard = []
        delay_ms, watermark_ms = self.windowing.watermark_delay_ms, self.watermark_ms
        for record in records[begin : begin + self.section_records]:
            try:
                arrival = receive(record, self._source)
                times.hear(arrival.source, arrival.source_ms)
                event = None if arrival.record is None else self._decode(arrival.record)
                time_ms = 0 if arrival.record is None else time_of(event, arrival.record)
            except BaseException as error:  # the boundary of the record: it tells when its turn comes
                section.append((record, None, None, Broken(error), max(watermark_ms, self.floor_ms)))
                heard.append((0, BEGINNING))
                continue
            watermark_ms = max(watermark_ms, times.watermark_ms(delay_ms))
            if watermark_ms >= self.next_ms() and (section or watermark_ms > self.watermark_ms):
                return section, watermark_ms, True
            at_ms = self.held_ms.get(record.offset, max(watermark_ms, self.floor_ms))
            where = Mark() if arrival.record is None else self.place(time_ms, arrival.key, at_ms)
            section.append((record, event, arrival.key, where, at_ms))
            heard.append(arrival[:2])
        return section, watermark_ms, False

    @property
    def _source(self) -> str:
        """The topic that records have come from, behind a hop or not."""
        hop = self._subscription.repartition
        return self._subscription.topic if hop is None else hop.source

    def decode(self, record: Record) -> Any:
        """Return the event of a record that is aggregated anew. Errors: whatever its model raises."""
        original = record if self._times is None else receive(record, self._source).record
        return None if original is None else self._decode(original)

    @property
    def section_records(self) -> int:
        """The most records of a section: few, so that they are folded while they are at hand, in the caches.

        What they change is no more than a commit should hold, unless one record alone does more.
        """
        return max(1, min(BREATH_RECORDS, self.room.limits.operations // self.most_effects))

    # What the kinds of windows do

    @abstractmethod
    async def restore(self, progress: Progress, *, is_new: bool) -> None:
        """Take over what was stored."""

    @abstractmethod
    def next_ms(self) -> int:
        """Return the watermark at which something is due next."""

    @abstractmethod
    def last_due_ms(self) -> int:
        """Return the watermark at which all that is open is due."""

    @abstractmethod
    def place(self, time_ms: int, key: Key, at_ms: int) -> Any:
        """Return where a record belongs, at a watermark: TooLate, or what `fold_section` knows."""

    async def load(self, section: Sequence[Item]) -> None:
        """Read what a section needs and is not in memory."""

    @abstractmethod
    async def fold_section(self, section: Sequence[Item], run: BatchRun) -> int:
        """Aggregate records until all are or the run is closed; return how many were taken."""

    @abstractmethod
    async def settle(self, watermark_ms: int, source: int, run: BatchRun, *, may_pause: bool) -> bool:
        """Close all that is due; return whether records can go on: not where the batch had no room for it.

        `source` is whom results come from. With `may_pause` a large window can be closed beside the records.
        """

    @abstractmethod
    def states_of(self, item: Item) -> Iterable[Any]:
        """Return the states that a record was to be aggregated with."""

    @property
    def is_behind(self) -> bool:
        """Whether something that is due is being closed beside what comes."""
        return False

    @abstractmethod
    async def conclude(self, source: int, run: BatchRun) -> None:
        """Do what is done once a batch: keys that are no longer held back, updates."""

    @abstractmethod
    def take_changes(self) -> Changes:
        """Return the states that changed."""

    @abstractmethod
    def note(self, held_ms: Mapping[int, int]) -> Progress:
        """Return where the operator is."""

    @abstractmethod
    def count_dirty(self) -> int:
        """Return how many states changed since the last commit, about."""

    # What they share

    async def ask(self, doing: str, act: Callable[[], Awaitable[T]]) -> T:
        """Do something with the broker, from whatever thread this runs in."""
        if self._loop is None:
            return await self.room.insist(doing, act)
        return asyncio.run_coroutine_threadsafe(self.room.insist(doing, act), self._loop).result()

    async def breathe(self, run: BatchRun) -> None:
        """Let others run now and then, and end the batch where its states are as much as a commit should hold.

        It ends also where one more section could make more of it than a commit can hold.
        """
        limits = self.room.limits
        dirty = self.count_dirty()
        operations, size_bytes = run.size
        most = limits.operations + limits.record_operations
        reach = min(self.section_records * self.most_effects, limits.record_operations)  # one that does more is dead
        if (
            dirty >= limits.operations
            or self._weight_bytes + size_bytes >= limits.effect_bytes
            or operations + self._writes * dirty + reach > most
        ):
            run.is_closed = True
        if self._breath is not None:
            await self._breath.take()

    def weigh(self, record: Record, size_bytes: int, run: BatchRun) -> None:
        """Count what a record changes and is going to be stored; end the batch where it is as much as one should hold.

        Raises:
            TooManyEffects: It is more than a commit can hold, whatever else is in it.
        """
        self._weight_bytes += self._writes * size_bytes
        if self._weight_bytes >= self.room.limits.effect_bytes:
            self.check_size(record, size_bytes)
            run.is_closed = True

    def has_room(self, before: int) -> bool:
        """Return whether a commit that holds other large states can hold one more, of `before` bytes."""
        most = self.room.limits.record_effect_bytes - self.room.limits.effect_bytes
        return not self._large_bytes or self._large_bytes + self._writes * before <= most

    def weigh_growth(self, record: Record, before: int, run: BatchRun, *, whole: int) -> None:
        """Count what a record adds to a state of `before` bytes, about; `whole` of them are written once more for it.

        A large state alone ends no batch, or one would be written for each of its records. Errors as in `weigh`.
        """
        self.check_size(record, before + len(record.value))
        self._large_bytes += self._writes * whole
        self.weigh(record, len(record.value), run)

    def check_size(self, record: Record, size_bytes: int) -> None:
        """Raise TooManyEffects where the states that one record changes are more than a commit can hold."""
        most = self.room.limits.record_effect_bytes
        if self._writes * size_bytes > most:
            raise TooManyEffects(
                f"{record.topic} {record.id}: {size_bytes:,} bytes of states in its windows; at most {most:,} are taken"
            )

    def fold_one(self, event: Any, offset: int, state: Any) -> Any:
        """Return a state with one more event, where that needs no waiting. Errors: whatever the handler raises."""
        fold = self.fold
        if isinstance(fold, ReadyFold):
            return fold.add(event, offset, state)
        return fold.dump(self.function(event, None if state is None else fold.load(state)))

    async def grow(self, event: Any, record: Record, state: Any) -> Any:
        """Return a state with one more event. Errors: whatever the handler raises."""
        fold = self.fold
        if not self.is_async or isinstance(fold, ReadyFold):
            return self.fold_one(event, record.offset, state)
        return fold.dump(await self.function(event, None if state is None else fold.load(state)))

    def admit(self, item: Item, run: BatchRun) -> bool:
        """Return whether a record may run now; asked only in batches where one may not."""
        record, _, key, where, at_ms = item
        if not isinstance(where, Broken):
            self._keys[record.offset] = order_of(key)
        if run.admit(record):
            return True
        if self.room.held.is_waiting(record.offset):
            self.held_ms.setdefault(record.offset, at_ms)
        return False

    def fail(self, item: Item, error: BaseException, run: BatchRun) -> None:
        """Note a failure; the record keeps the watermark of its position for its next run."""
        record, _, key, where, at_ms = item
        if isinstance(error, StateUnreadable) or ends_run(error, run):
            raise error  # it is not the record's fault
        for state in self.states_of(item):
            self.fold.check(state)
        if not isinstance(where, Broken):
            self._keys[record.offset] = order_of(key)
        run.fail(record, error)
        if self.room.held.is_waiting(record.offset):
            self.held_ms.setdefault(record.offset, at_ms)

    def set_aside(self, item: Item, run: BatchRun) -> None:
        """Do with a record what is to be done instead of aggregating it; it was admitted."""
        where = item[3]
        if isinstance(where, Broken):
            self.fail(item, where.error, run)
        elif isinstance(where, TooLate):
            self.send_late(item, where, run)
        else:
            run.passed += 1
            if run.has_to_ask:
                run.succeed(item[0])

    def send_late(self, item: Item, late: TooLate, run: BatchRun) -> None:
        """Put a record aside that is late for all of its windows."""
        record, _, _, _, at_ms = item
        original = record if self._times is None else receive(record, self._source).record or record
        told = {
            "handler": self._subscription.name,
            "group": self._subscription.group,
            "original-id": original.id,
            "window-start-ms": late.start_ms,
            "window-end-ms": late.end_ms,
            "watermark-ms": at_ms,
            "by-ms": late.by_ms,
        }
        if self._times is None:
            self._late.append(encode_late(original, told))
            run.count(1, len(record.value))
        else:  # to the companion of where it came from, which is not this cursor's topic
            run.send(record.offset, self._source + LATE_SUFFIX, encode_late(original, told))
        run.late += 1
        if run.has_to_ask:
            run.succeed(record)

    def emit(self, key: Key, start_ms: int, end_ms: int, state: Any, source: int, run: BatchRun) -> None:
        """Emit what a window has come to; a result that can't be made becomes a dead letter."""
        topic = self.windowing.to
        if topic is None:
            return
        value = self.fold.to_json(state)
        attempts = 0
        while True:
            attempts += 1
            try:
                record = self._encode_result(key, start_ms, end_ms, value)
                self._around.check(record)
            except BaseException as error:  # the boundary of the result
                if ends_run(error, run):
                    raise
                if not self._subscription.retry.gives_up(error, attempts):
                    continue  # at once: a window that is closed has no place to wait in
                self._bury(encode_result(key, start_ms, end_ms, value), source, error, attempts, run)
                return
            run.send(source, topic, record)
            return

    def emit_all(
        self, start_ms: int, end_ms: int, states: Sequence[tuple[Key, Any]], source: int, run: BatchRun
    ) -> int:
        """Emit what a window has come to for some keys; return for how many the batch had room, one at least."""
        if self._emit_at_once(start_ms, end_ms, states, source, run):
            return len(states)
        for done, (key, state) in enumerate(states, 1):
            self.emit(key, start_ms, end_ms, state, source, run)
            if run.is_closed:
                return done
        return len(states)

    def _emit_at_once(
        self, start_ms: int, end_ms: int, states: Sequence[tuple[Key, Any]], source: int, run: BatchRun
    ) -> bool:
        """Do for results what `emit` does for each, at a third of the price, where all is well with them."""
        topic = self.windowing.to
        if topic is None or self.windowing.result is not None:
            return topic is None
        keys, values = zip(*states, strict=True)
        try:
            records = encode_results(start_ms, end_ms, keys, self.fold.to_json_all(values))
            self._around.check_all(records)
        except BaseException as error:  # whose it is, each tells for itself
            if ends_run(error, run):
                raise
            return False
        return run.send_all(source, topic, records)

    def _bury(self, plain: NewRecord, source: int, error: BaseException, attempts: int, run: BatchRun) -> None:
        now_ms = self.room.clock.now_ms()
        record = Record(self._source, *self._origin_of(source), plain.raw_key, plain.value, None, now_ms)
        run.bury(Failure(record, error, attempts, None, text_of(error), is_result=True))

    def _origin_of(self, source: int) -> tuple[int, int]:
        """Return the partition and offset of the record that a result comes from, behind a hop those before it."""
        sent_on = next((record for record in self._in_hand if record.offset == source), None)
        if self._times is not None and sent_on is not None:
            with suppress(SchemaError):  # somebody else has put it there
                original = receive(sent_on, self._source).record
                if original is not None:
                    return original.partition, original.offset
        return self.room.consumer.cursor.partition, source

    def held_keys(self) -> set[Key]:
        """Return the grouping keys that a record is not done of."""
        keys = self.room.held.keys
        return {raw.decode() for raw in keys} | ({None} if b"" in keys else set())

    def is_held(self, key: Key) -> bool:
        """Return whether a record of a grouping key is not done."""
        return self.room.held.holds(order_of(key))

    def _store(self, run: BatchRun) -> None:
        held = self.room.held
        self.held_ms = {offset: at_ms for offset, at_ms in self.held_ms.items() if held.is_waiting(offset)}
        if len(self._keys) > len(self.held_ms):
            self._keys = {offset: key for offset, key in self._keys.items() if held.is_waiting(offset)}
        changes = self.take_changes()
        watermark_ms = None if self.watermark_ms == BEGINNING else self.watermark_ms
        noted = replace(
            self.note(self.held_ms),
            has_more=self._has_more,
            is_finished=self._is_finished,
            source_times={} if self._times is None else self._times.heard,
        )
        progress = noted.encode(self._told)
        run.windows = WindowChanges(watermark_ms, progress, changes.dropped, changes.states, tuple(self._late))


def _key_reader(subscription: Subscription) -> KeyReader:
    windowing = subscription.windowing
    assert windowing is not None
    if windowing.key is None and subscription.partitions > 1:
        return make_strict_key_reader(subscription.partitions)
    return make_key_reader(windowing.key)


def order_of(key: Key) -> bytes:
    """Return the key that a record's order belongs to: its grouping key, one for all without."""
    return b"" if key is None else key.encode()


def _armed(function: Callable[..., Any], is_async: bool) -> Callable[..., Any]:
    if not faults.is_armed("handler.before", "handler.mid", "handler.after"):
        return function

    async def reach_and_await(event: Any, state: Any) -> Any:
        faults.reach("handler.before")
        grown = await function(event, state)
        faults.reach("handler.mid")
        faults.reach("handler.after")
        return grown

    def reach_and_call(event: Any, state: Any) -> Any:
        faults.reach("handler.before")
        grown = function(event, state)
        faults.reach("handler.mid")
        faults.reach("handler.after")
        return grown

    return reach_and_await if is_async else reach_and_call


def _drive(work: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine that never waits returns."""
    try:
        work.send(None)
    except StopIteration as stop:
        found: T = stop.value
        return found
    raise RuntimeError("a windowed handler waited in its thread")
