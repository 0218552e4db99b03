"""Outcome of a batch: what happened to each record, collected until it is a `Commit`. No I/O."""

import secrets
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from typing import Final, Protocol

from pspf.clock import Clock
from pspf.context import Context
from pspf.context.timers import TimerRequests
from pspf.engine.batch_state import BatchState, StoreState
from pspf.engine.effect_budget import EffectBudget, EffectLimits
from pspf.engine.key_order import KeyOrder, Verdict
from pspf.engine.step_log import StepLog
from pspf.errors import SchemaError, text_of
from pspf.records import (
    NO_CHANGES,
    Batch,
    Commit,
    DeadLetter,
    Emit,
    EntryChanges,
    NewRecord,
    OperatorProgress,
    Record,
    Retry,
    offset_of,
)
from pspf.subscription import Subscription
from pspf.windowing.grouping import GroupedRecord
from pspf.windowing.shuffle import receive

_MAX_TRACEBACK: Final = 8_000
_new_emit: Final[Callable[[tuple[int, str, NewRecord]], Emit]] = partial(tuple.__new__, Emit)
"""Half the price of Emit(...)."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A run of a record that failed; `retry_ms` from now it runs again, None: it is a dead letter."""

    record: Record
    error: BaseException
    attempts: int
    retry_ms: int | None
    text: str
    """The error's own words."""
    is_result: bool = False
    """Whether `record` is what a window came to, or a timer, and no record of the batch."""
    timer: str = ""
    """The name of the timer that failed; empty for anything else."""


def _nothing(overdue: int) -> None:
    pass


class TimerSink(Protocol):
    """What takes over the timers that calls have set."""

    def take(self, key: bytes, requests: TimerRequests) -> None:
        """Set and cancel timers of a record key, as a call of one of its records has asked for."""
        ...


