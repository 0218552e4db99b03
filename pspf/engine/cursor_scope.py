"""Scope of a cursor: makes its state, executor and reads, and what the contexts of its handler share."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pspf.clock import Clock
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.cursors import Consumer
from pspf.context import StateSource, StepSource
from pspf.context.timers import TimerClock
from pspf.engine.batch_outcome import Failure
from pspf.engine.batch_size import BatchSize
from pspf.engine.batch_state import BatchState, StoreState
from pspf.engine.broker_retry import BrokerRetry
from pspf.engine.choice import make_executor, make_grouped_executor, make_operator, make_timed
from pspf.engine.handlers.executor import Executor
from pspf.engine.key_order import KeyOrder
from pspf.engine.operators.context import OperatorScope
from pspf.engine.prefetch import Prefetch
from pspf.engine.step_log import StepLog, Writer
from pspf.engine.timers.executor import TimerScope
from pspf.engine.tuning import Tuning
from pspf.events.decoding import Decoder, make_decoder
from pspf.events.step_places import StepPlaces
from pspf.events.topic import DeclaredTopic
from pspf.observability.telemetry import Activity, TelemetryManager
from pspf.records import EntryPlace, NewRecord
from pspf.state.base import StateStore
from pspf.subscription import Subscription, Takes

if TYPE_CHECKING:
    from pspf.observability.tracing import HandlerSpans

Inject = Callable[[str, dict[str, str] | None], dict[str, str] | None]
"""Gives the headers of an event that is emitted to a topic."""


@dataclass(slots=True)
class CursorHandlerScope:
    """What the contexts of one cursor share."""

    default_topic: str
    topics: Mapping[str, DeclaredTopic]
    max_operations: int
    max_effect_bytes: int
    state: StateSource | None
    no_state: str
    warned: set[str]
    broker: Broker
    spans: "HandlerSpans | None"
    inject: Inject
    steps: StepSource | None = None
    no_steps: str = ""
    handler: str = ""
    timers: TimerClock | None = None
    no_timers: str = ""

    def check(self, record: NewRecord) -> None:
        self.broker.limits.check(record)

    def check_all(self, records: Sequence[NewRecord]) -> None:
        self.broker.limits.check_all(records)


@dataclass(frozen=True, slots=True)
class CursorScope:
    """One cursor and its surroundings. `wake` is set when there is something to do."""

    subscription: Subscription
    broker: Broker
    consumer: Consumer
    tuning: Tuning
    clock: Clock
    telemetry: TelemetryManager
    default_topic: str
    topics: Mapping[str, DeclaredTopic]
    warned: set[str]
    store: StateStore | None
    held: KeyOrder | None
    insist: BrokerRetry
    on_failures: Callable[[Sequence[Failure]], None] | None = None
    """Called with the failures of each batch, once it is committed."""
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_abandoned(self) -> bool:
        """Whether the cursor is left as a killed process leaves it, instead of given back."""
        return self.insist.is_abandoned()

    def make_state(self) -> BatchState | StoreState | None:
        """Return where `ctx.state` is: in the cursor (ordered), in the user's store (shared), nowhere."""
        if self.consumer.lease is not None:
            return BatchState(self._read_entries, self.tuning.state_cache_entries, self._scan_entries, self.clock)
        return None if self.store is None else StoreState(self.store, self.subscription.name, self.clock)

    def make_size(self) -> BatchSize:
        """Return what learns how many records to read at once."""
        tuning, subscription = self.tuning, self.subscription
        return BatchSize(
            fixed=subscription.batch_size,
            smallest=tuning.smallest_batch,
            largest=tuning.largest_batch if subscription.operator is None else tuning.largest_window_batch,
            target_ms=tuning.target_commit_ms,
            most_bytes=tuning.batch_bytes,
        )

    def make_reads(
        self, executor: Executor, size: BatchSize, activity: Activity, due_ms: Callable[[], int]
    ) -> Prefetch:
        """Return what reads the cursor's batches; at the wall-clock time `due_ms` the loop is woken."""
        return Prefetch(
            self.consumer,
            executor,
            size,
            self.held,
            self.tuning.max_held_back,
            self.clock,
            activity,
            self.insist,
            self.wake,
            due_ms,
        )

    def make_steps(self, write: Writer) -> StepLog | None:
        """Return what keeps the results of steps; None where the handler can't have any."""
        handler = self.subscription.handler
        if self.consumer.lease is None or not handler.takes_context or handler.takes is Takes.BATCH:
            return None
        return StepLog(self._read_entries, self._scan_entries, write, StepPlaces(self._step_topics()))

    def _step_topics(self) -> Sequence[str]:
        return (self.consumer.cursor.topic, *self.subscription.beside)

    def make_executor(self, state: BatchState | StoreState | None, steps: StepSource | None = None) -> Executor:
        """Return what runs the handler."""
        subscription = self.subscription
        around = CursorHandlerScope(
            subscription.emits_to or self.default_topic,
            self.topics,
            self.tuning.effects.record_operations,
            self.tuning.effects.record_effect_bytes,
            None if subscription.handler.takes is Takes.BATCH else state,
            _why_not(subscription, "state", "state belongs to a key"),
            self.warned,
            self.broker,
            *_make_spans(self.telemetry, subscription),
            steps,
            _why_not(subscription, "steps", "steps belong to one event"),
            subscription.name,
            None if subscription.timers is None else self.clock,
            _why_no_timers(subscription),
        )
        read = _make_decoder(subscription)
        if subscription.timers is not None and self.held is not None:
            assert isinstance(state, BatchState)
            parts = TimerScope(
                self.consumer, self.held, self.clock, self.tuning.max_crashes, self.wake.set, state.begin
            )
            # A step is kept by its record's offset, and a timer has none.
            of_timers = replace(around, steps=None, no_steps="the function of a timer can't have steps")
            if subscription.timers.schedule is not None:
                of_timers.timers = None
                of_timers.no_timers = "a schedule sets no timers: emit to a handler that does"
            return make_timed(subscription, read, around, of_timers, self.insist, parts)
        if subscription.key is not None and subscription.operator is None:
            return make_grouped_executor(subscription, read, around, self.wake.set, state, self._read_progress)
        if subscription.operator is None or self.held is None:
            return make_executor(subscription, read, around, self.wake.set)
        scope = OperatorScope(
            self.consumer,
            self.held,
            self.insist,
            self.clock,
            self.tuning.effects,
            self.tuning.window_cache_states,
            self.wake.set,
            self._read_other_times,
        )
        return make_operator(subscription, read, around, scope)

    async def _read_progress(self) -> bytes | None:
        return await self.insist("read state", self.consumer.read_progress)

    async def _read_entries(self, places: Sequence[EntryPlace]) -> Mapping[EntryPlace, bytes]:
        # A broker that is away for a moment is no failure of the record.
        return await self.insist("read state", lambda: self.consumer.read_entries(places))

    async def _scan_entries(self, namespace: int, after: bytes | None, most: int) -> Sequence[tuple[bytes, bytes]]:
        return await self.insist(
            "read state", lambda: self.consumer.scan_entries(namespace, after=after, max_entries=most)
        )

    async def _read_other_times(self) -> Mapping[int, int]:
        """Return the watermarks of this handler's cursors on the other partitions, of those that have one."""
        cursor = self.consumer.cursor
        infos = await self.broker.list_cursors(group=cursor.group, topic=cursor.topic)
        return {
            info.cursor.partition: info.watermark_ms
            for info in infos
            if info.cursor.handler == cursor.handler
            and info.cursor.partition != cursor.partition
            and info.watermark_ms is not None
        }


