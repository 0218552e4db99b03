"""Registration of handlers: subscriptions made from decorated functions, checked one by one and together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pspf.decoration import check_model
from pspf.errors import ConfigurationError, NotAvailable
from pspf.events.event import BaseEvent
from pspf.stream.topics import TopicDeclarations
from pspf.subscription import (
    Handler,
    Subscription,
    Takes,
    inspect_fold,
    inspect_handler,
    read_default_retry,
)
from pspf.windowing.definitions import Windowing
from pspf.windowing.folds import make_loader
from pspf.windowing.timers.definition import TimerDefinition


class Registry:
    """The subscriptions of a Stream; those of the Streams that it includes among them, as they come."""

    def __init__(self, topic: str, partitions: int | None = None) -> None:
        self.subscriptions: list[Subscription] = []
        self.topics = TopicDeclarations(topic, partitions)
        self._topic = topic
        self._included: list[Registry] = []
        self._hosts: list[Registry] = []

    def add(self, subscription: Subscription) -> None:
        """Register a handler here, and with all that have included this one."""
        self.subscriptions.append(subscription)
        for host in self._hosts:
            host.add(self._as_included(subscription))

    def take_back(self) -> Subscription:
        """Undo the last `add`, and return what it registered."""
        for host in self._hosts:
            host.take_back()
        return self.subscriptions.pop()

    def set_timers(self, function: Callable[..., Any], timers: Callable[[Subscription], TimerDefinition]) -> int:
        """Give the handlers of a function timers, here and with all that have included this one; return how many."""
        changed = [each for each in self.subscriptions if each.handler.function is function]
        for each in changed:
            self._replace(each, timers(each))
        return len(changed)

    def _replace(self, subscription: Subscription, timers: TimerDefinition) -> None:
        self.subscriptions[self.subscriptions.index(subscription)] = replace(subscription, timers=timers)
        for host in self._hosts:
            host._replace(self._as_included(subscription), timers)

    def include(self, other: "Registry") -> None:
        """Take in another's subscriptions, later ones as well.

        Raises:
            ConfigurationError: It is this one or includes it, was included before, or declares a topic otherwise.
        """
        if other in self._included or other._includes(self):
            raise ConfigurationError(
                f"the Stream of topic {other._topic!r} is part of this one already, or this one of it: include it once"
            )
        self.topics.include(other.topics)
        self._included.append(other)
        other._hosts.append(self)
        for each in other.subscriptions:
            self.add(other._as_included(each))

    def _includes(self, other: "Registry") -> bool:
        return other is self or any(each._includes(other) for each in self._included)

    def _as_included(self, subscription: Subscription) -> Subscription:
        return replace(subscription, emits_to=subscription.emits_to or self._topic)


def make_subscriptions(
    function: Callable[..., Any],
    name: str | None,
    topics: Sequence[str],
    schema: Any,
    find_default: Callable[[str], Any],
    **options: Any,
) -> list[Subscription]:
    """Return the subscriptions of a handler; `options` are fields of `Subscription`. Errors as in `subscribe`.

    `find_default` gives the model of a topic that nothing else says.
    It is one for all topics where the handler is ordered, else one for each: their records have nothing in common.
    """
    handler = inspect_handler(function, name)
    if isinstance(schema, Mapping) and (missing := [topic for topic in topics if topic not in schema]):
        raise ConfigurationError(
            f"handler {handler.name}: schema= has no model of {str(missing[0])!r}: name one for each of"
            f" {', '.join(topics)}"
        )
    models = {
        str(topic): choose_model(handler, schema[topic] if isinstance(schema, Mapping) else schema, find_default(topic))
        for topic in topics
    }
    if options["idle_timeout_ms"] is not None and (len(topics) < 2 or options["ordering"] != "key"):
        raise ConfigurationError(
            f'handler {handler.name}: idle_timeout_ms= is for topics=[...] with ordering="key", of which one may be'
            " slower"
        )
    if options["ordering"] != "key":
        return [Subscription(topic, handler=handler, model=model, **options) for topic, model in models.items()]
    home, *beside = models
    is_one = all(model is models[home] for model in models.values())
    return [
        Subscription(
            home,
            handler=handler,
            model=models[home] if is_one else None,
            beside=tuple(beside),
            models=None if is_one else models,
            **options,
        )
    ]


def choose_model(handler: Handler, schema: Any, default: Any) -> Any:
    """Return the model of a subscription: `schema`, else the annotation, else the Stream's, else None."""
    if handler.takes is Takes.RAW:
        return dict
    model = default
    if schema is not None:
        model = schema
    elif handler.annotation not in (None, BaseEvent, Any):
        model = handler.annotation
    check_model(model, f"handler {handler.name}")
    return model