class BatchRun:
    """Collects outcomes and effects. Executors report to it; the processor turns it into a commit."""

    def __init__(
        self,
        subscription: Subscription,
        batch: Batch,
        *,
        held: KeyOrder | None,
        state: BatchState | StoreState | None,
        clock: Clock,
        limits: EffectLimits,
        steps: StepLog | None = None,
    ) -> None:
        self.subscription = subscription
        self.batch = batch
        self.failures: list[Failure] = []
        self.is_closed = False
        """Set from outside or by size: the records not started yet are left for the next batch."""
        self.overdue = 0
        """Calls that go on although their time is up."""
        self.on_overdue: Callable[[int], None] = _nothing
        self.is_given_up = False
        """Whether it ends at once and has no effect: exceptions of its calls are no failures from then on."""
        first = batch.records[0].offset if batch.records else 0
        self.is_cut = False
        """Whether it was closed because its time was up."""
        self.has_to_ask = held is not None and (len(held) > 0 or first < held.position)
        """Whether `admit` may say no; kept apart so that a batch without failures never asks."""
        self._held = held
        self._state = state
        self._clock = clock
        self.steps = steps
        self._effects = EffectBudget(limits)
        self._emits: list[Emit] = []
        self._dead: list[DeadLetter] = []
        self._retries: list[Retry] = []
        self._late: list[int] = []
        self._not_done: set[int] = set()
        self.late = 0
        """Records that were put aside as too late."""
        self.passed = 0
        """Records that no handler saw and that are done: sent on, or a mark behind a hop."""
        self.taken = 0
        """How many of the batch's records, from its first, were handled."""
        self.unseen: set[int] = set()
        """Those of them that no handler saw and that are not done: held back, settled since, or not started."""
        self.handler_us = 0
        """How long their handlers took together."""
        self.changes: EntryChanges = NO_CHANGES
        """What an operator has changed of its entries; put here, with the rest of it, when the batch has run."""
        self.progress: OperatorProgress | None = None
        self.late_records: Sequence[NewRecord] = ()
        self.timers: TimerSink | None = None
        """What takes timers over, where the handler has some."""
        self.is_paused = False
        """Whether it is closed only until something is done that comes before the next record."""
        self._is_ended = False

    @property
    def size(self) -> tuple[int, int]:
        """Effects so far: how many, and their bytes."""
        return self._effects.size

    @property
    def is_half_full(self) -> bool:
        """Whether its effects take half of what closes it."""
        return self._effects.is_half_full

    def note_overdue(self, change: int) -> None:
        """Count a call that goes on although its time is up (1), or one that has ended after all (-1)."""
        self.overdue += change
        self.on_overdue(self.overdue)

    def end(self) -> None:
        """Start no more records: the cursor is to be given back."""
        self._is_ended = self.is_closed = True

    def pause(self) -> None:
        """Start no more records until `resume`, unless it is closed already."""
        self.is_paused = self.is_closed = True

    def resume(self) -> None:
        """Go on after a pause, unless something else has closed it meanwhile."""
        self.is_paused = False
        self.is_closed = self._is_ended or self.is_given_up or self.is_cut or self._effects.is_full

    def give_up(self) -> None:
        """Let it end at once, without effect."""
        self.is_given_up = self.is_closed = True

    def admit(self, record: Record) -> bool:
        """Return whether a record may run; one that may not is held back, or settled already."""
        if self._held is None:
            return True
        verdict = self._held.admit(record, self._clock.now_ms())
        if verdict is Verdict.RUN:
            return True
        self._not_done.add(record.offset)
        self.unseen.add(record.offset)
        if verdict is Verdict.HOLD:
            self._held.hold(record)
        return False

    def admitted(self, records: Iterable[Record], unstarted: list[Record]) -> Iterator[Record]:
        """Give the records that may run, in order; once the run is closed the others are added to `unstarted`."""
        for record in records:
            if self.is_closed:
                unstarted.append(record)
            elif not self.has_to_ask or self.admit(record):
                yield record

    def is_blocked(self, record: Record) -> bool:
        """Return whether a record that was admitted has to wait after all, behind one that failed since."""
        if self._held is None or not self._held.blocks(record):
            return False
        self._not_done.add(record.offset)
        self.unseen.add(record.offset)
        if not self._held.knows(record):
            self._held.hold(record)
        return True

    def succeed(self, record: Record) -> None:
        """Note a success. Needed only in a batch that `has_to_ask`; in others all that ran and did not fail did."""
        if self._held is not None:
            self._held.settle(record, self._clock.now_ms())

    def merge(self, records: Sequence[Record], context: Context) -> None:
        """Take over the effects of a call that succeeded, and end its context.

        Where calls side by side did more than one commit may hold, the last of them run again.
        """
        if not self.merge_effects(records[0], context):
            for record in records:
                self.put_off(record, 0, "the batch had no room for its effects")
        elif self.has_to_ask:
            for record in records:
                self.succeed(record)

    def merge_effects(self, record: Record, context: Context) -> bool:
        """Take over the effects of a call for `record`, and end its context; return whether a commit can hold them."""
        context.close()
        if not self._take_effects(*context.size):
            return False
        for topic, emitted in context.emits:
            self._emits.append(Emit(record.offset, topic, emitted))
        if context.changes and self._state is not None:
            assert record.raw_key is not None
            self._state.merge(record.raw_key, context.changes)
        if context.timers is not None and self.timers is not None:
            assert record.raw_key is not None
            self.timers.take(record.raw_key, context.timers)
        return True

    def _take_effects(self, operations: int, size_bytes: int) -> bool:
        """Return whether a commit can hold these as well; close the batch where it is full."""
        if not self._effects.take(operations, size_bytes):
            return False
        if self._effects.is_full:
            self.is_closed = True
        return True

    def send(self, source: int, topic: str, record: NewRecord) -> None:
        """Emit an operator's result, as an effect of the record at offset `source`."""
        self._emits.append(Emit(source, topic, record))
        self.count(1, len(record.value))

    def send_all(self, source: int, topic: str, records: Sequence[NewRecord]) -> bool:
        """Emit records as `send` does, where they leave room in the batch; return whether they did."""
        size_bytes = sum([len(record[1]) for record in records])
        if not self._effects.has_room(len(records), size_bytes):
            return False
        self._effects.add(len(records), size_bytes)
        self._emits += map(_new_emit, zip(repeat(source), repeat(topic), records, strict=False))
        return True

    def count(self, operations: int, size_bytes: int) -> None:
        """Count effects that no handler's context counted; the batch is closed where it is full."""
        self._effects.add(operations, size_bytes)
        if self._effects.is_full:
            self.is_closed = True

    def fail(self, record: Record, error: BaseException) -> None:
        """Note a failure: the record runs again later, or is dead."""
        attempts = record.attempts + 1
        policy = self.subscription.retry
        now_ms = self._clock.now_ms()
        if policy.gives_up(error, attempts):
            failure = Failure(record, error, attempts, None, text_of(error))
            self.bury(failure)
            self.succeed(record)
            return
        wait_ms = policy.wait_ms(attempts, error)
        failure = Failure(record, error, attempts, wait_ms, text_of(error))
        self.failures.append(failure)
        self._not_done.add(record.offset)
        text = f"{type(error).__name__}: {failure.text}"
        if self._held is None:
            self._retries.append(Retry(record.offset, None, attempts, now_ms + wait_ms, text))
        else:
            self._held.put_off(record, attempts, now_ms + wait_ms, text)
            self.has_to_ask = True

    def fail_late(self, record: Record, error: BaseException) -> None:
        """Note the failure of a record that an earlier batch has kept (`keep`)."""
        self._late.append(record.offset)
        self.fail(record, error)

    def put_off(self, record: Record, wait_ms: int, reason: str) -> None:
        """Let a record run later without charging it."""
        self._not_done.add(record.offset)
        due_ms = self._clock.now_ms() + wait_ms
        if self._held is None:
            self._retries.append(Retry(record.offset, None, record.attempts, due_ms, reason))
        else:
            self._held.put_off(record, record.attempts, due_ms, reason)
            self.has_to_ask = True

    def cut(self) -> None:
        """Start no more records: the time of the batch is up."""
        self.is_cut = self.is_closed = True

    def keep(self, record: Record) -> None:
        """Keep a record: its outcome comes with a later batch."""
        self._not_done.add(record.offset)

    def bury(self, failure: Failure) -> None:
        """Make a dead letter of what failed for good; behind a hop, of the record as it was before it."""
        failure = replace(failure, record=_original_of(failure.record, self.subscription))
        trace = "".join(traceback.format_exception(failure.error))
        letter = DeadLetter(
            record=failure.record,
            group=self.subscription.group,
            handler=self.subscription.name,
            attempts=failure.attempts,
            error_type=type(failure.error).__name__,
            error=failure.text,
            traceback=trace[-_MAX_TRACEBACK:],
            dead_at_ms=self._clock.now_ms(),
            is_result=failure.is_result,
        )
        self.failures.append(failure)
        self._dead.append(letter)
        self._take_effects(1, len(failure.record.value))

    def as_commit(self, handled: Sequence[Record], left: Sequence[Record], *, whole: bool) -> Commit:
        """Return the commit of the records that were handled; `left` are the ones not started."""
        not_done = self._not_done
        if not_done:
            done = [offset for offset in map(offset_of, handled) if offset not in not_done]
        else:
            done = list(map(offset_of, handled))
        done += [offset for offset in self._late if offset not in not_done]
        held = self._held
        position = None if held is None else _move_on(held, left, self.batch.end)
        return Commit(
            commit_id=secrets.token_bytes(12),
            done=done,
            retries=tuple(self._retries) if held is None else held.take_changes(),
            position=position,
            dead=tuple(self._dead),
            emits=tuple(self._emits),
            whole=whole,
            changes=_with_state(self.changes, self._state, self.steps, done),
            progress=self.progress,
            late=self.late_records,
        )


def _original_of(record: Record, subscription: Subscription) -> Record:
    """Return a record as it was before the shuffle that its subscription is behind, if it is."""
    if isinstance(record, GroupedRecord):
        return record.original
    hop = subscription.repartition
    if hop is None or record.topic != hop.topic:
        return record
    try:
        return receive(record, hop.source).record or record
    except SchemaError:  # it was put there by someone else
        return record


def _with_state(
    changes: EntryChanges, state: BatchState | StoreState | None, steps: StepLog | None, done: Sequence[int]
) -> EntryChanges:
    """Return what the operator and `ctx.state` have changed, without the steps of the records that are done."""
    entries = {} if state is None else state.as_entries()
    if steps is not None and (dropped := steps.drops(done)):
        entries = {**entries, **dropped}
    return EntryChanges(changes.dropped, {**changes.entries, **entries}) if entries else changes


def _move_on(held: KeyOrder, left: Sequence[Record], end: int) -> int:
    """Return the first offset not read, with which the order goes on: new records come last in a batch, in order."""
    held.position = next((record.offset for record in left if not held.knows(record)), end)
    return held.position
