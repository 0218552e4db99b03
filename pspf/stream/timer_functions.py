"""Functions of timers, inspected where they are declared."""

import inspect
import typing
from collections.abc import Callable, Sequence
from typing import Any, Final

from pydantic import PydanticUserError, TypeAdapter

from pspf.context import Context, SyncContext
from pspf.decoration import is_async, refuse_hidden_coroutine, refuse_optional_context
from pspf.errors import ConfigurationError, NotAvailable
from pspf.subscription import Subscription, Takes
from pspf.windowing.timers.definition import TimerDefinition
from pspf.windowing.timers.timer import Timer

_SHAPES: Final = "(timer) or (timer, ctx: Context), plain or async"


def make_timers(
    function: Callable[..., Any],
    handler: str,
    *,
    watermark_delay_ms: int,
    idle_timeout_ms: int | None,
    max_future_ms: int | None,
) -> TimerDefinition:
    """Return the definition of a handler's timers.

    Raises:
        ConfigurationError: The function fits no shape, or a value is out of range.
    """
    where = f"on_timer of {handler}"
    if not callable(function):
        raise ConfigurationError(f"{where}: a timer calls a function, not {function!r:.80}")
    refuse_hidden_coroutine(function, where)
    for name, value in (
        ("watermark_delay_ms", watermark_delay_ms),
        ("idle_timeout_ms", idle_timeout_ms),
        ("max_future_ms", max_future_ms),
    ):
        is_left_out = value is None and name != "watermark_delay_ms"
        if not is_left_out and (type(value) is not int or value < 0):
            raise ConfigurationError(f"{where}: {name}={value!r}; use whole milliseconds, 0 or more")
    parameters = read_parameters(function, where, (1, 2), _SHAPES)
    refuse_optional_context(inspect.signature(function).parameters.values(), where)
    awaits = is_async(function)
    takes_context = len(parameters) == 2
    context = parameters[-1].annotation
    if takes_context and context is SyncContext and awaits:
        raise ConfigurationError(f"{where} is async; annotate its context as Context, not SyncContext")
    if takes_context and context is not inspect.Parameter.empty and not is_context(context):
        raise ConfigurationError(f"{where}: its second parameter is {context!r:.80}, no Context; it is {_SHAPES}")
    model = _model_of(parameters[0].annotation, where)
    return TimerDefinition(function, takes_context, awaits, model, watermark_delay_ms, idle_timeout_ms, max_future_ms)


def read_parameters(
    function: Callable[..., Any], where: str, counts: Sequence[int], shapes: str
) -> list[inspect.Parameter]:
    """Return the parameters without a default of a function that timers call.

    Raises:
        ConfigurationError: They are not as many as one of `counts`, or can't be read, or it yields.
    """
    try:
        signature = inspect.signature(function, eval_str=True)
    except NameError as error:
        raise ConfigurationError(
            f"{where}: an annotation can't be resolved ({error}); define its model at the top of the module"
        ) from error
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{where}: the parameters of {function!r:.80} can't be read; give a def") from error
    required = [
        each
        for each in signature.parameters.values()
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    if len(required) not in counts or any(each.kind is each.KEYWORD_ONLY for each in required):
        raise ConfigurationError(f"{where} takes {len(required)} parameters; it is {shapes}")
    target = function if inspect.isroutine(function) else type(function).__call__
    if inspect.isasyncgenfunction(target) or inspect.isgeneratorfunction(target):
        raise ConfigurationError(f"{where} yields; return nothing, and emit with ctx.emit")
    return required


def is_context(annotation: Any) -> bool:
    """Return whether an annotation names a context."""
    return isinstance(annotation, type) and issubclass(annotation, Context)


def _model_of(annotation: Any, where: str) -> Any:
    """Return the model of `Timer[Model]`, None for a Timer of anything."""
    if annotation in (inspect.Parameter.empty, Any, Timer):
        return None
    if typing.get_origin(annotation) is not Timer:
        raise ConfigurationError(f"{where}: its first parameter is a Timer or Timer[Payload], not {annotation!r:.80}")
    (model,) = typing.get_args(annotation)
    if model is Any:
        return None
    try:
        TypeAdapter(model)
    except PydanticUserError as error:
        raise ConfigurationError(f"{where}: no payload can be read as {model!r:.80}: {error}") from error
    return model


def check_may_have_timers(subscription: Subscription) -> None:
    """Raise ConfigurationError for a handler that can't set timers."""
    where = f"on_timer of {subscription.name}"
    if subscription.operator is not None:
        raise ConfigurationError(f"{where}: it is a windowed handler, and timers are of handlers of events")
    if not subscription.is_ordered:
        raise ConfigurationError(f'{where}: timers belong to keys of ordered handlers: subscribe(..., ordering="key")')
    if subscription.handler.takes is Takes.BATCH:
        raise ConfigurationError(f"{where}: it takes whole batches, and a timer belongs to a key: take one event")
    if not subscription.handler.takes_context:
        raise ConfigurationError(f"{where}: without a ctx: Context it can't set a timer; add one")
    if subscription.key is not None:
        raise NotAvailable(f"{where}: it groups by key=, and this version has timers of the records' own keys only")
    if subscription.beside:
        raise NotAvailable(f"{where}: it reads several topics, and this version has timers of one topic only")
    if subscription.timers is not None:
        raise ConfigurationError(f"{where}: it has a function for timers already")
