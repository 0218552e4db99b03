"""A subscription: a registered handler, its shape and its policies."""

import inspect
import random
import re
import typing
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final, Literal

from pspf.context import Context, SyncContext
from pspf.decoration import (
    check_several_topics,
    is_async,
    refuse_async,
    refuse_hidden_coroutine,
    refuse_optional_context,
)
from pspf.errors import ConfigurationError, EventRejected, HandlerCrashed, RetryLater, StateUnreadable
from pspf.events.durations import Duration, as_ms
from pspf.events.fields import check_field
from pspf.records import check_name
from pspf.settings import settings
from pspf.windowing.grouping import Grouping, GroupingKey
from pspf.windowing.operator_definition import OperatorDefinition
from pspf.windowing.timers.definition import TimerDefinition

Ordering = Literal["none", "key"]

_FINAL: Final = (EventRejected, HandlerCrashed, ConfigurationError, StateUnreadable)
"""The parts of a call that are equal at each attempt."""


@dataclass(frozen=True, slots=True, init=False)
class RetryPolicy:
    """How often and when a failed record runs again.

    `max_attempts` counts the first run. The wait starts at `initial_ms`, doubles up to `max_ms`,
    and is spread by `jitter` (0.2 = 20 % either way). Both are durations: text such as `10s`, a timedelta or
    milliseconds. Errors of the types in `give_up_on` are not retried.
    """

    max_attempts: int = 5
    initial_ms: int = 200
    max_ms: int = 60_000
    jitter: float = 0.2
    give_up_on: tuple[type[BaseException], ...] = ()

    def __init__(
        self,
        max_attempts: int = 5,
        initial_ms: Duration = 200,
        max_ms: Duration = 60_000,
        jitter: float = 0.2,
        give_up_on: tuple[type[BaseException], ...] = (),
    ) -> None:
        for name, value in (
            ("max_attempts", max_attempts),
            ("initial_ms", as_ms("RetryPolicy", "initial_ms", initial_ms)),
            ("max_ms", as_ms("RetryPolicy", "max_ms", max_ms)),
            ("jitter", jitter),
            ("give_up_on", give_up_on),
        ):
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        if self.max_attempts < 1 or self.initial_ms < 0 or self.max_ms < self.initial_ms or not 0 <= self.jitter < 1:
            raise ConfigurationError(
                f"{self}: max_attempts is 1 or more, 0 <= initial_ms <= max_ms, and jitter from 0 up to 1"
            )

    def gives_up(self, error: BaseException, attempts: int) -> bool:
        """Return whether a record is dead after this error, in the run that made it `attempts`."""
        is_final = isinstance(error, (*_FINAL, *self.give_up_on))
        return is_final or attempts >= self.max_attempts

    def wait_ms(self, attempts: int, error: BaseException | None = None) -> int:
        """Return how long to wait after `attempts` runs failed, the last one with `error`."""
        if isinstance(error, RetryLater):
            return error.wait_ms
        wait_ms = min(self.max_ms, self.initial_ms << min(attempts - 1, 40))
        return round(wait_ms * random.uniform(1 - self.jitter, 1 + self.jitter))


def read_default_retry() -> RetryPolicy:
    """Return the policy of handlers that have none of their own, as the settings have it.

    Raises:
        ConfigurationError: The settings don't fit each other.
    """
    return RetryPolicy(
        settings.RETRY_MAX_ATTEMPTS, settings.RETRY_INITIAL_MS, settings.RETRY_MAX_MS, settings.RETRY_JITTER
    )


class Takes(Enum):
    """What a handler's first parameters are."""

    EVENT = "event"
    RAW = "msg_id, raw_data"
    BATCH = "list[event]"


@dataclass(frozen=True, slots=True)
class Handler:
    """A user's function and how to call it. `annotation` is what its event parameter names, else None."""

    function: Callable[..., Any]
    name: str
    takes: Takes
    takes_context: bool
    is_async: bool
    annotation: Any


_SHAPES: Final = (
    "(event), (event, ctx: Context), (msg_id, raw_data), (msg_id, raw_data, ctx) or (events: list[Event]),"
    " plain or async"
)


def inspect_handler(function: Callable[..., Any], name: str | None = None) -> Handler:
    """Return how to call `function`.

    Raises:
        ConfigurationError: It fits none of the shapes.
    """
    if not callable(function):
        raise ConfigurationError(f"a handler is a function, not {function!r:.80}")
    named = (
        name or f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', type(function).__name__)}"
    )
    refuse_hidden_coroutine(function, f"handler {named}")
    parameters = _parameters(function, named)
    target = function if inspect.isroutine(function) else type(function).__call__
    if inspect.isasyncgenfunction(target) or inspect.isgeneratorfunction(target):
        raise ConfigurationError(f"handler {named} yields; return nothing, and emit with ctx.emit")
    annotations = [parameter.annotation for parameter in parameters]
    takes, takes_context, annotation = _shape(named, parameters, annotations)
    awaits = is_async(function)
    context = annotations[-1] if takes_context else None
    if context is SyncContext and awaits:
        raise ConfigurationError(f"handler {named} is async; annotate its context as Context, not SyncContext")
    return Handler(function, named, takes, takes_context, awaits, annotation)


