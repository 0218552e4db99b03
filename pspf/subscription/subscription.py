"""A subscription: a registered handler on a topic for a group, and its policies."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pspf.decoration import check_several_topics, refuse_async
from pspf.errors import ConfigurationError
from pspf.events.fields import check_field
from pspf.records import check_name
from pspf.subscription.handler import Handler, Takes
from pspf.subscription.retrying import RetryPolicy, read_default_retry
from pspf.subscription.shuffle import Shuffle, repartition_topic
from pspf.windowing.grouping import Grouping, GroupingKey
from pspf.windowing.operator_definition import OperatorDefinition
from pspf.windowing.timers.definition import TimerDefinition

Ordering = Literal["none", "key"]


@dataclass(frozen=True, slots=True)
class Subscription:
    """A handler on a topic for a group.

    `batch_size` None adapts; `timeout_ms` None waits for ever; `own_retry` None takes the settings'.
    With `operator` the events go to an operator of that definition, and the handler is always ordered.
    `partitions` is how many its topic has, and `repartition` the shuffle that it needs then (`over`); both are
    known once it runs.
    `key` is what an ordered handler groups by, a field's name or a function of the event; None: the record's own key.
    An ordered handler may have further topics, `beside` the first one, which is the home: its cursor has the state.
    Their records are merged by event time, and an empty topic is waited for up to `idle_timeout_ms`. `models` has the
    model of each topic, where they differ.
    `emits_to` is where `ctx.emit` goes that names no topic, None: to the topic of the Stream that runs it.
    """

    topic: str
    group: str
    handler: Handler
    model: Any = None
    ordering: Ordering = "none"
    batch_size: int | None = None
    concurrency: int = 1
    own_retry: RetryPolicy | None = None
    timeout_ms: int | None = None
    start: str = "start"
    operator: OperatorDefinition | None = None
    partitions: int = 1
    repartition: Shuffle | None = None
    emits_to: str | None = None
    key: GroupingKey | None = None
    beside: tuple[str, ...] = ()
    idle_timeout_ms: int | None = None
    models: Mapping[str, Any] | None = None
    timers: TimerDefinition | None = None

    def __post_init__(self) -> None:
        check_name("topic", self.topic)
        check_name("group", self.group)
        where = f"handler {self.name}"
        if self.operator is not None:
            self.operator.check(where)
            if self.operator.to == self.topic:
                raise ConfigurationError(
                    f"{where}: to={self.topic!r} is the topic that it reads, and its results would be counted with"
                    " the rest, for ever: name another topic"
                )
            for name, function in self.operator.functions.items():
                refuse_async(function, f"{where}: {name}=")
        if self.ordering not in ("none", "key"):
            raise ConfigurationError(f"{where}: ordering={self.ordering!r}; use 'none' or 'key'")
        if self.key is not None:
            self._check_key(where)
        for parameter, value, least in (
            ("batch_size", self.batch_size, 1),
            ("concurrency", self.concurrency, 1),
            ("timeout_ms", self.timeout_ms, 1),
            ("idle_timeout_ms", self.idle_timeout_ms, 1),
        ):
            if value is not None and (type(value) is not int or value < least):
                raise ConfigurationError(f"{where}: {parameter}={value!r}; use a whole number of {least} or more")
        if self.own_retry is not None and not isinstance(self.own_retry, RetryPolicy):
            raise ConfigurationError(f"{where}: retry={self.own_retry!r:.80}; use a RetryPolicy(...)")
        if self.handler.takes is Takes.BATCH and self.concurrency > 1:
            raise ConfigurationError(
                f"{where} takes whole batches; concurrency={self.concurrency} has no meaning there"
            )
        if self.beside:
            takes_batch, to = self.handler.takes is Takes.BATCH, None if self.operator is None else self.operator.to
            check_several_topics(where, self.topics, self.start, self.key, to, takes_batch=takes_batch)

    def _check_key(self, where: str) -> None:
        if not (callable(self.key) or (self.key and isinstance(self.key, str))):
            raise ConfigurationError(f"{where}: key={self.key!r:.80}; use a field's name or a function of the event")
        if not self.is_ordered:
            raise ConfigurationError(
                f'{where}: key= says whose records keep their order, and ordering="none" keeps none: pass'
                ' ordering="key", or leave key= out'
            )
        refuse_async(self.key, f"{where}: key=")
        if isinstance(self.key, str):
            check_field(where, self.model, self.key)

    @property
    def grouping_key(self) -> GroupingKey | None:
        """What records are grouped by, of a handler or of an operator; None: their own keys."""
        return self.key if self.operator is None else self.operator.key

    @property
    def name(self) -> str:
        """The handler's name: part of stored data in ordered mode."""
        return self.handler.name

    @property
    def topics(self) -> tuple[str, ...]:
        """All topics that it reads, the home first."""
        return (self.topic, *self.beside)

    @property
    def wait_ms(self) -> int:
        """How long an empty topic is waited for, before records of the others are handled."""
        return self.idle_timeout_ms or (0 if self.operator is None else self.operator.idle_timeout_ms or 0)

    @property
    def retry(self) -> RetryPolicy:
        """When a failed record runs again."""
        return self.own_retry or read_default_retry()

    @property
    def is_ordered(self) -> bool:
        return self.ordering == "key"

    def over(self, partitions: int) -> "tuple[Subscription, Subscription | None]":
        """Return it for a topic of so many partitions, and, with a shuffle, the subscription behind it."""
        if partitions == 1 or self.grouping_key is None:
            return replace(self, partitions=partitions), None
        hop = Shuffle(self.topic, repartition_topic(self.group, self.name), partitions)
        here = replace(self, partitions=partitions, repartition=hop)
        behind = replace(here, topic=hop.topic, start="start")
        return here if self.key is None else replace(here, operator=Grouping(self.key)), behind

    @property
    def is_behind_hop(self) -> bool:
        """Whether this is the downstream side of a shuffle."""
        return self.repartition is not None and self.topic == self.repartition.topic

    @property
    def cursor_handler(self) -> str | None:
        """The handler part of this subscription's cursors."""
        return self.name if self.is_ordered else None
