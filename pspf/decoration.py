"""Checks at decoration: a handler that can't work is refused when its module is imported."""

import functools
import inspect
import typing
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from typing import Any, Final

from pydantic import BaseModel, PydanticUserError, TypeAdapter
from pydantic.errors import PydanticUndefinedAnnotation

from pspf.context import Context
from pspf.errors import ConfigurationError
from pspf.events.event import is_struct
from pspf.events.repairs import takes_objects
from pspf.records import check_name

_MOST_TOPICS: Final = 64


def is_async(function: Any) -> bool:
    """Return whether a call of it is to be awaited: an async function or method, an object or a partial of such."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isfunction(function) or inspect.ismethod(function) or inspect.isbuiltin(function):
        return inspect.iscoroutinefunction(function)
    # An object, one with __get__ among them (asgiref's sync_to_async), for which inspect says that it is a method.
    return callable(function) and any(map(inspect.iscoroutinefunction, (function, type(function).__call__)))


def refuse_hidden_coroutine(function: Callable[..., Any], where: str) -> None:
    """Raise ConfigurationError for a plain function, or an object called as one, around an async one: who would await?

    What does not say what it is around (`__wrapped__`) is taken to run it.
    """
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, functools._lru_cache_wrapper):
        raise ConfigurationError(f"{where} is cached: it would not run for events that are alike; take the cache off")
    if is_async(function):
        return
    around = inner = function
    while not is_async(inner):
        if not hasattr(inner, "__wrapped__"):
            return
        around, inner = inner, inner.__wrapped__
    raise ConfigurationError(
        f"{where} is async, in a plain function that does not await it{_place_of(around)}: make that one async def, or"
        " leave functools.wraps out where it runs it by itself"
    )


def _place_of(function: Any) -> str:
    code = getattr(function if inspect.isroutine(function) else type(function).__call__, "__code__", None)
    return "" if code is None else f" ({code.co_filename.rpartition('/')[2]}:{code.co_firstlineno})"


def refuse_optional_context(parameters: typing.Iterable[inspect.Parameter], where: str) -> None:
    """Raise ConfigurationError for a context with a default: only parameters without one are given."""
    for parameter in parameters:
        if parameter.default is parameter.empty:
            continue
        members = typing.get_args(parameter.annotation) or (parameter.annotation,)
        is_context = any(isinstance(each, type) and issubclass(each, Context) for each in members)
        if is_context or (parameter.annotation is parameter.empty and parameter.name in ("ctx", "context")):
            raise ConfigurationError(
                f"{where}: {parameter.name!r} has a default, so it would never be given: leave"
                f" '= {parameter.default!r:.40}' out ({parameter.name}: Context)"
            )


def refuse_async(function: Any, where: str) -> None:
    """Raise ConfigurationError for an async function where a plain one is called."""
    if is_async(function):
        raise ConfigurationError(f"{where} is async, and is called as a plain function: make it def")


def check_model(model: Any, where: str) -> None:
    """Raise ConfigurationError for a type that no JSON object can be read as; an undefined name may be one."""
    if model is None or model is Any or (isinstance(model, type) and issubclass(model, BaseModel)):
        return
    if is_dataclass(model) or any(map(is_struct, (model, *typing.get_args(model)))):
        return
    try:
        is_object = takes_objects(TypeAdapter(model).core_schema)
    except (PydanticUserError, PydanticUndefinedAnnotation, NameError):
        return
    if not is_object:
        name = getattr(model, "__name__", None) or str(model)
        raise ConfigurationError(
            f"{where} takes {name!s:.80}, and an event is a JSON object: name a model, a dataclass, dict or BaseEvent"
        )


def check_several_topics(
    where: str, topics: Sequence[str], start: str, key: object, to: str | None, *, takes_batch: bool
) -> None:
    """Raise ConfigurationError for what an ordered handler of several topics can't have; `to` is its results' topic."""
    for topic in topics:
        check_name("topic", topic)
    if len(topics) > _MOST_TOPICS:
        raise ConfigurationError(f"{where}: {len(topics)} topics; at most {_MOST_TOPICS} are read together")
    if takes_batch:
        raise ConfigurationError(
            f"{where} takes whole batches of several topics, and an event does not say of which one it is: take one"
            ' event at a time, with ctx.record.topic, or leave ordering="key" out'
        )
    if key is not None:
        raise ConfigurationError(
            f"{where}: key= groups the records of one topic by another key, and it reads {len(topics)}: emit them with"
            " that key, or send them on with ctx.emit(..., key=...) first"
        )
    if start not in ("start", "end"):
        raise ConfigurationError(f"{where}: start={start!r} is a record of one topic: use start or end")
    if to in topics:
        raise ConfigurationError(f"{where}: to={to!r} is a topic that it reads: name another topic")
