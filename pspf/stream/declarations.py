"""Decorators of a Stream: they register handlers, and need no broker."""

from collections.abc import Callable
from typing import Any, TypeVar

from pspf.stream.registration import Registry, check_topic, make_subscription, make_windowed_subscription
from pspf.subscription import Ordering, RetryPolicy
from pspf.windowing.definitions import HOUR_MS, Emission, Window, Windowing
from pspf.windowing.several import as_aggregation

F = TypeVar("F", bound=Callable[..., Any])
W = TypeVar("W")


class Declarations:
    """The handlers of a Stream, as they are declared. `schema` is the model of handlers that name none."""

    def __init__(self, topic: str, group: str, schema: Any) -> None:
        self.schema = schema
        self._topic = topic
        self._group = group
        self._registry = Registry(topic)
        self.subscriptions = self._registry.subscriptions

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
        check_topic("subscribe", topic, "@stream.subscribe('orders')")

        def register(function: F) -> F:
            subscription = make_subscription(
                function,
                name,
                schema,
                self.schema,
                topic=topic,
                group=group or self._group,
                ordering=ordering,
                batch_size=batch_size,
                concurrency=concurrency,
                own_retry=retry,
                timeout_ms=timeout_ms,
                start=start,
            )
            self._registry.add(subscription)
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
            ConfigurationError: The function or a value does not fit.
        """
        check_topic("window", topic, "@stream.window('orders', ...)")

        def register(function: W) -> W:
            windowing = Windowing(
                window=window,
                aggregation=as_aggregation(function),
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
            subscription = make_windowed_subscription(
                function,
                windowing,
                name,
                schema,
                self.schema,
                topic=topic,
                group=group or self._group,
                batch_size=batch_size,
                own_retry=retry,
                start=start,
            )
            self._registry.add(subscription)
            return function

        return register
