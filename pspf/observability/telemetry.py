"""Telemetry: the counters of a worker. Opens no port and starts no thread; exporters read snapshots.

Counting is paid once a batch: prometheus's own `labels().inc()` costs 1.5 us, an event's whole budget.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Final, NamedTuple

from pspf.observability.instruments import BATCH_EVENTS, COMMIT_US, END_TO_END_MS, HANDLER_US, Distribution, Histogram
from pspf.records import Cursor, Record

if TYPE_CHECKING:
    from pspf.observability.tracing import Spans

_NO_HANDLER_US: Final = Distribution.empty(HANDLER_US)
_NO_BATCH_EVENTS: Final = Distribution.empty(BATCH_EVENTS)
_NO_COMMIT_US: Final = Distribution.empty(COMMIT_US)
_NO_END_TO_END_MS: Final = Distribution.empty(END_TO_END_MS)

_MAX_EMITS: Final = 20
"""How many of the topics that a handler emits to are reported."""


class BatchTimes(NamedTuple):
    """What a committed batch took: `handled` events ran, for `handler_us` together; `finished` are done for good.

    `oldest_ms` and `newest_ms` are the ages of its first and last record at the commit.
    """

    handled: int
    handler_us: int
    commit_us: int
    finished: int
    oldest_ms: int
    newest_ms: int


@dataclass(frozen=True, slots=True)
class HandlerCounters:
    """What one handler did since its process started, or in several processes together.

    `processed` events succeeded (late ones among them), `failed` runs raised, `retried` were put off for
    a retry, `dead` and `late` were given up or came too late, `batches` were committed. `last_commit_ms`
    is the wall clock at the last commit, None before the first. `lease_losses` counts the cursors that
    another worker took over, `emits` names topics that its commits wrote to. `handler_us` and
    `end_to_end_ms` count events, `batch_events` and `commit_us` batches.
    """

    topic: str
    group: str
    handler: str
    processed: int = 0
    failed: int = 0
    retried: int = 0
    dead: int = 0
    late: int = 0
    batches: int = 0
    last_commit_ms: int | None = None
    lease_losses: int = 0
    emits: tuple[str, ...] = ()
    handler_us: Distribution = _NO_HANDLER_US
    batch_events: Distribution = _NO_BATCH_EVENTS
    commit_us: Distribution = _NO_COMMIT_US
    end_to_end_ms: Distribution = _NO_END_TO_END_MS

    @property
    def key(self) -> tuple[str, str, str]:
        """(topic, group, handler)."""
        return self.topic, self.group, self.handler

    def __add__(self, other: "HandlerCounters") -> "HandlerCounters":
        commits = [at for at in (self.last_commit_ms, other.last_commit_ms) if at is not None]
        return HandlerCounters(
            *self.key,
            processed=self.processed + other.processed,
            failed=self.failed + other.failed,
            retried=self.retried + other.retried,
            dead=self.dead + other.dead,
            late=self.late + other.late,
            batches=self.batches + other.batches,
            last_commit_ms=max(commits, default=None),
            lease_losses=self.lease_losses + other.lease_losses,
            emits=tuple(sorted({*self.emits, *other.emits}))[:_MAX_EMITS],
            handler_us=self.handler_us + other.handler_us,
            batch_events=self.batch_events + other.batch_events,
            commit_us=self.commit_us + other.commit_us,
            end_to_end_ms=self.end_to_end_ms + other.end_to_end_ms,
        )


@dataclass(slots=True, eq=False)
class Activity:
    """Progress of one cursor's loop, for the watchdog, readable from any thread.

    Times are monotonic milliseconds, None where it is not doing that. Reading and committing include
    waiting for a broker that is away; `batch` are the records that are handled or wait to be, beside other
    batches, or alone (`waits_alone`): then they may have ended an earlier process.
    """

    topic: str
    group: str
    handler: str
    partition: int
    reading_since_ms: int | None = None
    handling_since_ms: int | None = None
    committing_since_ms: int | None = None
    waiting_since_ms: int | None = None
    waits_alone: bool = False
    overdue_since_ms: int | None = None
    """Since when a call goes on although it was cancelled, its time being up."""
    batch: Sequence[Record] = ()
    topics: tuple[str, ...] = ()
    """All topics that the loop reads, `topic` first."""


@dataclass(slots=True)
class _Counts:
    processed: int = 0
    failed: int = 0
    retried: int = 0
    dead: int = 0
    late: int = 0
    batches: int = 0
    last_commit_ms: int | None = None
    lease_losses: int = 0
    emits: tuple[str, ...] = ()
    handler_us: Histogram = field(default_factory=lambda: Histogram(HANDLER_US))
    batch_events: Histogram = field(default_factory=lambda: Histogram(BATCH_EVENTS))
    commit_us: Histogram = field(default_factory=lambda: Histogram(COMMIT_US))
    end_to_end_ms: Histogram = field(default_factory=lambda: Histogram(END_TO_END_MS))

    def take_times(self, times: BatchTimes) -> None:
        self.commit_us.add(times.commit_us)
        if times.handled:
            self.batch_events.add(times.handled)
            self.handler_us.add_shared(times.handler_us, times.handled)
        if times.finished:
            # Half of them count as old as the first, half as the last: the ends are right, and for records
            # that came steadily the sum is; looking at each would cost a tenth of what PSPF may add to an event.
            newer = times.finished // 2
            self.end_to_end_ms.add(max(0, times.oldest_ms), times.finished - newer)
            self.end_to_end_ms.add(max(0, times.newest_ms), newer)

    def read(self, topic: str, group: str, handler: str) -> HandlerCounters:
        return HandlerCounters(
            topic,
            group,
            handler,
            self.processed,
            self.failed,
            self.retried,
            self.dead,
            self.late,
            self.batches,
            self.last_commit_ms,
            self.lease_losses,
            self.emits,
            self.handler_us.read(),
            self.batch_events.read(),
            self.commit_us.read(),
            self.end_to_end_ms.read(),
        )


class TelemetryManager:
    """The counters of one Stream's handlers, and who makes its spans.

    `on_enter` is called when a cursor's loop begins.
    """

    find_spans: "Callable[[], Spans | None]"
    """Return the tracer, None without a tracer provider: asked once a cursor or an emit."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, str], _Counts] = {}
        self._activities: tuple[Activity, ...] = ()
        self._asking_since_ms: tuple[int, ...] = ()
        self.unread: dict[tuple[str, str, str], tuple[int, ...]] = {}
        """(topic, group, handler) -> the partitions that no worker reads, as far as this one has seen."""
        self.refused: dict[Cursor, tuple[float, str]] = {}
        """Why cursors stand still, and up to which monotonic time in seconds that is known."""
        self.on_enter: Callable[[], None] = _nothing
        self.find_spans = find_tracing()

    def record_batch(
        self,
        topic: str,
        group: str,
        handler: str,
        *,
        processed: int = 0,
        failed: int = 0,
        retried: int = 0,
        dead: int = 0,
        late: int = 0,
        commit_ms: int | None = None,
        times: BatchTimes | None = None,
        emits: Iterable[str] = (),
    ) -> None:
        """Add a batch to a handler's counters; `commit_ms` is the wall clock at its commit, None where it failed.

        `emits` are the topics that its commit wrote to.
        """
        counts = self._of(topic, group, handler)
        counts.processed += processed
        counts.failed += failed
        counts.retried += retried
        counts.dead += dead
        counts.late += late
        if commit_ms is not None:
            counts.batches += 1
            counts.last_commit_ms = commit_ms
        if times is not None:
            counts.take_times(times)
        for topic in emits:
            if topic not in counts.emits and len(counts.emits) < _MAX_EMITS:
                counts.emits = (*counts.emits, topic)

    def record_lease_loss(self, topic: str, group: str, handler: str) -> None:
        """Count a cursor that another worker took over."""
        self._of(topic, group, handler).lease_losses += 1

    def _of(self, topic: str, group: str, handler: str) -> _Counts:
        counts = self._counts.get((topic, group, handler))
        if counts is None:
            counts = self._counts[topic, group, handler] = _Counts()
        return counts

    @property
    def unread_places(self) -> tuple[tuple[str, str, str, tuple[int, ...]], ...]:
        """Return (topic, group, handler, partitions) of each entry of `unread`. For any thread."""
        return tuple((*place, partitions) for place, partitions in tuple(self.unread.items()) if partitions)

    @property
    def refusals(self) -> tuple[tuple[Cursor, str], ...]:
        """Return which cursors stand still, and why. For any thread."""
        now_s = time.monotonic()
        return tuple((cursor, why) for cursor, (until_s, why) in tuple(self.refused.items()) if now_s < until_s)

    @property
    def activities(self) -> tuple[Activity, ...]:
        """What the loops of all cursors in this process are at."""
        return self._activities

    def enter(self, topic: str, group: str, handler: str, partition: int, topics: tuple[str, ...] = ()) -> Activity:
        """Begin to watch over a cursor's loop, which keeps what this returns up to date until `leave`."""
        activity = Activity(topic, group, handler, partition, topics=topics or (topic,))
        self._activities = (*self._activities, activity)
        self.on_enter()
        return activity

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Note, while this lasts, that something is asked of the broker beside the loops of cursors."""
        since_ms = time.monotonic_ns() // 1_000_000
        self._asking_since_ms = (*self._asking_since_ms, since_ms)
        try:
            yield
        finally:
            left = list(self._asking_since_ms)
            left.remove(since_ms)
            self._asking_since_ms = tuple(left)

    @property
    def asking_since_ms(self) -> tuple[int, ...]:
        """Since when something is asked of the broker beside the loops of cursors; monotonic."""
        return self._asking_since_ms

    def leave(self, activity: Activity) -> None:
        """End what `enter` began."""
        self._activities = tuple(other for other in self._activities if other is not activity)

    def snapshot(self) -> tuple[HandlerCounters, ...]:
        """Return the counters of all handlers that had a batch, by topic, group and handler."""
        return tuple(counts.read(*key) for key, counts in sorted(self._counts.copy().items(), key=lambda item: item[0]))


def _nothing() -> None:
    pass


def find_tracing() -> "Callable[[], Spans | None]":
    """Return the tracer of this process, None without a tracer provider.

    Where OpenTelemetry's API is not installed that is decided here, once.
    """
    try:
        import_module("opentelemetry.trace")
    except ModuleNotFoundError:
        return _no_spans
    spans: Spans = import_module("pspf.observability.tracing").Spans()
    return spans.find


def _no_spans() -> None:
    return None
