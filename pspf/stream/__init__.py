"""`Stream`: the object that a user's module defines, and the only place that wires the parts together."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import orjson

from pspf.clock import Clock
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.contract.broker import Broker
from pspf.connectors.urls import make_backend
from pspf.errors import ConfigurationError
from pspf.events.durations import Duration
from pspf.loggers import get_logger
from pspf.observability.telemetry import TelemetryManager
from pspf.records import Cursor, check_name, format_ids
from pspf.state.base import StateStore
from pspf.stream.connection import StreamConnection, register_cursors
from pspf.stream.declarations import Declarations
from pspf.stream.emitter import Emitter
from pspf.stream.lifespans import Lifespans
from pspf.stream.requirements import check_subscriptions
from pspf.stream.runner import Places, Runner, StreamRun
from pspf.subscription import Subscription, repartition_topic
from pspf.windowing.definitions import Window

if TYPE_CHECKING:
    from pspf.engine.processor import BatchProcessor

logger = get_logger(__name__)

Lifespan = Callable[["Stream"], AbstractAsyncContextManager[Any]]


class Stream(Declarations):
    """A set of handlers and the broker that they run on. Making one opens nothing.

    Args:
        backend: The broker with a default topic and group. Without one `topic` and `group` are
            required, and the settings choose the broker.
        topic: The default topic of `emit`, `run` and `aggregate`.
        group: The default group of subscriptions.
        schema: The model of subscriptions that name none.
        state_store: A store of the user's for `ctx.state` in shared mode, at-least-once.
        partitions: How many partitions the default topic has; None takes it as it is.
        lifespan: Called with the Stream; its async context is entered once per worker process.
        name: What worker ids start with, instead of the host's name.

    With `accepts_orphans` (or PSPF_ACCEPT_ORPHANS) it runs though its groups have cursors of handlers that it lacks.

    Raises:
        ConfigurationError: No backend, and no topic or group, or a backend of another type (a ValueError).
    """

    def __init__(
        self,
        backend: StreamingBackend | None = None,
        topic: str | None = None,
        group: str | None = None,
        schema: Any = None,
        state_store: StateStore | None = None,
        *,
        partitions: int | None = None,
        lifespan: Lifespan | None = None,
        name: str | None = None,
    ) -> None:
        if backend is None:
            if topic is None or group is None:
                raise ConfigurationError("a Stream without a backend needs both topic= and group=")
        elif not isinstance(backend, StreamingBackend):
            raise ConfigurationError(  # without its value: a URL may have a password
                f"a Stream's backend is a StreamingBackend, not of type {type(backend).__name__}; a topic is topic=,"
                " a group is group=, and PSPF_BACKEND has the broker's URL"
            )
        elif topic is not None or group is not None:
            backend = StreamingBackend(backend.broker, topic or backend.stream_key, group or backend.group_name)
        super().__init__(
            backend.stream_key if backend is not None else check_name("topic", topic or ""),
            backend.group_name if backend is not None else check_name("group", group or ""),
            schema,
            partitions,
        )
        self._backend = backend
        self.state_store = state_store
        self.telemetry = TelemetryManager()
        self.name = name
        self.accepts_orphans = False
        self._lifespans = Lifespans(None if lifespan is None else lambda: lifespan(self))
        self._hosts: list[Stream] = []
        """The Streams that included this one."""
        self._connection = StreamConnection(lambda: self.broker, self.topics_to_make, state_store)
        self._emitter = Emitter(self.telemetry, self._topic, self._registry.topics.declared)
        self._runner = Runner(self._connection)

    @cached_property
    def processor(self) -> "BatchProcessor":
        """The loop of all handlers."""
        from pspf.engine.processor import (
            BatchProcessor,  # start-up: who only declares handlers, or shows them, has no loop
        )

        declared = self._registry.topics.declared
        return BatchProcessor(self.telemetry, self._topic, declared, state_store=self.state_store)

    @property
    def backend(self) -> StreamingBackend:
        """The broker with the default topic and group.

        Without one of its own it is that of the Stream that included this one, else the settings choose, at
        first use.

        Raises:
            ConfigurationError: The settings name no broker that there is.
        """
        if self._backend is None and self._hosts:
            return StreamingBackend(self._hosts[-1].broker, self._topic, self._group)
        if self._backend is None:
            self._backend = make_backend(self._topic, self._group)
        return self._backend

    @property
    def broker(self) -> Broker:
        """The broker that this Stream runs on. Errors as in `backend`."""
        return self.backend.broker

    def bind(self, broker: Broker) -> None:
        """Run on this broker, whatever was given or set."""
        self._backend = StreamingBackend(broker, self._topic, self._group)

    @contextmanager
    def on(self, broker: Broker, clock: Clock) -> Iterator[None]:
        """Run on this broker and by this clock, whatever was given or set, until the block ends. For tests."""
        before, clock_before = self._backend, self.processor.clock
        self.bind(broker)
        self.processor.clock = clock
        try:
            yield
        finally:
            self._backend, self.processor.clock = before, clock_before

    def include(self, other: "Stream") -> None:
        """Run another Stream's handlers with this one's, on this one's broker.

        Also those that are decorated later. They keep their group, and their own Stream's topic as that of
        `ctx.emit`. Its lifespan is entered, with itself, after this one's; its topic is made with its `partitions`.

        Raises:
            ConfigurationError: It is this one or includes it, was included before, or has a `state_store` of its own.
        """
        if other.state_store is not None and other.state_store is not self.state_store:
            raise ConfigurationError(
                f"the Stream of topic {other._topic!r} has a state_store of its own, and handlers that run together"
                " share one: give it to the Stream that includes it, too"
            )
        self._registry.include(other._registry)
        self._lifespans.included.append(other._lifespans)
        self._connection.included.append(other._connection)
        other._hosts.append(self)

    def check(self) -> None:
        """Raise ConfigurationError for handlers that can't run, not together, or not on this broker; opens nothing."""
        check_subscriptions(self.subscriptions, lambda: self.broker, has_state_store=self.state_store is not None)

    # Emitting

    async def emit(
        self,
        event: Any,
        topic: str | None = None,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """Store one event, to the backend's topic unless another is named; return its record id.

        Raises:
            EventRejected: It is no model or dict, or can't be stored (a ValueError).
            EmitUnknown: It may be stored or not.
            BackendUnavailable: It is not stored.
        """
        return (await self._emitter.emit([event], topic, key, headers, self._connected))[0].id

    async def emit_many(
        self,
        events: Sequence[Any],
        topic: str | None = None,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> list[str]:
        """Store many events at once, all or none; return their record ids in order. Errors as in `emit`."""
        return format_ids(await self._emitter.emit(events, topic, key, headers, self._connected))

    # Running

    async def run(self, handler: Callable[..., Any], batch_size: int | None = None, **options: Any) -> None:
        """Consume the default topic with one handler, until `stop`; `options` as in `subscribe`."""
        self.subscribe(self._topic, batch_size, **options)(handler)
        await self._run([self._registry.take_back()])

    async def aggregate(
        self,
        window: Window,
        handler: Any,
        batch_size: int | None = None,
        watermark_delay_ms: Duration = 0,
        **options: Any,
    ) -> None:
        """Run a windowed aggregation over the default topic, until `stop`; `options` as in `window`."""
        self.window(self._topic, window, batch_size, watermark_delay_ms, **options)(handler)
        await self._run([self._registry.take_back()])

    async def run_forever(
        self,
        *,
        only: Callable[[Subscription], bool] | None = None,
        places: Places | None = None,
    ) -> None:
        """Run all registered handlers, or those that `only` picks, until `stop`.

        `places` are the (topic, group)s where every cursor has to be the app's, those that run unless given.

        Raises:
            OrphanedCursors: There is one of a handler that the app lacks, by another name or ordering.
        """
        self.check()
        chosen = [subscription for subscription in self.subscriptions if only is None or only(subscription)]
        if not chosen:
            logger.warning("no handlers to run: decorate some with @stream.subscribe(...)")
            return
        await self._run(chosen, places)

    async def _run(self, chosen: Sequence[Subscription], places: Places | None = None) -> None:
        check_subscriptions(chosen, lambda: self.broker, has_state_store=self.state_store is not None)
        run = StreamRun(
            self.broker,
            self.processor,
            chosen,
            [*self.subscriptions, *chosen],
            places or {(topic, each.group) for each in chosen for topic in each.topics},
            self.name,
            self.accepts_orphans,
            self._lifespans.enter,
        )
        await self._runner.run(run)

    @property
    def session_id(self) -> str | None:
        """The id of this process as a worker; None while it does not run."""
        session = self._runner.session
        return None if session is None else session.id

    @property
    def lease_left_ms(self) -> int | None:
        """How long this worker's leases last if nothing renews them; None where they can't be lost.

        Safe from any thread.
        """
        session = self._runner.session
        return None if session is None else session.lease_left_ms

    def finish(self, cursors: Collection[Cursor] | None = None) -> None:
        """Close and emit the open windows of all cursors that run here, or of some, as at the end of the input.

        It is asked for here, and done with the next commit of each cursor. The watermark is raised for
        it, so that what comes later may be late.
        """
        self.processor.finish(cursors)

    async def stop(self) -> None:
        """End gracefully: finish the running batches, commit, give all cursors back, close the broker.

        From inside a handler it only asks: the batch that it waits for is its own.
        """
        await self._runner.stop()

    def give_up(self) -> None:
        """End now: handlers are cancelled, their batches are not committed, all cursors are given back."""
        self._runner.give_up()

    def abandon(self) -> None:
        """End as a killed process does: running batches have no effect, and no cursor is given back. For tests."""
        self.processor.is_abandoned = True
        if self._runner.session is not None:
            self._runner.session.abandon()
        self._runner.give_up()

    # Looking

    async def read_state(self, handler: str | Callable[..., Any], key: str, name: str) -> Any:
        """Return what a handler remembers for a key, as committed; None where there is nothing.

        Raises:
            NotFound: This Stream has no ordered handler of that name.
        """
        chosen = self.find_ordered(handler)
        broker = await self._connected()
        entries = await broker.list_state(handler=chosen.name, group=chosen.group, key=key.encode(), name=name)
        topics = (chosen.topic, repartition_topic(chosen.group, chosen.name))
        mine = [entry for entry in entries if entry.topic in topics]
        return orjson.loads(mine[0].value) if mine else None

    async def health(self) -> dict[str, str]:
        """Return `{"status": "ok", "backend": "connected"}`, or `"error"` and a `reason`; never raises."""
        return await self._connection.health(is_running=self._runner.is_running)

    # Connecting

    async def __aenter__(self) -> Self:
        await self._connection.open()
        if self.subscriptions:
            await register_cursors(self.broker, self.name, self.subscriptions)
        else:
            await self.backend.ensure_group_exists()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.stop()
        await self._connection.close()

    async def _connected(self) -> Broker:
        await self._connection.open()
        return self.broker
