"""A handler: a user's function, what it takes, and how it is called."""

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from pspf.context import Context, SyncContext
from pspf.decoration import is_async, refuse_hidden_coroutine, refuse_optional_context
from pspf.errors import ConfigurationError


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