def choose_topics(topic: str | None, topics: Sequence[str] | None) -> Sequence[str]:
    """Return the topics of `subscribe`.

    Raises:
        ConfigurationError: None is named, or both parameters are given, or one is no name.
    """
    if topics is None:
        check_topic("subscribe", topic, "@stream.subscribe('orders')")
        assert topic is not None
        return (topic,)
    if topic is not None:
        raise ConfigurationError(f"subscribe takes a topic, {topic!r:.80}, or topics=, not both: name all in topics=")
    if isinstance(topics, str) or not topics or not all(isinstance(each, str) for each in topics):
        raise ConfigurationError(f"topics={topics!r:.80}: name them in a list: topics=['orders', 'payments']")
    twice = [each for at, each in enumerate(topics) if each in topics[:at]]
    if twice:
        raise ConfigurationError(f"topics= names {twice[0]!r} twice")
    return tuple(topics)


def make_windowed_subscription(
    function: Any, windowing: Windowing, name: str | None, schema: Any, default_schema: Any, **options: Any
) -> Subscription:
    """Return the subscription of a windowed aggregation, of a function or of ready ones. Errors as in `window`."""
    aggregation = windowing.aggregation
    handler: Handler
    if aggregation is None:
        handler, state_model = inspect_fold(function, name)
        windowing = replace(windowing, state_model=state_model)
        windowing.check(f"handler {handler.name}")
        make_loader(state_model, windowing.upcast)
    else:
        windowing.check(f"handler {name or options['topic']}")
        named = name or f"{options['topic']}.{windowing}.{aggregation.name}".replace(" ", "-")
        handler = Handler(aggregation.take, named, Takes.EVENT, False, True, None)
    model = choose_model(handler, schema, default_schema)
    windowing.check_fields(f"handler {handler.name}", model)
    return Subscription(handler=handler, model=model, ordering="key", operator=windowing, **options)


def check_topic(method: str, topic: object, example: str) -> str:
    """Return a topic's plain name.

    Raises:
        ConfigurationError: A decorator got something else: a function, by a forgotten call.
    """
    if not isinstance(topic, str):
        raise ConfigurationError(f"{method} takes a topic's name, not {topic!r:.80}: {example}")
    return str(topic)


def check_together(subscriptions: Sequence[Subscription], *, has_state_store: bool) -> None:
    """Raise ConfigurationError for subscriptions that can't run together, NotAvailable for a missing feature."""
    read_default_retry()
    shared: dict[tuple[str, str], str] = {}
    ordered: set[tuple[str, str, str]] = set()
    for subscription in subscriptions:
        place = (subscription.topic, subscription.group)
        if subscription.is_ordered:
            if has_state_store and subscription.operator is None:
                raise NotAvailable(
                    f"handler {subscription.name} is ordered and the Stream has a state_store: this version keeps"
                    " ordered state in the broker; leave state_store out"
                )
            for topic in subscription.topics:
                if (topic, subscription.group, subscription.name) in ordered:
                    raise ConfigurationError(
                        f"two ordered handlers of topic {topic!r}, group {subscription.group!r} are named"
                        f" {subscription.name!r}: pass name="
                    )
                ordered.add((topic, subscription.group, subscription.name))
        elif place in shared:
            raise ConfigurationError(
                f"handlers {shared[place]} and {subscription.name} share topic {place[0]!r} and group"
                f" {place[1]!r}: each would get half of the records; give each its own group="
            )
        else:
            shared[place] = subscription.name
