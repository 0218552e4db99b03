"""What PSPF counts about itself. Opens no port and starts no thread; exporters read snapshots.

Counting is paid once a batch: prometheus's own `labels().inc()` costs 1.5 us, an event's whole budget.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Final

Headers = dict[str, str] | None

_TRACE_HEADER: Final = "traceparent"


@dataclass(frozen=True, slots=True)
class HandlerCounters:
    """What one handler did since its process started; all but the last are counts.

    `processed` events succeeded, `failed` runs raised, `retried` were put off for a retry, `dead`
    and `late` were given up or came too late, `batches` were committed. `last_commit_ms` is the
    wall clock at the last commit, None before the first.
    """

    topic: str
    group: str
    handler: str
    processed: int
    failed: int
    retried: int
    dead: int
    late: int
    batches: int
    last_commit_ms: int | None


@dataclass(slots=True, eq=False)
class Activity:
    """What the loop of one cursor is at, for whoever watches over it, also from another thread.

    Times are monotonic milliseconds, None where it is not doing that. Reading and committing include
    waiting for a broker that is away; `records` are those of the batch that is handled.
    """

    topic: str
    group: str
    handler: str
    partition: int
    reading_since_ms: int | None = None
    handling_since_ms: int | None = None
    committing_since_ms: int | None = None
    records: int = 0


@dataclass(slots=True)
class _Counts:
    processed: int = 0
    failed: int = 0
    retried: int = 0
    dead: int = 0
    late: int = 0
    batches: int = 0
    last_commit_ms: int | None = None


class TelemetryManager:
    """The counters of one Stream's handlers, and the trace context of what it emits.

    `read_trace_context` gives the W3C headers of the current span, empty without one; by default
    OpenTelemetry is asked, where its API is installed. `lease_losses` counts the cursors that
    another worker took over. `on_enter` is called when a cursor's loop begins.
    """

    lease_losses: int
    is_tracing: bool
    """Whether `inject` may change headers at all."""

    inject: Callable[[Headers], Headers]
    """Return headers with the trace context of the current span, the same headers where there is none."""

    def __init__(self, read_trace_context: Callable[[], Mapping[str, str]] | None = None) -> None:
        self._counts: dict[tuple[str, str, str], _Counts] = {}
        self.lease_losses = 0
        self._activities: tuple[Activity, ...] = ()
        self.on_enter: Callable[[], None] = _nothing
        read_trace_context = read_trace_context or find_trace_context()
        # Chosen once: with no tracing installed an emit pays for a call and nothing else.
        self.is_tracing = read_trace_context is not None
        self.inject = _as_they_are if read_trace_context is None else _make_inject(read_trace_context)

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
    ) -> None:
        """Add a batch to a handler's counters; `commit_ms` is the wall clock at its commit, None where it failed."""
        counts = self._counts.get((topic, group, handler))
        if counts is None:
            counts = self._counts[topic, group, handler] = _Counts()
        counts.processed += processed
        counts.failed += failed
        counts.retried += retried
        counts.dead += dead
        counts.late += late
        if commit_ms is not None:
            counts.batches += 1
            counts.last_commit_ms = commit_ms

    @property
    def activities(self) -> tuple[Activity, ...]:
        """What the loops of all cursors in this process are at."""
        return self._activities

    def enter(self, topic: str, group: str, handler: str, partition: int) -> Activity:
        """Begin to watch over a cursor's loop, which keeps what this returns up to date until `leave`."""
        activity = Activity(topic, group, handler, partition)
        self._activities = (*self._activities, activity)
        self.on_enter()
        return activity

    def leave(self, activity: Activity) -> None:
        """End what `enter` began."""
        self._activities = tuple(other for other in self._activities if other is not activity)

    def snapshot(self) -> tuple[HandlerCounters, ...]:
        """Return the counters of all handlers that had a batch, by topic, group and handler."""
        return tuple(
            HandlerCounters(
                topic,
                group,
                handler,
                counts.processed,
                counts.failed,
                counts.retried,
                counts.dead,
                counts.late,
                counts.batches,
                counts.last_commit_ms,
            )
            for (topic, group, handler), counts in sorted(self._counts.items(), key=lambda item: item[0])
        )


def _nothing() -> None:
    pass


def _as_they_are(headers: Headers) -> Headers:
    return headers


def _make_inject(read_trace_context: Callable[[], Mapping[str, str]]) -> Callable[[Headers], Headers]:
    def inject(headers: Headers) -> Headers:
        if headers and _TRACE_HEADER in headers:
            return headers  # the caller's own context comes first
        context = read_trace_context()
        return {**(headers or {}), **context} if context else headers

    return inject


def find_trace_context() -> Callable[[], Mapping[str, str]] | None:
    """Return what reads the current span's W3C headers from OpenTelemetry, None where it isn't installed."""
    try:
        trace = import_module("opentelemetry.trace")
        propagation = import_module("opentelemetry.trace.propagation.tracecontext")
    except ImportError:
        return None
    get_current_span = trace.get_current_span
    write = propagation.TraceContextTextMapPropagator().inject

    def read() -> Mapping[str, str]:
        if not get_current_span().get_span_context().is_valid:
            return {}
        carrier: dict[str, str] = {}
        write(carrier)
        return carrier

    return read
