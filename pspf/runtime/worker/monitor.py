"""Monitor of a worker process: reads what it does from a thread that handlers and the event loop can't delay."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from pspf.engine.handlers.executor import LONGEST_POLL_MS
from pspf.loggers import get_logger
from pspf.observability.telemetry import Activity, HandlerCounters
from pspf.observability.worker_status import HANDLING, OVERDUE, WAITING, WAITING_ALONE, BatchStatus
from pspf.runtime.status.reports import Pulse, SubscriptionStatus
from pspf.runtime.worker.awaits import describe_tasks
from pspf.stream import Stream
from pspf.subscription import Subscription

logger = get_logger(__name__)

_TICK_S: Final = 0.5
_BLOCKED_MS: Final = 2_000
"""A turn that takes longer has blocked the event loop."""
_SLOW_MS: Final = 60_000
_UNREAD_LEASES: Final = 2
"""After how many leases of failed reads a partition counts as not read."""
_SHOWN: Final = 10
_TOLD_IDS: Final = 20
"""How many records of a batch are reported by id."""


class Monitor:
    """Takes the pulse of a process: from any thread, but one at a time.

    `only` chooses the subscriptions that run here. `begin` and `connected` are called by the worker, in its event loop.
    """

    def __init__(self, stream: Stream, read_stage: Callable[[], str], only: Callable[[Subscription], bool]) -> None:
        self._stream = stream
        self._handlers = {
            (each.topic, each.group, each.name): each.topics for each in stream.subscriptions if only(each)
        }
        self._read_stage = read_stage
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ticked_ms: int | None = None
        self._begun_ms = self._listens_since_ms = _now_ms()
        self._is_connected = False
        self._is_at_work = False
        self._warned: dict[Activity, tuple[int, int]] = {}
        self.on_work: Callable[[], None] = _nothing
        """Called when the process begins to consume."""
        stream.telemetry.on_enter = self._on_enter

    def begin(self) -> None:
        """Watch the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._tick()

    def connected(self) -> None:
        """Note that the broker has answered."""
        self._is_connected = True

    def ask_tasks(self, tell: Callable[[str], None]) -> None:
        """Call `tell` in the event loop, as soon as that runs, with the stacks of its tasks."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(lambda: tell(_describe_tasks()))

    def _tick(self) -> None:
        assert self._loop is not None
        before_ms, self._ticked_ms = self._ticked_ms, _now_ms()
        if before_ms is not None and self._ticked_ms - before_ms > _BLOCKED_MS:
            self._listens_since_ms = self._ticked_ms  # the blocked loop could not see answers that came meanwhile
        self._loop.call_later(_TICK_S, self._tick)

    def _on_enter(self) -> None:
        if not self._is_at_work:
            self._is_at_work = True
            self.on_work()

    def take_pulse(self) -> Pulse:
        """Return the pulse of the process; log slow handlers."""
        now_ms = _now_ms()
        activities = self._stream.telemetry.activities
        self._warn_of_slow(activities, now_ms)
        return Pulse(
            stage=self._read_stage(),
            loop_silent_ms=None if self._ticked_ms is None else now_ms - self._ticked_ms,
            unanswered_ms=self._unanswered_ms(activities, now_ms),
            is_connected=self._is_connected,
            is_at_work=self._is_at_work,
            session=self._stream.session_id,
            lease_left_ms=self._stream.lease_left_ms,
            busy=tuple(busy for activity in activities if (busy := _busy(activity, now_ms)) is not None),
            subscriptions=self._subscriptions(activities),
            unread=self._unread(activities, now_ms),
        )

    def _unread(self, activities: tuple[Activity, ...], now_ms: int) -> tuple[str, ...]:
        """Return the partitions that no worker reads, and those that this process can't read or handle."""
        longest_ms = _UNREAD_LEASES * self._stream.broker.limits.lease_ms + LONGEST_POLL_MS  # an empty read waits
        failing: dict[tuple[str, str, str], list[int]] = {}
        for activity in activities:
            since_ms = activity.reading_since_ms
            if since_ms is not None and now_ms - since_ms >= longest_ms and not self._is_blocked(now_ms):
                failing.setdefault((activity.topic, activity.group, activity.handler), []).append(activity.partition)
        nobody = [_say_unread("nobody reads", *place) for place in self._stream.telemetry.unread_places]
        refused = [f"{cursor} stands still: {why}" for cursor, why in self._stream.telemetry.refusals]
        return (*nobody, *refused, *[_say_unread("it can't read", *place, found) for place, found in failing.items()])

    def _is_blocked(self, now_ms: int) -> bool:
        return self._ticked_ms is not None and now_ms - self._ticked_ms > _BLOCKED_MS

    def _unanswered_ms(self, activities: tuple[Activity, ...], now_ms: int) -> int:
        if self._is_blocked(now_ms):
            return 0  # that is the event loop's silence, and not the broker's
        if not self._is_connected:
            return now_ms - max(self._begun_ms, self._listens_since_ms)
        asked = [
            since
            for activity in activities
            for since in (activity.reading_since_ms, activity.committing_since_ms)
            if since is not None
        ]
        asked += self._stream.telemetry.asking_since_ms
        return now_ms - max(self._listens_since_ms, min(asked, default=now_ms))

    def _subscriptions(self, activities: tuple[Activity, ...]) -> tuple[SubscriptionStatus, ...]:
        """Return all handlers of this process, those without a partition or a batch included."""
        counters = {each.key: each for each in self._stream.telemetry.snapshot()}
        partitions: dict[tuple[str, str, str], list[int]] = {key: [] for key in (*self._handlers, *counters)}
        for activity in activities:
            partitions.setdefault((activity.topic, activity.group, activity.handler), []).append(activity.partition)
        return tuple(
            SubscriptionStatus(
                counters.get(key) or HandlerCounters(*key), tuple(sorted(owned)), self._handlers.get(key, key[:1])
            )
            for key, owned in sorted(partitions.items())
        )

    def _warn_of_slow(self, activities: tuple[Activity, ...], now_ms: int) -> None:
        """Log a warning once a minute for a batch whose handler runs for longer; nothing is ended."""
        known = self._warned
        self._warned = {}
        for activity in activities:
            since_ms, records = activity.handling_since_ms, len(activity.batch)
            if since_ms is None or now_ms - since_ms < _SLOW_MS:
                continue
            before = known.get(activity)
            if before is not None and before[0] == since_ms and now_ms - before[1] < _SLOW_MS:
                self._warned[activity] = before
                continue
            self._warned[activity] = (since_ms, now_ms)
            logger.warning(
                "%s is at a batch of %d of %s, partition %d, for %d s; it is not disturbed (timeout_ms= would end it)",
                activity.handler,
                records,
                activity.topic,
                activity.partition,
                (now_ms - since_ms) // 1000,
            )