def inspect_fold(function: Any, name: str | None = None) -> tuple[Handler, Any]:
    """Return how to call the function of a windowed handler, `(event, state) -> state`, and what names its state.

    Raises:
        ConfigurationError: It is no such function.
    """
    if not callable(function):
        raise ConfigurationError(f"a windowed handler is a function or a ready aggregation, not {function!r:.80}")
    named = (
        name or f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', type(function).__name__)}"
    )
    refuse_hidden_coroutine(function, f"windowed handler {named}")
    parameters = _parameters(function, named)
    if len(parameters) != 2 or any(_is_context(parameter.annotation) for parameter in parameters):
        raise ConfigurationError(f"windowed handler {named} takes (event, state) and returns the new state")
    target = function if inspect.isroutine(function) else type(function).__call__
    if inspect.isasyncgenfunction(target) or inspect.isgeneratorfunction(target):
        raise ConfigurationError(f"windowed handler {named} yields; return the new state")
    event, state = (None if each.annotation is each.empty else each.annotation for each in parameters)
    return Handler(function, named, Takes.EVENT, False, is_async(function), event), state


def _parameters(function: Callable[..., Any], named: str) -> list[inspect.Parameter]:
    try:
        signature = inspect.signature(function, eval_str=True)
    except NameError as error:
        raise ConfigurationError(
            f"handler {named}: an annotation can't be resolved ({error}); define its model at the top of the module"
        ) from error
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"handler {named} is {type(function).__name__!r:.40}, whose parameters can't be read: subscribe the"
            " function in it itself (async ones are awaited, plain ones run in a thread), or call it in a"
            " def of your own"
        ) from error
    refuse_optional_context(signature.parameters.values(), f"handler {named}")
    required: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
            raise ConfigurationError(f"handler {named}: {parameter.name!r} is keyword-only; handlers are {_SHAPES}")
        if parameter.default is parameter.empty:
            required.append(parameter.replace(annotation=_plain_context(parameter.annotation)))
    rest = next((each.name for each in signature.parameters.values() if each.kind is each.VAR_POSITIONAL), None)
    if not required and rest is not None:
        raise ConfigurationError(
            f"handler {named} takes *{rest}, which does not say what it takes: put functools.wraps into the decorator"
            f" that made it, or write its parameters out; handlers are {_SHAPES}"
        )
    return required


def _plain_context(annotation: Any) -> Any:
    """Return the context's class of `Annotated[Context, ...]`, anything else as it is."""
    if typing.get_origin(annotation) is typing.Annotated and _is_context(annotation.__origin__):
        return annotation.__origin__
    return annotation


def _shape(named: str, parameters: list[inspect.Parameter], annotations: list[Any]) -> tuple[Takes, bool, Any]:
    empty = inspect.Parameter.empty
    count = len(parameters)
    if count not in (1, 2, 3):
        raise ConfigurationError(f"handler {named} takes {count} parameters; handlers are {_SHAPES}")
    first = None if annotations[0] is empty else annotations[0]
    element = _element(first)
    if count == 1:
        return (Takes.BATCH, False, element[0]) if element else (Takes.EVENT, False, first)
    is_last_context = _is_context(annotations[-1])
    if count == 2 and is_last_context:
        return (Takes.BATCH, True, element[0]) if element else (Takes.EVENT, True, first)
    if count == 2 and first is None and annotations[1] is empty:
        if parameters[1].name in ("ctx", "context"):
            raise ConfigurationError(
                f"handler {named}: annotate {parameters[1].name!r} as Context; two parameters without"
                " annotations are (msg_id, raw_data)"
            )
        return Takes.RAW, False, None
    if count == 3 and first is None and annotations[1] is empty and (is_last_context or annotations[2] is empty):
        return Takes.RAW, True, None
    raise ConfigurationError(f"handler {named} has parameters of no known shape; handlers are {_SHAPES}")


def _is_context(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Context)


def _element(annotation: Any) -> tuple[Any] | None:
    """Return (Event,) of `list[Event]`, None of anything else."""
    if annotation is list:
        return (None,)
    if typing.get_origin(annotation) is list:
        arguments = typing.get_args(annotation)
        return (arguments[0],) if arguments else (None,)
    return None


_REPARTITION_SUFFIX: Final = ".repartition"
_LONGEST_STEM: Final = 160


def repartition_topic(group: str, handler: str) -> str:
    """Return the internal topic of a windowed handler whose grouping key is not its records' key.

    It is `<group>.<handler>.repartition`; what no topic's name can hold is replaced, and a checksum tells apart
    what would be alike then.
    """
    stem = f"{group}.{handler}"
    clean = re.sub(r"[^A-Za-z0-9._-]", "-", stem)[:_LONGEST_STEM]
    return (clean if clean == stem else f"{clean}-{zlib.crc32(stem.encode()):08x}") + _REPARTITION_SUFFIX


@dataclass(frozen=True, slots=True)
class Shuffle:
    """A hop: the records of `source` go through `topic`, of as many partitions, to that of their grouping key."""

    source: str
    topic: str
    partitions: int


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