def _make_spans(telemetry: TelemetryManager, subscription: Subscription) -> "tuple[HandlerSpans | None, Inject]":
    """Return the tracer of a handler's calls, and the function that adds headers to its emits; none without a provider.

    Chosen once a cursor, so that without tracing no event pays for it.
    """
    spans = telemetry.find_spans()
    if spans is None:
        return None, _as_they_are
    own = spans.of_handler(subscription.topic, subscription.group, subscription.name, subscription.retry.gives_up)
    return own, spans.create


def _make_decoder(subscription: Subscription) -> Decoder:
    """Return what decodes records: by one model, or by that of each topic."""
    models = subscription.models
    if models is None:
        return make_decoder(subscription.model)
    decoders = {topic: make_decoder(models.get(topic)) for topic in subscription.topics}
    return lambda record: decoders[record.topic](record)


def _as_they_are(topic: str, headers: dict[str, str] | None) -> dict[str, str] | None:
    return headers


def _why_no_timers(subscription: Subscription) -> str:
    name = subscription.name
    if not subscription.is_ordered:
        return f'handler {name} is not ordered, and timers are: subscribe(..., ordering="key")'
    if subscription.handler.takes is Takes.BATCH:
        return f"handler {name} takes whole batches, and a timer belongs to a key: take one event at a time"
    return f"handler {name} has no function for timers: @stream.on_timer({name.rpartition('.')[2]})"


def _why_not(subscription: Subscription, what: str, belongs: str) -> str:
    """Return why a handler has no state, or no steps."""
    if subscription.handler.takes is Takes.BATCH:
        return f"handler {subscription.name} takes whole batches, and {belongs}: take one event at a time"
    verb = "is" if what == "state" else "are"
    return f'handler {subscription.name} is not ordered, and {what} {verb}: subscribe(..., ordering="key")'
