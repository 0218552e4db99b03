"""Prefetch of a cursor: one read at a time, one batch ahead of the handlers."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from pspf.clock import Clock
from pspf.connectors.contract.cursors import Consumer
from pspf.engine.batch_size import BatchSize
from pspf.engine.broker_retry import BrokerRetry
from pspf.engine.failure_log import fields_of
from pspf.engine.handlers.executor import Executor
from pspf.engine.idleness import IdleTracker
from pspf.engine.key_order import KeyOrder
from pspf.errors import BackendUnavailable
from pspf.loggers import get_logger
from pspf.observability.telemetry import Activity
from pspf.records import Batch
from pspf.windowing.spans import NEVER

logger = get_logger(__name__)

_CANCEL_S: Final = 0.1
_TURNS_TO_SEND: Final = 2
"""How many turns of the event loop a read takes to be on its way: its task, and a transport that writes at its end."""
_EMPTY: Final = Batch((), 0)
_LONGEST_TIMER_MS: Final = 60_000
"""The wall clock may be set meanwhile, and is looked at again after so long."""


@dataclass(slots=True)
class Prefetch:
    """What one cursor reads. `wake` is set when a read has ended."""

    consumer: Consumer
    executor: Executor
    size: BatchSize
    held: KeyOrder | None
    max_held_back: int
    clock: Clock
    activity: Activity
    insist: BrokerRetry
    wake: asyncio.Event
    due_ms: Callable[[], int] | None = None
    """Tells the wall-clock time at which the loop has work; None: when the executor has."""
    silence: IdleTracker = field(default_factory=IdleTracker)
    _upcoming: asyncio.Task[Batch] | None = None
    _starting: asyncio.Handle | None = None
    """Starts the next read when the handlers first wait: for one that never does, a task would cost more than it."""
    _was_full: bool = False
    _waits_until_ms: int | None = None
    _end: int = 0
    _name: str = ""

    def __post_init__(self) -> None:
        self._name = f"poll {self.consumer.cursor}"
        self._end = 0 if self.consumer.lease is None else self.consumer.lease.position

    async def go_ahead(self, in_hand: int) -> None:
        """Start the next read beside a batch of `in_hand`, unless this worker should take no more before it is done."""
        is_slow = self.size.is_slow and self.held is None  # another worker could take the records
        if is_slow or self._is_full or self._upcoming is not None:
            return
        if self.consumer.is_remote and 2 * in_hand >= self.size.records:  # it is behind
            self._start()
            for _ in range(_TURNS_TO_SEND):  # handlers may keep the loop busy: let it be sent before
                await asyncio.sleep(0)
        else:
            self._starting = asyncio.get_running_loop().call_soon(self._start)

    async def take(self) -> Batch:
        """Wait for `wake`, or until something is due; return what was read, empty where something else woke it."""
        upcoming = self._start()
        await self._wait()
        if not upcoming.done():
            return _EMPTY
        self._upcoming = None
        return upcoming.result()

    async def _wait(self) -> None:
        """Return when `wake` is set; it is set as well when the loop has work by the wall clock."""
        timer, due_ms = None, self.executor.due_ms if self.due_ms is None else self.due_ms()
        if due_ms != NEVER and not self.wake.is_set():
            timer = self.clock.call_later(min(max(0, due_ms - self.clock.now_ms()), _LONGEST_TIMER_MS), self.wake.set)
        try:
            await self.wake.wait()
        finally:
            if timer is not None:
                timer.cancel()
        self.wake.clear()

    @property
    def are_waiting(self) -> bool:
        """Whether a read waits for records, and its time is not up."""
        return self._waits_until_ms is not None and self._waits_until_ms > self.clock.monotonic_ms()

    async def close(self) -> None:
        """End the read that is under way."""
        if self._starting is not None:
            self._starting.cancel()
        while self._upcoming is not None and not self._upcoming.done():
            self._upcoming.cancel()
            # Again, should it have been lost: asyncio.wait_for drops one that meets its result.
            await asyncio.wait([self._upcoming], timeout=_CANCEL_S)
        await self.consumer.end_reads()

    @property
    def _is_full(self) -> bool:
        """Whether so much is held back that nothing new is to be read."""
        return self.held is not None and len(self.held) >= self.max_held_back

    def _start(self) -> asyncio.Task[Batch]:
        """Return the read that is under way."""
        if self._starting is not None:
            self._starting.cancel()
            self._starting = None
        if self._upcoming is None:
            self._upcoming = asyncio.create_task(self._poll(), name=self._name)
            self._upcoming.add_done_callback(_see)
        return self._upcoming

    async def _poll(self) -> Batch:
        try:
            return await self._poll_once()
        finally:
            self.wake.set()  # here and not when it is done: that would be a turn of the event loop later

    async def _poll_once(self) -> Batch:
        is_full = self._is_full
        if is_full and not self._was_full:
            cursor = self.consumer.cursor
            logger.warning(
                "%s: %d records are held back; nothing new is read until one of them is done",
                cursor,
                self.max_held_back,
                extra=fields_of(cursor),
            )
        self._was_full = is_full
        self.activity.reading_since_ms = time.monotonic_ns() // 1_000_000
        try:
            batch = await self.insist("read", lambda: self._read(retries_only=is_full))
            self.size.weigh(batch.records, batch.size_bytes)
        finally:
            self.activity.reading_since_ms = None
        if is_full or batch.end != self._end:  # retries break no silence
            self.silence.end()
        elif not batch.records:
            self.silence.go_on()
        self._end = batch.end
        return batch

    async def _read(self, *, retries_only: bool) -> Batch:
        now_ms = self.clock.monotonic_ms()
        self.silence.begin_read(now_ms)
        timeout_ms = self.executor.poll_timeout_ms(self.silence, now_ms)
        self._waits_until_ms = now_ms + timeout_ms
        try:
            return await self.consumer.poll(
                max_records=self.size.records, timeout_ms=timeout_ms, retries_only=retries_only
            )
        except BackendUnavailable:
            self.silence.end()
            raise
        finally:
            self._waits_until_ms = None


def _see(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()  # retrieved, in case no task asks for the result