def _say_unread(doing: str, topic: str, group: str, handler: str, partitions: Sequence[int]) -> str:
    shown = ", ".join(map(str, sorted(partitions)[:_SHOWN])) + (", ..." if len(partitions) > _SHOWN else "")
    return f"{doing} {len(partitions)} partitions of {topic} for {group}, {handler}: {shown}"


def _describe_tasks() -> str:
    try:
        return describe_tasks()
    except Exception as error:  # the request waits for an answer
        logger.exception("can't tell where the tasks are")
        return f"can't tell where the tasks are: {error!r}\n"


def _nothing() -> None:
    pass


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def _busy(activity: Activity, now_ms: int) -> BatchStatus | None:
    """Return the batch of a cursor; None without one, which may have ended meanwhile."""
    waiting_ms, since_ms, batch = activity.waiting_since_ms, activity.handling_since_ms, activity.batch
    state = HANDLING
    if since_ms is None:
        since_ms = waiting_ms
        state = WAITING_ALONE if activity.waits_alone else WAITING
    elif (overdue_ms := activity.overdue_since_ms) is not None:
        since_ms, state = overdue_ms, OVERDUE
    if since_ms is None or not batch:
        return None
    return BatchStatus(
        activity.topic,
        activity.group,
        activity.handler,
        activity.partition,
        len(batch),
        max(0, now_ms - since_ms),
        state,
        tuple(record.id for record in batch[:_TOLD_IDS]),
    )
