"""Typed values as JSON: written only where they are read back equal.

A type is what pydantic can validate (a model, a dataclass, a TypedDict, Decimal, `list[Order]`), or msgspec where
it is a Struct.
"""

from collections.abc import Callable
from dataclasses import is_dataclass
from functools import lru_cache
from inspect import isroutine
from typing import Any, Final, Generic, TypeVar, get_args

from pydantic import BaseModel, PydanticUserError, TypeAdapter
from pydantic.errors import PydanticUndefinedAnnotation
from pydantic_core import from_json

from pspf.compact import compact
from pspf.errors import ConfigurationError, EventRejected
from pspf.events import codec
from pspf.events.event import is_struct

T = TypeVar("T")

_REASON_CHARS: Final = 300


class ValueType(Generic[T]):
    """How the values of one type are written and read."""

    def __init__(
        self,
        name: str,
        write: Callable[[Any], bytes],
        read: Callable[[bytes], T],
        validate: Callable[[Any], T],
        as_tree: Callable[[Any], Any],
    ) -> None:
        self.name = name
        self.read = read
        """From JSON to a value. Raises what the type's validators raise."""
        self.parse: Callable[[bytes], Any] = from_json
        """From JSON to plain values."""
        self.validate = validate
        """From plain values, or a value of the type, to a value. Raises what the type's validators raise."""
        self.write = write
        """From a value to JSON, not checked. Raises what the type's serializers raise."""
        self._as_tree = as_tree

    def dump(self, name: str, value: T) -> bytes:
        """Return the value called `name` as JSON.

        Raises:
            EventRejected: It is of another type, or would be read back as something else.
        """
        try:
            encoded = self.write(value)
            codec.refuse_non_finite_tokens(encoded)
        except EventRejected:
            raise
        except Exception as error:  # a serializer of the user's may raise anything
            raise self._refusal(name, f"can't be stored as {self.name}: {error}") from error
        codec.check_depth(encoded)
        try:
            back = self.read(encoded)
        except Exception as error:  # a validator of the user's may raise anything
            reason = str(codec.schema_error(self.name, error)).partition(": ")[2]
            raise self._refusal(name, f"could not be read back as {self.name}: {reason}") from codec.cause_of(error)
        if not self._is_same(back, value):
            path = _difference(value, back) or "it"
            raise self._refusal(
                name, f"would not be read back as the {self.name} that it is: {path} would be another value"
            )
        return compact(encoded)

    def _is_same(self, back: T, value: T) -> bool:
        if type(value).__eq__ is object.__eq__:  # compared as an object, and no two of them are equal
            return type(back) is type(value) and bool(self._as_tree(back) == self._as_tree(value))
        return type(back) is type(value) and bool(back == value)

    def _refusal(self, name: str, reason: str) -> EventRejected:
        return EventRejected(f"state {name!r:.80} {reason}"[:_REASON_CHARS])


def default_name(model: Any) -> str | None:
    """Return the name of a class of the user's: a model, a dataclass, a TypedDict, a Struct; None of anything else."""
    if not isinstance(model, type):
        return None
    is_typed_dict = issubclass(model, dict) and hasattr(model, "__total__")  # of typing, or of typing_extensions
    is_own = issubclass(model, BaseModel) or is_dataclass(model) or is_struct(model) or is_typed_dict
    return model.__name__ if is_own else None


def value_type(model: type[T]) -> ValueType[T]:
    """Return how values of `model` are written and read.

    Raises:
        ConfigurationError: Neither pydantic nor msgspec can read it.
    """
    hashed: Any = model
    try:
        made: ValueType[T] = _made(hashed)
    except TypeError as error:  # it can't be hashed, as an instance can't
        raise ConfigurationError(f"state can't be read as {model!r:.120}: it is no type") from error
    return made


@lru_cache(1024)
def _made(model: Any) -> ValueType[Any]:
    name = getattr(model, "__name__", None) or str(model)
    if isroutine(model):
        raise ConfigurationError(f"state can't be read as {name}: it is a function")
    if is_struct(model) or any(is_struct(member) for member in get_args(model)):
        return _struct_type(name, model)
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(model)
        serializer = adapter.serializer
        validate_json, validate_python = adapter.validator.validate_json, adapter.validator.validate_python
    except (PydanticUserError, PydanticUndefinedAnnotation, NameError, TypeError) as error:
        raise ConfigurationError(f"state can't be read as {name}: {error}") from error

    def write(value: Any) -> bytes:
        written: bytes = serializer.to_json(value, by_alias=True, round_trip=True, warnings="error")
        return written

    def as_tree(value: Any) -> Any:
        return serializer.to_python(value, warnings=False)

    return ValueType(name, write, validate_json, validate_python, as_tree)


def _struct_type(name: str, model: Any) -> ValueType[Any]:
    from pspf.events import structs

    return ValueType(name, *structs.value_functions(name, model))


def _difference(one: Any, other: Any, path: str = "") -> str:
    """Return where two values differ first, as `a.b[0]`; the empty text where that is the whole."""
    if type(one) is not type(other):
        return path
    if isinstance(one, list | tuple):
        parts = [(f"{path}[{index}]", *both) for index, both in enumerate(zip(one, other, strict=False))]
    else:
        fields, others = _fields_of(one), _fields_of(other)
        parts = [(f"{path}.{name}" if path else str(name), fields[name], others.get(name)) for name in fields]
    return next((_difference(a, b, where) for where, a, b in parts if type(a) is not type(b) or a != b), path)


def _fields_of(value: Any) -> dict[Any, Any]:
    if isinstance(value, dict):
        return value
    names = value.__struct_fields__ if is_struct(type(value)) else getattr(value, "__dict__", ())
    return {name: getattr(value, name) for name in names}
