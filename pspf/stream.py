"""`Stream`: what a user's module defines, and the only place that wires the parts together."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import orjson

from pspf.backoff import Backoff
from pspf.clock import Clock
from pspf.concurrency.shielding import shielded
from pspf.concurrency.turn import Turn
from pspf.connectors.base import Broker, Session, StreamingBackend
from pspf.connectors.urls import make_backend
from pspf.context import current_call, describe_endless
from pspf.engine.orphans import find_orphans, refuse_orphans
from pspf.engine.stop import Stop
from pspf.engine.tuning import Tuning
from pspf.errors import BackendUnavailable, ConfigurationError, EmitUnknown, NotAvailable, NotFound
from pspf.events.encoding import encode, identify
from pspf.loggers import get_logger
from pspf.observability.telemetry import TelemetryManager
from pspf.records import Appended, Cursor, NewRecord, check_name, encode_headers, format_ids
from pspf.settings import settings
from pspf.state.base import StateStore
from pspf.subscription import (
    Handler,
    Ordering,
    RetryPolicy,
    Subscription,
    Takes,
    choose_model,
    inspect_fold,
    inspect_handler,
    name_aggregation,
    read_default_retry,
)
from pspf.windowing.aggregations import as_aggregation
from pspf.windowing.definitions import HOUR_MS, Emission, Window, Windowing
from pspf.windowing.folds import make_loader

if TYPE_CHECKING:
    from pspf.engine.processor import BatchProcessor

logger = get_logger(__name__)

F = TypeVar("F", bound=Callable[..., Any])
W = TypeVar("W")
Lifespan = Callable[["Stream"], AbstractAsyncContextManager[Any]]

_HEALTH_S: Final = 5.0


class Stream:
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

    `session_id` is the id of this process as a worker, None while it does not run. With `accepts_orphans`
    (or PSPF_ACCEPT_ORPHANS) it runs though its groups have cursors of handlers that it lacks.

    Raises:
        ConfigurationError: No backend, and no topic or group (a ValueError).
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
        elif topic is not None or group is not None:
            backend = StreamingBackend(backend.broker, topic or backend.stream_key, group or backend.group_name)
        self._topic = backend.stream_key if backend is not None else check_name("topic", topic or "")
        self._group = backend.group_name if backend is not None else check_name("group", group or "")
        self._backend = backend
        self.schema = schema
        self.state_store = state_store
        self.telemetry = TelemetryManager()
        self.subscriptions: list[Subscription] = []
        self._included: list[Stream] = []
        self._hosts: list[Stream] = []
        """The Streams that included this one."""
        self._partitions = partitions
        self._lifespan = lifespan
        self.name = name
        self.accepts_orphans = False
        self.session_id: str | None = None
        self._session: Session | None = None
        self._stop: Stop | None = None
        self._runner: asyncio.Task[Any] | None = None
        self._finished: asyncio.Event | None = None
        self._gave_up = False
        self._is_connected = False
        self._turn = Turn()
        """Taken by who connects or disconnects."""

    @cached_property
    def processor(self) -> "BatchProcessor":
        """The loop of all handlers."""
        from pspf.engine.processor import (
            BatchProcessor,  # start-up: who only declares handlers, or shows them, has no loop
        )

        return BatchProcessor(self.telemetry, self._topic, state_store=self.state_store)

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

    # Declaring

    def subscribe(
        self,
        topic: str,
        batch_size: int | None = None,
        *,
        group: str | None = None,
        ordering: Ordering = "none",
        concurrency: int = 1,
        retry: RetryPolicy | None = None,
        timeout_ms: int | None = None,
        schema: Any = None,
        name: str | None = None,
        start: str = "start",
    ) -> Callable[[F], F]:
        """Register a handler for a topic; the function itself is returned unchanged.

        Args:
            topic: What to consume.
            batch_size: The most records that a batch takes; None adapts to the handler's speed.
            group: The consumer group, the Stream's unless given.
            ordering: `"none"`: every worker takes any record. `"key"`: in order per key, with `ctx.state`.
            concurrency: Handlers of a batch that run side by side.
            retry: When a failed record runs again, and when it is given up; None takes the settings'.
            timeout_ms: The longest a call may take; None waits for ever.
            schema: The event's model, else the annotation, else the Stream's.
            name: The handler's name, part of stored data; the function's unless given.
            start: Where a new cursor starts: `start`, `end` or a record id.

        Raises:
            ConfigurationError: The function fits no shape of handler, or a value is out of range.
        """
        if not isinstance(topic, str):
            raise ConfigurationError(f"subscribe takes a topic's name, not {topic!r:.80}: @stream.subscribe('orders')")

        def register(function: F) -> F:
            handler = inspect_handler(function, name)
            self._add(
                Subscription(
                    topic=topic,
                    group=group or self._group,
                    handler=handler,
                    model=choose_model(handler, schema, self.schema),
                    ordering=ordering,
                    batch_size=batch_size,
                    concurrency=concurrency,
                    own_retry=retry,
                    timeout_ms=timeout_ms,
                    start=start,
                )
            )
            return function

        return register

    def window(
        self,
        topic: str,
        window: Window,
        batch_size: int | None = None,
        watermark_delay_ms: int = 0,
        *,
        group: str | None = None,
        key: str | Callable[[Any], Any] | None = None,
        to: str | None = None,
        emit: Emission | None = None,
        result: Callable[..., Any] | None = None,
        merge: Callable[[Any, Any], Any] | None = None,
        upcast: Callable[[Any], Any] | None = None,
        allowed_lateness_ms: int = 0,
        idle_timeout_ms: int | None = None,
        max_future_ms: int | None = HOUR_MS,
        retention_ms: int | None = None,
        retry: RetryPolicy | None = None,
        schema: Any = None,
        name: str | None = None,
        start: str = "start",
    ) -> Callable[[W], W]:
        """Register a windowed aggregation: `(event, state) -> state`, or ready ones, alone or by name.

            @stream.window("bids", TumblingWindow(10_000), emit="final", to="totals")
            async def total(bid: Bid, state: int | None) -> int: ...

            stream.window("bids", TumblingWindow(10_000), emit="final", to="tops")({"top": Max("price")})

        The state is None for the first event of a key in a window; returning None forgets it. Between
        calls a state is JSON.

        Args:
            topic: What to consume.
            window: TumblingWindow, SlidingWindow or SessionWindow.
            batch_size: The most records that a batch takes; None adapts.
            watermark_delay_ms: How long the watermark stays behind the latest event time.
            group: The consumer group, the Stream's unless given.
            key: The grouping key: a field's name or a function of the event; the event's key unless given.
            to: The topic that results go to.
            emit: `"final"`: once, when a window closes. `"updates"`: each batch that changed it.
            result: A model or a function of a WindowResult that makes the event which goes out.
            merge: How two states of sessions that a record bridges become one; without it their records
                are kept and folded again.
            upcast: A function from a stored state that does not fit the model of the handler's state, as JSON
                has it, to one that does: for a model that has changed since.
            allowed_lateness_ms: How long behind its end a window still takes records.
            idle_timeout_ms: Close what is open once a partition had nothing new to read for so long; what
                comes after is judged by the windows that were closed. None: never.
            max_future_ms: Dead-letter a record whose time is further ahead of the clock: it would make all that
                comes after late. None takes every time.
            retention_ms: How long a closed window can be read.
            retry, schema, name, start: As in `subscribe`.

        Raises:
            ConfigurationError: The function or a value is none that this takes.
        """
        if not isinstance(topic, str):
            raise ConfigurationError(f"window takes a topic's name, not {topic!r:.80}: @stream.window('orders', ...)")

        def register(function: W) -> W:
            aggregation = as_aggregation(function)
            windowing = Windowing(
                window=window,
                aggregation=aggregation,
                key=key,
                to=to,
                emit=emit,
                result=result,
                merge=merge,
                upcast=upcast,
                watermark_delay_ms=watermark_delay_ms,
                allowed_lateness_ms=allowed_lateness_ms,
                idle_timeout_ms=idle_timeout_ms,
                max_future_ms=max_future_ms,
                own_retention_ms=retention_ms,
            )
            handler: Handler
            if aggregation is None:
                handler, state_model = inspect_fold(function, name)
                windowing = replace(windowing, state_model=state_model)
                windowing.check(f"handler {handler.name}")
                make_loader(state_model, upcast)
            else:
                windowing.check(f"handler {name or topic}")
                named = name or name_aggregation(topic, windowing)
                handler = Handler(aggregation.take, named, Takes.EVENT, False, True, None)
            model = choose_model(handler, schema, self.schema)
            windowing.check_fields(f"handler {handler.name}", model)
            self._add(
                Subscription(
                    topic=topic,
                    group=group or self._group,
                    handler=handler,
                    model=model,
                    ordering="key",
                    batch_size=batch_size,
                    own_retry=retry,
                    start=start,
                    windowing=windowing,
                )
            )
            return function

        return register

    def include(self, other: "Stream") -> None:
        """Run another Stream's handlers with this one's, on this one's broker.

        Also those that are decorated later. They keep their group, and their own Stream's topic as that of
        `ctx.emit`. Its lifespan is entered, with itself, after this one's; its topic is made with its `partitions`.

        Raises:
            ConfigurationError: It is this one or includes it, was included before, or has a `state_store` of its own.
        """
        if other in self._included or other._includes(self):
            raise ConfigurationError(
                f"the Stream of topic {other._topic!r} is part of this one already, or this one of it: include it once"
            )
        if other.state_store is not None and other.state_store is not self.state_store:
            raise ConfigurationError(
                f"the Stream of topic {other._topic!r} has a state_store of its own, and handlers that run together"
                " share one: give it to the Stream that includes it, too"
            )
        self._included.append(other)
        other._hosts.append(self)
        for each in other.subscriptions:
            self._add(other._as_included(each))

    def _add(self, subscription: Subscription) -> None:
        """Register a handler here, and with the Streams that have included this one."""
        self.subscriptions.append(subscription)
        for host in self._hosts:
            host._add(self._as_included(subscription))

    def _take_back(self) -> Subscription:
        """Undo the last `_add`, and return what it registered."""
        for host in self._hosts:
            host._take_back()
        return self.subscriptions.pop()

    def _includes(self, other: "Stream") -> bool:
        return other is self or any(each._includes(other) for each in self._included)

    def _as_included(self, subscription: Subscription) -> Subscription:
        return replace(subscription, emits_to=subscription.emits_to or self._topic)

    def check(self) -> None:
        """Raise ConfigurationError for what can't run, or not together."""
        self._check(self.subscriptions)

    def _check(self, subscriptions: Sequence[Subscription]) -> None:
        read_default_retry()
        shared: dict[tuple[str, str], str] = {}
        ordered: set[tuple[str, str, str]] = set()
        for subscription in subscriptions:
            place = (subscription.topic, subscription.group)
            if subscription.is_ordered:
                if self.state_store is not None and subscription.windowing is None:
                    raise NotAvailable(
                        f"handler {subscription.name} is ordered and the Stream has a state_store: this version keeps"
                        " ordered state in the broker; leave state_store out"
                    )
                if (*place, subscription.name) in ordered:
                    raise ConfigurationError(
                        f"two ordered handlers of topic {place[0]!r}, group {place[1]!r} are named"
                        f" {subscription.name!r}: pass name="
                    )
                ordered.add((*place, subscription.name))
            elif place in shared:
                raise ConfigurationError(
                    f"handlers {shared[place]} and {subscription.name} share topic {place[0]!r} and group"
                    f" {place[1]!r}: each would get half of the records; give each its own group="
                )
            else:
                shared[place] = subscription.name

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
        return (await self._emit([event], topic, key, headers))[0].id

    async def emit_many(
        self,
        events: Sequence[Any],
        topic: str | None = None,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> list[str]:
        """Store many events at once, all or none; return their record ids in order. Errors as in `emit`."""
        return format_ids(await self._emit(events, topic, key, headers))

    async def _emit(
        self, events: Sequence[Any], topic: str | None, key: str | None, headers: Mapping[str, str] | None
    ) -> Sequence[Appended]:
        to = topic or self._topic
        call = current_call.get()
        if topic is None and call is not None and call.record is not None and call.record.topic == to:
            raise ConfigurationError(describe_endless(call.handler, to))
        spans = self.telemetry.find_spans()
        if spans is None:
            return await self._append(_encode(events, key, headers), to)
        with spans.sending(to, dict(headers) if headers else None, len(events)) as sending:
            places = await self._append(_encode(events, key, sending.headers), to)
            sending.stored(places)
            return places

    async def _append(self, records: Sequence[NewRecord], topic: str) -> Sequence[Appended]:
        await self._connect()
        try:
            return await self.broker.append(topic, records)
        except EmitUnknown as error:
            if any(record.event_id is None for record in records):
                raise  # without an id of the caller's a second copy could be stored
            return await self._append_again(records, topic, error)

    async def _append_again(self, records: Sequence[NewRecord], topic: str, unknown: EmitUnknown) -> Sequence[Appended]:
        """Append until it is known that the records are stored; `unknown` is what is known so far."""
        backoff = Backoff(max_ms=1_000)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.broker.limits.emit_timeout_ms / 1000
        while loop.time() < deadline:
            await asyncio.sleep(backoff.next_ms() / 1000)
            with suppress(EmitUnknown, BackendUnavailable):
                return await self.broker.append(topic, records)
        raise unknown

    # Running

    async def run(self, handler: Callable[..., Any], batch_size: int | None = None, **options: Any) -> None:
        """Consume the default topic with one handler, until `stop`; `options` as in `subscribe`."""
        self.subscribe(self._topic, batch_size, **options)(handler)
        mine = self._take_back()
        self._check([mine])
        await self._run([mine])

    async def aggregate(
        self,
        window: Window,
        handler: Any,
        batch_size: int | None = None,
        watermark_delay_ms: int = 0,
        **options: Any,
    ) -> None:
        """Run a windowed aggregation over the default topic, until `stop`; `options` as in `window`."""
        self.window(self._topic, window, batch_size, watermark_delay_ms, **options)(handler)
        mine = self._take_back()
        self._check([mine])
        await self._run([mine])

    async def run_forever(
        self,
        *,
        only: Callable[[Subscription], bool] | None = None,
        places: Collection[tuple[str, str]] | None = None,
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

    async def _run(
        self, subscriptions: Sequence[Subscription], places: Collection[tuple[str, str]] | None = None
    ) -> None:
        from pspf.engine.assignment import Assignment  # start-up, as the processor

        if self._stop is not None:
            raise ConfigurationError("this Stream runs already")
        stop = self._stop = Stop()
        finished = self._finished = asyncio.Event()
        self._runner = asyncio.current_task()
        self._gave_up = self.processor.is_abandoned = False
        was_connected = self._is_connected
        try:
            await self._connect()
            where = places or {(each.topic, each.group) for each in subscriptions}
            with self.telemetry.asking():
                await self._look_for_orphans([*self.subscriptions, *subscriptions], where, stop)
            async with self._lifespan_entered(), self._session_entered(stop) as session:
                if session is None:  # told to stop before
                    return
                self.processor.tuning = Tuning.from_settings(settings)
                async with asyncio.TaskGroup() as group:
                    for subscription in subscriptions:
                        assignment = Assignment(subscription, self.broker, session, self.processor, stop)
                        group.create_task(assignment.run(), name=f"{subscription.name} on {subscription.topic}")
        except asyncio.CancelledError:
            if not self._take_back_cancellation():
                raise
        except BaseExceptionGroup as errors:
            self._take_back_cancellation()
            raise _first(errors) from errors
        finally:
            self._stop = self._runner = None
            try:
                if not was_connected:
                    await shielded(self._disconnect())
            finally:
                finished.set()

    def _take_back_cancellation(self) -> bool:
        """Return whether this task was cancelled by `give_up` and by nobody else."""
        task = asyncio.current_task()
        return self._gave_up and task is not None and task.uncancel() == 0

    @asynccontextmanager
    async def _lifespan_entered(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if self._lifespan is not None:
                await stack.enter_async_context(self._lifespan(self))
            for each in self._included:
                await stack.enter_async_context(each._lifespan_entered())
            yield

    @asynccontextmanager
    async def _session_entered(self, stop: Stop) -> AsyncIterator[Session | None]:
        session = await self._open_session(stop)
        if session is None:
            yield None
            return
        self.session_id, self._session = session.id, session
        try:
            yield session
        finally:
            self.session_id = self._session = None
            await shielded(_leave(session))

    async def _open_session(self, stop: Stop) -> Session | None:
        """Open a session, as soon as the broker stores it (its disk may be full, or locked); None once stopped."""
        backoff = Backoff()
        while not stop.is_set:
            try:
                with self.telemetry.asking():
                    return await self.broker.open_session(self.name)
            except BackendUnavailable as error:
                if isinstance(error.__cause__, PermissionError):  # no wait mends that
                    raise
                if backoff.is_first:
                    logger.warning("can't join %s, will try again: %s", self.broker.name, error)
                await stop.wait(backoff.next_ms())
        return None

    async def _look_for_orphans(
        self, subscriptions: Sequence[Subscription], places: Collection[tuple[str, str]], stop: Stop
    ) -> None:
        """Raise OrphanedCursors where there are some, or only tell of them; wait until the broker can say.

        Raises:
            ConfigurationError: A handler has other windows in the broker than in the code.
        """
        from pspf.engine.stored_state import check_stored  # start-up, as the processor

        backoff = Backoff()
        while not stop.is_set:
            try:
                await check_stored(self.broker, subscriptions)
                orphans = await find_orphans(self.broker, subscriptions, places)
            except BackendUnavailable as error:
                if backoff.is_first:
                    logger.warning("can't look at what is stored of the app's handlers, waits until it can: %s", error)
                await stop.wait(backoff.next_ms())
                continue
            if not (self.accepts_orphans or settings.ACCEPT_ORPHANS):
                refuse_orphans(orphans, subscriptions)
            for orphan in orphans:
                logger.warning(
                    "group %s has %s on %s, which the app lacks; it is left as it is",
                    orphan.group,
                    orphan,
                    orphan.topic,
                )
            return

    @property
    def lease_left_ms(self) -> int | None:
        """How long this worker holds what is its own, if nothing renews it; None where that can't be lost.

        Safe from any thread.
        """
        session = self._session
        return None if session is None else session.lease_left_ms

    def finish(self, cursors: Collection[Cursor] | None = None) -> None:
        """Close and emit all windows that are open on the cursors in hand, or on some, as at the end of the input.

        It is asked for here, and done with the next commit of each cursor. The watermark is raised for
        it, so that what comes later may be late.
        """
        self.processor.finish(cursors)

    async def stop(self) -> None:
        """End gracefully: finish the batch in hand, commit, give all back, close what was opened.

        From inside a handler it only asks: the batch that it waits for is its own.
        """
        finished = self._finished
        if self._stop is None:
            await self._disconnect()
            return
        runs_in = None if self._runner is None else self._runner.get_loop()
        if runs_in is not None and runs_in is not asyncio.get_running_loop():
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.stop(), runs_in))
            return
        self._stop.set()
        if finished is not None and current_call.get() is None:
            await finished.wait()

    def give_up(self) -> None:
        """End now: handlers are cancelled, their batches are not committed, all is given back."""
        if self._stop is not None:
            self._stop.set()
        if self._runner is not None and not self._gave_up:
            self._gave_up = True
            self._runner.cancel()

    def abandon(self) -> None:
        """End as a killed process does: what is in hand had no effect, and nothing is given back. For tests."""
        self.processor.is_abandoned = True
        if self._session is not None:
            self._session.abandon()
        self.give_up()

    # Looking

    async def read_state(self, handler: str | Callable[..., Any], key: str, name: str) -> Any:
        """Return what a handler remembers for a key, as committed; None where there is nothing.

        Raises:
            NotFound: This Stream has no ordered handler of that name.
        """
        chosen = next(
            (s for s in self.subscriptions if s.is_ordered and handler in (s.name, s.handler.function)),
            None,
        )
        if chosen is None:
            raise NotFound(
                f"no ordered handler {handler!r}; there are {[s.name for s in self.subscriptions if s.is_ordered]}"
            )
        await self._connect()
        entries = await self.broker.list_state(handler=chosen.name, group=chosen.group, key=key.encode(), name=name)
        mine = [entry for entry in entries if entry.topic == chosen.topic]
        return orjson.loads(mine[0].value) if mine else None

    async def health(self) -> dict[str, str]:
        """Return `{"status": "ok", "backend": "connected"}`, or `"error"` and a `reason`; never raises."""
        try:
            async with asyncio.timeout(_HEALTH_S):
                if self._is_connected or self._stop is not None:
                    await self.broker.ping()
                else:
                    await self._look()
        except TimeoutError:
            return {"status": "error", "reason": f"no answer from {self.broker.name} within {_HEALTH_S:.0f} s"}
        except Exception as error:  # a health check that raises is none: whatever it was is the answer
            return {"status": "error", "reason": str(error) or type(error).__name__}
        return {"status": "ok", "backend": "connected"}

    async def _look(self) -> None:
        """Open the broker for one ping, and close it again."""
        looker = object()
        try:
            await self.broker.enter(looker)
            await self.broker.ping()
        finally:
            await self.broker.leave(looker)

    # Connecting

    async def __aenter__(self) -> Self:
        await self._connect()
        if self.subscriptions:
            await self._join()
        else:
            await self.backend.ensure_group_exists()
        return self

    async def _join(self) -> None:
        """Make the cursors of all handlers, and no others: one that nobody reads would hold back retention."""
        session = await self.broker.open_session(self.name)
        try:
            for each in self.subscriptions:
                await session.register(each.topic, each.group, each.cursor_handler, start=each.start)
        finally:
            await session.close()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
        await self._disconnect()

    async def _connect(self) -> None:
        """Connect where that is not done, or where the broker was closed past this Stream; one task at a time."""
        if self._is_connected and self.broker.is_open:
            return
        caller = object()
        await self.broker.enter(caller)  # before the turn: tasks that ask together share the wait and the failure
        try:
            async with self._turn:
                await self.broker.enter(self)
                if not self._is_connected:
                    await self._prepare()
        finally:
            await shielded(self.broker.leave(caller))

    async def _prepare(self) -> None:
        try:
            await self._make_topics()
            if self.state_store is not None:
                await self.state_store.start()
        except BaseException:
            await shielded(self.broker.leave(self))
            raise
        self._is_connected = True

    async def _make_topics(self) -> None:
        if self._partitions is not None:
            await self.broker.create_topic(self._topic, partitions=self._partitions)
        for each in self._included:
            await each._make_topics()

    async def _disconnect(self) -> None:
        for each in self._included:
            await each._disconnect()
        async with self._turn:
            if not self._is_connected:
                return
            self._is_connected = False
            try:
                if self.state_store is not None:
                    await self.state_store.stop()
            finally:
                await self.broker.leave(self)


async def _leave(session: Session) -> None:
    try:
        await session.close()
    except BackendUnavailable as error:
        logger.warning("can't give everything back, others wait for the leases to end: %s", error)


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error of nested groups: what ended a loop ends the worker."""
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def _encode(events: Sequence[Any], key: str | None, headers: Mapping[str, str] | None) -> list[NewRecord]:
    """Return the records of events that are emitted at once; past a handler's commit with an id of ours."""
    call = current_call.get()
    if key is None and not headers and call is None:
        return list(map(encode, events))
    raw_headers = encode_headers(headers)
    if call is not None:
        events = [identify(event, call.next_id()) for event in events]
    return [encode(event, key=key, raw_headers=raw_headers) for event in events]
