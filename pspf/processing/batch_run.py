"""What happens to the records of one batch, until it is a `Commit`. No I/O."""

import secrets
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pspf.clock import Clock
from pspf.context import Context
from pspf.errors import EventRejected, HandlerCrashed
from pspf.processing.batch_state import BatchState, StoreState
from pspf.processing.held_back import HeldBack, Verdict
from pspf.records import Batch, Commit, DeadLetter, Emit, Record, Retry
from pspf.subscription import Subscription

_MAX_ERROR: Final = 1_000
_MAX_TRACEBACK: Final = 8_000


@dataclass(frozen=True, slots=True)
class Failure:
    """A run of a record that failed; `retry_ms` from now it runs again, None: it is a dead letter."""

    record: Record
    error: BaseException
    attempts: int
    retry_ms: int | None


class BatchRun:
    """Collects outcomes and effects. Executors report to it; the processor turns it into a commit."""

    def __init__(
        self,
        subscription: Subscription,
        batch: Batch,
        *,
        held: HeldBack | None,
        state: BatchState | StoreState | None,
        clock: Clock,
        max_operations: int,
        max_effect_bytes: int,
    ) -> None:
        self.subscription = subscription
        self.batch = batch
        self.failures: list[Failure] = []
        self.is_closed = False
        """Set from outside or by size: the records not started yet are left for the next batch."""
        first = batch.records[0].offset if batch.records else 0
        self.has_to_ask = held is not None and (len(held) > 0 or first < held.position)
        """Whether `admit` may say no; kept apart so that a batch without failures never asks."""
        self._held = held
        self._state = state
        self._clock = clock
        self._operations_left = max_operations
        self._bytes_left = max_effect_bytes
        self._emits: list[Emit] = []
        self._dead: list[DeadLetter] = []
        self._retries: list[Retry] = []
        self._late: list[int] = []
        self._not_done: set[int] = set()

    def admit(self, record: Record) -> bool:
        """Return whether a record may run; one that may not is held back, or settled already."""
        if self._held is None:
            return True
        verdict = self._held.admit(record, self._clock.now_ms())
        if verdict is Verdict.RUN:
            return True
        self._not_done.add(record.offset)
        if verdict is Verdict.HOLD:
            self._held.hold(record)
        return False

    def is_blocked(self, record: Record) -> bool:
        """Return whether a record that was admitted has to wait after all, behind one that failed since."""
        if self._held is None or not self._held.blocks(record):
            return False
        self._not_done.add(record.offset)
        if not self._held.knows(record):
            self._held.hold(record)
        return True

    def succeed(self, record: Record) -> None:
        """Note a success. Needed only in a batch that `has_to_ask`; in others all that ran and did not fail did."""
        if self._held is not None:
            self._held.settle(record, self._clock.now_ms())

    def merge(self, record: Record, context: Context) -> None:
        """Take over the effects of a call that succeeded, and end its context."""
        context.close()
        for topic, emitted in context.emits:
            self._emits.append(Emit(record.offset, topic, emitted))
        if context.changes and self._state is not None:
            assert record.raw_key is not None
            self._state.merge(record.raw_key, context.changes)
        operations, size_bytes = context.size
        self._operations_left -= operations
        self._bytes_left -= size_bytes
        if self._operations_left <= 0 or self._bytes_left <= 0:
            self.is_closed = True

    def fail(self, record: Record, error: BaseException) -> None:
        """Note a failure: the record runs again later, or is dead."""
        attempts = record.attempts + 1
        policy = self.subscription.retry
        now_ms = self._clock.now_ms()
        is_final = isinstance(error, (EventRejected, HandlerCrashed, *policy.give_up_on))
        if is_final or attempts >= policy.max_attempts:
            self.failures.append(Failure(record, error, attempts, None))
            self._dead.append(self._bury(record, error, attempts, now_ms))
            self.succeed(record)
            return
        wait_ms = policy.wait_ms(attempts)
        self.failures.append(Failure(record, error, attempts, wait_ms))
        self._not_done.add(record.offset)
        text = f"{type(error).__name__}: {error}"[:_MAX_ERROR]
        if self._held is None:
            self._retries.append(Retry(record.offset, None, attempts, now_ms + wait_ms, text))
        else:
            self._held.put_off(record, attempts, now_ms + wait_ms, text)
            self.has_to_ask = True

    def fail_late(self, record: Record, error: BaseException) -> None:
        """Note the failure of a record that an earlier batch left in hand (`keep`)."""
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

    def keep(self, record: Record) -> None:
        """Leave a record as it is, in hand: its outcome comes with a later batch."""
        self._not_done.add(record.offset)

    def _bury(self, record: Record, error: BaseException, attempts: int, now_ms: int) -> DeadLetter:
        trace = "".join(traceback.format_exception(error))
        return DeadLetter(
            record=record,
            group=self.subscription.group,
            handler=self.subscription.name,
            attempts=attempts,
            error_type=type(error).__name__,
            error=str(error)[:_MAX_ERROR],
            traceback=trace[-_MAX_TRACEBACK:],
            dead_at_ms=now_ms,
        )

    def as_commit(self, handled: Sequence[Record], left: Sequence[Record], *, whole: bool) -> Commit:
        """Return the commit of the records that were handled; `left` are the ones not started."""
        not_done = self._not_done
        if not_done:
            done = [record.offset for record in handled if record.offset not in not_done]
        else:
            done = [record.offset for record in handled]
        done += [offset for offset in self._late if offset not in not_done]
        held = self._held
        position = None if held is None else self._move_on(held, left)
        return Commit(
            commit_id=secrets.token_bytes(12),
            done=done,
            retries=tuple(self._retries) if held is None else held.take_changes(),
            position=position,
            dead=tuple(self._dead),
            emits=tuple(self._emits),
            state={} if self._state is None else self._state.get_changes(),
            whole=whole,
        )

    def _move_on(self, held: HeldBack, left: Sequence[Record]) -> int:
        """Return the first offset not read: new records come last in a batch, in order."""
        position = next((record.offset for record in left if not held.knows(record)), self.batch.end)
        held.position = position
        return position
