"""Frozen dataclasses as decoded JSON, and read from what another version of PSPF may have written."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Final, Self, TypeVar

from pspf.errors import StatusUnreadable

Value = TypeVar("Value")


class Fields:
    """Base of dataclasses that cross a process border."""

    __slots__ = ()

    @classmethod
    def from_fields(cls, fields: object) -> Self:
        """Return what `as_fields` was called on; unknown fields are ignored, missing ones have their defaults.

        Raises:
            StatusUnreadable: A field has another type, or one without a default is missing; the message names it.
        """
        return read_fields(cls, fields)

    def as_fields(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        return {name: _as_json(getattr(self, name)) for name in _hints_of(type(self))}


def read_fields(kind: type[Value], fields: object, where: str = "") -> Value:
    """Return a dataclass of `kind` from its fields, as `Fields.from_fields` does; `where` is what an error says first.

    Raises:
        StatusUnreadable: As there.
    """
    if not isinstance(fields, Mapping):
        raise _unfit(where or kind.__name__, "an object", fields)
    found = {
        name: _read(hint, fields[name], f"{where}.{name}" if where else name)
        for name, hint in _hints_of(kind).items()
        if name in fields
    }
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]  # `kind` is a dataclass, which no type says
        has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if field.name not in found and not has_default:
            raise StatusUnreadable(f"{where}.{field.name} is missing" if where else f"{field.name} is missing")
    return kind(**found)


_hints: Final[dict[type, Mapping[str, Any]]] = {}


def _hints_of(kind: type) -> Mapping[str, Any]:
    if kind not in _hints:
        _hints[kind] = typing.get_type_hints(kind)
    return _hints[kind]


def _read(hint: Any, value: object, where: str) -> Any:
    """Return a decoded value as `hint` has it."""
    if hint is Any:
        return value
    arguments = typing.get_args(hint)
    match typing.get_origin(hint):
        case types.UnionType:  # `X | None` is the only one that fields have
            return None if value is None else _read(arguments[0], value, where)
        case origin if origin is tuple:
            return _read_tuple(arguments, value, where)
        case origin if origin is Mapping:
            if not isinstance(value, Mapping):
                raise _unfit(where, "an object", value)
            return {key: _read(arguments[1], each, f"{where}.{key}") for key, each in value.items()}
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return read_fields(hint, value, where)
    return _read_plain(hint, value, where)


def _read_tuple(kinds: tuple[Any, ...], value: object, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _unfit(where, "a list", value)
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    if len(kinds) != len(value):
        raise StatusUnreadable(f"{where} has {len(value)} values, not {len(kinds)}")
    return tuple(_read(kind, each, f"{where}[{n}]") for n, (kind, each) in enumerate(zip(kinds, value, strict=True)))


def _read_plain(kind: type, value: object, where: str) -> Any:
    """Return a value of one of JSON's own types: a whole number is also a `float`, and a `bool` is no number."""
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise _unfit(where, f"of type {kind.__name__}", value)
    return value


def _unfit(where: str, wanted: str, value: object) -> StatusUnreadable:
    return StatusUnreadable(f"{where} is {value!r:.60}, not {wanted}")


def _as_json(value: Any) -> Any:
    if isinstance(value, Fields):
        return value.as_fields()
    if isinstance(value, Mapping):
        return {key: _as_json(each) for key, each in value.items()}
    return [_as_json(each) for each in value] if isinstance(value, tuple) else value
