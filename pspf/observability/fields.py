"""Frozen dataclasses as decoded JSON, and read from what another version of PSPF may have written.

A reader is made once per class from its type hints: a worker process reports every second.
"""

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Final, Self, TypeVar

from pspf.errors import StatusUnreadable

Value = TypeVar("Value")
Read = Callable[[Any], Any]
"""From a decoded value to the one that a field has. Raises `_Misfit`."""


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


def read_fields(kind: type[Value], fields: object) -> Value:
    """Return a dataclass of `kind` from its fields, as `Fields.from_fields` does.

    Raises:
        StatusUnreadable: As there.
    """
    try:
        found: Value = _reader_of(kind)(fields)
    except _Misfit as misfit:
        path = "".join(reversed(misfit.path)).lstrip(".") or kind.__name__
        raise StatusUnreadable(f"{path} {misfit.why}") from None
    return found


class _Misfit(Exception):
    """A value of another type; `path` leads from it to the outermost object."""

    def __init__(self, why: str, path: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.path = [path] if path else []


_hints: Final[dict[type, Mapping[str, Any]]] = {}
_readers: Final[dict[Any, Read]] = {}


def _hints_of(kind: type) -> Mapping[str, Any]:
    if kind not in _hints:
        _hints[kind] = typing.get_type_hints(kind)
    return _hints[kind]


def _reader_of(hint: Any) -> Read:
    """Return what reads a value as `hint` has it."""
    if hint not in _readers:
        _readers[hint] = _make_reader(hint)
    return _readers[hint]


def _make_reader(hint: Any) -> Read:
    if hint is Any:
        return lambda value: value
    arguments = typing.get_args(hint)
    match typing.get_origin(hint):
        case types.UnionType:  # `X | None` is the only one that fields have
            read = _reader_of(arguments[0])
            return lambda value: None if value is None else read(value)
        case origin if origin is tuple and arguments[-1] is Ellipsis:
            return _make_list_reader(_reader_of(arguments[0]))
        case origin if origin is tuple:
            return _make_row_reader([_reader_of(each) for each in arguments])
        case origin if origin is Mapping:
            return _make_mapping_reader(_reader_of(arguments[1]))
    return _make_object_reader(hint) if dataclasses.is_dataclass(hint) else _make_plain_reader(hint)


def _make_object_reader(kind: Any) -> Read:
    readers = {name: _reader_of(hint) for name, hint in _hints_of(kind).items()}
    needed = [
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]

    def read(fields: Any) -> Any:
        if not isinstance(fields, Mapping):
            raise _unfit("an object", fields)
        found = {}
        name = ""
        try:
            for name, reader in readers.items():
                if name in fields:
                    found[name] = reader(fields[name])
        except _Misfit as misfit:
            misfit.path.append(f".{name}")
            raise
        for name in needed:
            if name not in found:
                raise _Misfit("is missing", f".{name}")
        return kind(**found)

    return read


def _make_list_reader(item: Read) -> Read:
    def read(values: Any) -> Any:
        if not isinstance(values, list | tuple):
            raise _unfit("a list", values)
        found: list[Any] = []
        try:
            for each in values:
                found.append(item(each))  # not a comprehension: an error names the place
        except _Misfit as misfit:
            misfit.path.append(f"[{len(found)}]")
            raise
        return tuple(found)

    return read


def _make_row_reader(items: list[Read]) -> Read:
    def read(values: Any) -> Any:
        if not isinstance(values, list | tuple):
            raise _unfit("a list", values)
        if len(values) != len(items):
            raise _Misfit(f"has {len(values)} values, not {len(items)}")
        found: list[Any] = []
        try:
            for item, each in zip(items, values, strict=True):
                found.append(item(each))
        except _Misfit as misfit:
            misfit.path.append(f"[{len(found)}]")
            raise
        return tuple(found)

    return read


def _make_mapping_reader(item: Read) -> Read:
    def read(values: Any) -> Any:
        if not isinstance(values, Mapping):
            raise _unfit("an object", values)
        name = ""
        found = {}
        try:
            for name, each in values.items():
                found[name] = item(each)
        except _Misfit as misfit:
            misfit.path.append(f".{name}")
            raise
        return found

    return read


def _make_plain_reader(kind: type) -> Read:
    """Return a reader of one of JSON's own types: a whole number is also a `float`, and a `bool` is no number."""

    def read(value: Any) -> Any:
        if type(value) is kind:
            return value
        if kind is float and type(value) is int:
            return float(value)
        raise _unfit(f"of type {kind.__name__}", value)

    return read


def _unfit(wanted: str, value: object) -> _Misfit:
    return _Misfit(f"is {value!r:.60}, not {wanted}")


def _as_json(value: Any) -> Any:
    if isinstance(value, Fields):
        return value.as_fields()
    if isinstance(value, Mapping):
        return {key: _as_json(each) for key, each in value.items()}
    return [_as_json(each) for each in value] if isinstance(value, tuple) else value
