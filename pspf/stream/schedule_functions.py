"""Functions of schedules: their shapes, and the subscription that runs one at its ticks."""

import inspect
from collections.abc import Callable
from datetime import tzinfo
from typing import Any, Final

from pspf.context import Context, SyncContext
from pspf.decoration import is_async, refuse_hidden_coroutine, refuse_optional_context
from pspf.errors import ConfigurationError, EventRejected
from pspf.stream.timer_functions import is_context, read_parameters
from pspf.subscription import Handler, RetryPolicy, Subscription, Takes
from pspf.windowing.schedules.schedule import Schedule, ticks_topic
from pspf.windowing.schedules.tick import Tick
from pspf.windowing.timers.definition import TimerDefinition
from pspf.windowing.timers.timer import Timer

_SHAPES: Final = "(), (tick: Tick) or (tick: Tick, ctx: Context), plain or async"


def make_schedule_subscription(
    function: Callable[..., Any],
    schedule: Schedule,
    *,
    name: str | None,
    group: str,
    retry: RetryPolicy | None,
    timeout_ms: int | None,
) -> Subscription:
    """Return the subscription of a function that runs at the ticks of a schedule.

    It is an ordered handler of an internal topic with one partition, whose timers are the ticks. A record of that
    topic with the handler's name as its key is a tick that is run at once.

    Raises:
        ConfigurationError: The function fits no shape.
    """
    if not callable(function):
        raise ConfigurationError(f"a schedule calls a function, not {function!r:.80}")
    named = name or f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', '?')}"
    where = f"schedule {named}"
    refuse_hidden_coroutine(function, where)
    count = _count_parameters(function, where)
    definition = TimerDefinition(
        _make_caller(function, count, named, schedule.tz),
        takes_context=count == 2,
        is_async=is_async(function),
        schedule=schedule,
    )
    return Subscription(
        ticks_topic(group),
        group,
        Handler(_make_runner(function, named), named, Takes.EVENT, True, True, None),
        model=dict,
        ordering="key",
        own_retry=retry,
        timeout_ms=timeout_ms,
        timers=definition,
    )


def _count_parameters(function: Callable[..., Any], where: str) -> int:
    parameters = read_parameters(function, where, (0, 1, 2), _SHAPES)
    refuse_optional_context(inspect.signature(function).parameters.values(), where)
    empty = inspect.Parameter.empty
    if parameters and parameters[0].annotation not in (empty, Any, Tick):
        hint = "; a context comes second" if is_context(parameters[0].annotation) else ""
        raise ConfigurationError(
            f"{where}: its first parameter is a Tick, not {parameters[0].annotation!r:.80}{hint}; it is {_SHAPES}"
        )
    if len(parameters) == 2:
        context = parameters[1].annotation
        if context is SyncContext and is_async(function):
            raise ConfigurationError(f"{where} is async; annotate its context as Context, not SyncContext")
        if context is not empty and not is_context(context):
            raise ConfigurationError(f"{where}: its second parameter is {context!r:.80}, no Context; it is {_SHAPES}")
    return len(parameters)


def _make_caller(function: Callable[..., Any], count: int, named: str, tz: tzinfo) -> Callable[..., Any]:
    """Return the function that timers call: it gives the function what it takes."""

    def as_tick(timer: Timer[Any]) -> Tick:
        return Tick(named, timer.payload["at_ms"], timer.payload["previous_at_ms"], timer.attempt, tz)

    def call(timer: Timer[Any], *context: Context) -> Any:
        return function(as_tick(timer), *context)

    return call if count else lambda timer: function()


def _make_runner(function: Callable[..., Any], named: str) -> Callable[..., Any]:
    """Return the handler of the topic of ticks: it lets the tick run that a record names, by default one of now."""

    async def run_now(event: dict[str, Any], ctx: Context) -> None:
        if ctx.key != named:  # of another schedule of the group
            return
        now_ms = ctx.record.timestamp_ms
        at_ms, previous_ms = event.get("at_ms", now_ms), event.get("previous_at_ms")
        if type(at_ms) is not int or not (previous_ms is None or type(previous_ms) is int):
            raise EventRejected(f"a tick has at_ms and previous_at_ms, whole milliseconds, not {event!r:.120}")
        name = f"tick of record {ctx.record.id}"
        ctx.timer(name, after_ms=0, payload={"at_ms": at_ms, "previous_at_ms": previous_ms})

    run_now.__wrapped__ = function  # type: ignore[attr-defined]  # for whoever looks for the user's function
    return run_now
