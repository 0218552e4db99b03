"""Decorators of a Stream: they register handlers, and need no broker."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pspf.errors import ConfigurationError, NotFound
from pspf.events.durations import Duration, as_ms, as_optional_ms
from pspf.events.topic import DeclaredTopic, TopicKey
from pspf.stream.registration import (
    Registry,
    check_topic,
    choose_topics,
    make_subscriptions,
    make_windowed_subscription,
)
from pspf.stream.schedule_functions import make_schedule_subscription
from pspf.stream.timer_functions import check_may_have_timers, make_timers
from pspf.stream.topics import TopicToMake
from pspf.subscription import Ordering, RetryPolicy, Subscription
from pspf.windowing.definitions import HOUR_MS, Emission, Window, Windowing
from pspf.windowing.grouping import GroupingKey
from pspf.windowing.schedules.schedule import CatchUp, Schedule, make_schedule
from pspf.windowing.schedules.times import make_cron, make_every
from pspf.windowing.several import as_aggregation
from pspf.windowing.timers.definition import TimerDefinition

F = TypeVar("F", bound=Callable[..., Any])
W = TypeVar("W")


class Declarations:
    """The handlers of a Stream, as they are declared. `schema` is the model of handlers that name none."""

    def __init__(self, topic: str, group: str, schema: Any, partitions: int | None = None) -> None:
        self.schema = schema
        self._topic = topic
        self._group = group
        self._registry = Registry(topic, partitions)
        self.subscriptions = self._registry.subscriptions

    def topic(
        self,
        name: str,
        *,
        partitions: int | None = None,
        retention: Duration | None = None,
        key: TopicKey | None = None,
        schema: Any = None,
    ) -> DeclaredTopic:
        """Declare a topic and return it: usable wherever a topic's name is, and made at the start where it is missing.

            orders = stream.topic("orders", partitions=16, retention="7d", key="customer_id", schema=Order)

        What is there with another number of partitions is refused. Another retention is warned about, and stays.

        Args:
            name: The topic's name.
            partitions: How many it has; None takes it as it is, and makes it with 1.
            retention: How long records stay after all groups are done with them: a duration (`"7d"`, a timedelta,
                milliseconds), `"forever"`, or `"consumed"`. None leaves it to the broker's setting.
            key: What an event is emitted under where no `key=` is passed: a field's name, or a function of the event.
            schema: The model of handlers on it that name none, declared after it; what is emitted has to fit it.

        Raises:
            ConfigurationError: A value is none that this takes, or the topic is declared otherwise already.
        """
        return self._registry.topics.declare(
            DeclaredTopic(name, partitions=partitions, retention=retention, key=key, schema=schema)
        )

    @property
    def declared_topics(self) -> Sequence[DeclaredTopic]:
        """The topics that are declared, by name."""
        declared = self._registry.topics.declared
        return [declared[name] for name in sorted(declared)]

    @property
    def default_topic(self) -> str:
        """Where an event goes that names no topic."""
        return self._topic

    def find_ordered(self, handler: str | Callable[..., Any]) -> Subscription:
        """Return the ordered subscription of a function, or of a handler's name.

        Raises:
            NotFound: There is none.
        """
        ordered = [each for each in self.subscriptions if each.is_ordered]
        for each in ordered:
            function = each.handler.function
            if handler in (each.name, function, getattr(function, "__wrapped__", function)):
                return each
        raise NotFound(f"no ordered handler {handler!r}; there are {[each.name for each in ordered]}")

    def topics_to_make(self) -> Sequence[TopicToMake]:
        """Return the topics that are made at the start where they are missing."""
        return self._registry.topics.to_make()

    def _default_schema(self, topic: str) -> Any:
        """Return the model of handlers on a topic that name none."""
        declared = topic if isinstance(topic, DeclaredTopic) else self._registry.topics.declared.get(topic)
        return self.schema if declared is None or declared.schema is None else declared.schema

    def subscribe(
        self,
        topic: str | None = None,
        batch_size: int | None = None,
        *,
        topics: Sequence[str] | None = None,
        group: str | None = None,
        ordering: Ordering = "none",
        key: GroupingKey | None = None,
        concurrency: int = 1,
        retry: RetryPolicy | None = None,
        timeout_ms: Duration | None = None,
        schema: Any = None,
        name: str | None = None,
        start: str = "start",
        idle_timeout_ms: Duration | None = None,
    ) -> Callable[[F], F]:
        """Register a handler for a topic, or for several; the function itself is returned unchanged.

        Args:
            topic: What to consume.
            topics: Several topics in its place; `ctx.record.topic` says which one a record is of. With
                `ordering="key"` all are read in the order of event time, with one state, which is kept with the first
                of them; they need the same number of partitions.
            batch_size: The most records that a batch takes; None adapts to the handler's speed.
            group: The consumer group, the Stream's unless given.
            ordering: `"none"`: every worker takes any record. `"key"`: in order per key, with `ctx.state`.
            key: What an ordered handler groups by, a field's name or a function of the event, instead of the record's
                key: `ctx.key`, order and `ctx.state` go by it. On several partitions records go through an internal
                topic. `ctx.own_key` is the record's own.
            concurrency: Handlers of a batch that run side by side.
            retry: When a failed record runs again, and when it is given up; None takes the settings'.
            timeout_ms: The longest a call may take, a duration such as `10s` or milliseconds; None waits for ever.
            schema: The event's model, else the annotation, else the Stream's; of several topics a model for each:
                `{"orders": Order, "payments": Payment}`.
            name: The handler's name, part of stored data; the function's unless given.
            start: Where a new cursor starts: `start`, `end` or a record id.
            idle_timeout_ms: How long a topic that has nothing is waited for, of several ordered ones, before records
                of the others are handled. None: not at all; what is stored is always read in order.

        Raises:
            ConfigurationError: The function fits no shape of handler, or a value is out of range.
        """
        chosen = choose_topics(topic, topics)
        where = f"subscription of {', '.join(chosen)}"

        def register(function: F) -> F:
            for subscription in make_subscriptions(
                function,
                name,
                chosen,
                schema,
                self._default_schema,
                group=group or self._group,
                ordering=ordering,
                key=key,
                batch_size=batch_size,
                concurrency=concurrency,
                own_retry=retry,
                timeout_ms=as_optional_ms(where, "timeout_ms", timeout_ms),
                start=start,
                idle_timeout_ms=as_optional_ms(where, "idle_timeout_ms", idle_timeout_ms),
            ):
                self._registry.add(subscription)
            return function

        return register

    def on_timer(
        self,
        handler: Callable[..., Any],
        *,
        watermark_delay_ms: int = 0,
        idle_timeout_ms: int | None = None,
        max_future_ms: int | None = HOUR_MS,
    ) -> Callable[[F], F]:
        """Register the function that the timers of an ordered handler call; it is returned unchanged.

            @stream.subscribe("orders", ordering="key")
            async def order(event: Order, ctx: Context) -> None:
                ctx.timer("remind", after_ms=900_000, payload={"order_id": event.order_id})

            @stream.on_timer(order)
            async def remind(timer: Timer, ctx: Context) -> None: ...

        It takes the timer and, where it likes, a context: state and further timers of the same key, and emits.

        Args:
            handler: The function that was subscribed.
            watermark_delay_ms: How long the watermark, which `at_ms` waits for, stays behind the latest event time.
            idle_timeout_ms: Let the watermark follow the clock, so far behind it, once a partition had nothing
                new to read for so long. None: without records it stands still.
            max_future_ms: The event time of a record that is further ahead of the clock does not move the watermark.
                None takes every time.

        Raises:
            ConfigurationError: The handler is not subscribed here, not ordered or takes no context, or the function
                fits no shape.
        """

        def register(function: F) -> F:
            def make(subscription: Subscription) -> TimerDefinition:
                check_may_have_timers(subscription)
                return make_timers(
                    function,
                    subscription.name,
                    watermark_delay_ms=watermark_delay_ms,
                    idle_timeout_ms=idle_timeout_ms,
                    max_future_ms=max_future_ms,
                )

            if not self._registry.set_timers(handler, make):
                named = getattr(handler, "__qualname__", handler)
                raise ConfigurationError(
                    f"on_timer: {named!r:.80} is no handler of this Stream: subscribe it first, with this Stream, and"
                    " pass the function itself"
                )
            return function

        return register

    def every(
        self,
        interval: Duration,
        *,
        catch_up: CatchUp = "last",
        group: str | None = None,
        name: str | None = None,
        retry: RetryPolicy | None = None,
        timeout_ms: Duration | None = None,
    ) -> Callable[[F], F]:
        """Run a function at every multiple of an interval, once in the group; it is returned unchanged.

            @stream.every("10s")
            async def refresh(tick: Tick, ctx: Context) -> None: ...

        It takes `()`, `(tick)` or `(tick, ctx)`. Multiples are counted from 1970-01-01 00:00 UTC.

        Args:
            interval: A duration such as `10s`, a timedelta or milliseconds.
            catch_up: Which ticks run that were missed, as nobody ran or the one before took so long: `"all"` in order,
                the `"last"` one, or `"none"` that is more than a minute late.
            group: The group that it runs once in, the Stream's unless given.
            name: Part of stored data; the function's unless given.
            retry, timeout_ms: As in `subscribe`. A tick that fails holds up no later one.

        Raises:
            ConfigurationError: The function fits no shape, or a value is out of range.
        """
        where = "every" if name is None else f"schedule {name}"
        schedule = make_schedule(where, make_every(where, as_ms(where, "interval", interval)), catch_up)
        return self._scheduled(where, schedule, group, name, retry, timeout_ms)

    def cron(
        self,
        expression: str,
        *,
        tz: str = "UTC",
        catch_up: CatchUp = "last",
        group: str | None = None,
        name: str | None = None,
        retry: RetryPolicy | None = None,
        timeout_ms: Duration | None = None,
    ) -> Callable[[F], F]:
        """Run a function at the times of a cron expression, once in the group; it is returned unchanged.

            @stream.cron("0 6 * * *", tz="Europe/Berlin")
            async def report(tick: Tick, ctx: Context) -> None: ...

        Args:
            expression: Minute, hour, day, month, weekday, as Debian's cron has them; a sixth in front is seconds.
            tz: The time zone, by its IANA name.
            catch_up, group, name, retry, timeout_ms: As in `every`.

        Raises:
            ConfigurationError: The expression is none, the function fits no shape, or a value is out of range.
        """
        where = "cron" if name is None else f"schedule {name}"
        schedule = make_schedule(where, make_cron(where, expression, tz), catch_up)
        return self._scheduled(where, schedule, group, name, retry, timeout_ms)

    def _scheduled(
        self,
        where: str,
        schedule: Schedule,
        group: str | None,
        name: str | None,
        retry: RetryPolicy | None,
        timeout_ms: Duration | None,
    ) -> Callable[[F], F]:
        limit_ms = as_optional_ms(where, "timeout_ms", timeout_ms)

        def register(function: F) -> F:
            self._registry.add(
                make_schedule_subscription(
                    function, schedule, name=name, group=group or self._group, retry=retry, timeout_ms=limit_ms
                )
            )
            return function

        return register

    def window(
        self,
        topic: str,
        window: Window,
        batch_size: int | None = None,
        watermark_delay_ms: Duration = 0,
        *,
        group: str | None = None,
        key: str | Callable[[Any], Any] | None = None,
        to: str | None = None,
        emit: Emission | None = None,
        result: Callable[..., Any] | None = None,
        merge: Callable[[Any, Any], Any] | None = None,
        upcast: Callable[[Any], Any] | None = None,
        allowed_lateness_ms: Duration = 0,
        idle_timeout_ms: Duration | None = None,
        max_future_ms: Duration | None = HOUR_MS,
        retention_ms: Duration | None = None,
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
        calls a state is JSON. Durations are milliseconds, text such as `10s` or timedeltas.

        Args:
            topic: What to consume.
            window: TumblingWindow, SlidingWindow or SessionWindow.
            batch_size: The most records that a batch takes; None adapts.
            watermark_delay_ms: How long the watermark stays behind the latest event time.
            group: The consumer group, the Stream's unless given.
            key: The grouping key: a field's name or a function of the event; the event's key unless given.
            to: The topic that results go to.
            emit: `"final"`: once, when a window closes. `"updates"`: each batch that changed it.
            result: A model or a function of a WindowResult that makes the event which goes out; a function leaves one
                out by returning `pspf.SKIP`.
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
            ConfigurationError: The function or a value does not fit.
        """
        name_of_topic = check_topic("window", topic, "@stream.window('orders', ...)")

        where = f"window on {name_of_topic}" if name is None else f"handler {name}"

        def register(function: W) -> W:
            windowing = Windowing(
                window=window,
                aggregation=as_aggregation(function),
                key=key,
                to=None if to is None else str(to),
                emit=emit,
                result=result,
                merge=merge,
                upcast=upcast,
                watermark_delay_ms=as_ms(where, "watermark_delay_ms", watermark_delay_ms),
                allowed_lateness_ms=as_ms(where, "allowed_lateness_ms", allowed_lateness_ms),
                idle_timeout_ms=as_optional_ms(where, "idle_timeout_ms", idle_timeout_ms),
                max_future_ms=as_optional_ms(where, "max_future_ms", max_future_ms),
                own_retention_ms=as_optional_ms(where, "retention_ms", retention_ms),
            )
            subscription = make_windowed_subscription(
                function,
                windowing,
                name,
                schema,
                self._default_schema(topic),
                topic=name_of_topic,
                group=group or self._group,
                batch_size=batch_size,
                own_retry=retry,
                start=start,
            )
            self._registry.add(subscription)
            return function

        return register
