"""The JSON codec: finite numbers, valid UTF-8, at most `MAX_DEPTH` levels.

JSON has no NaN and no infinity. Libraries write them as `null` or read `1e400` as infinity;
here they are refused in both directions, because an event must not change on its way.
"""

import re
from collections import deque
from dataclasses import fields, is_dataclass
from math import isfinite
from typing import Any, Final
from uuid import UUID

import orjson
from pydantic import BaseModel, Secret, SecretBytes, SecretStr, ValidationError
from pydantic_core import from_json, to_jsonable_python

from pspf.compact import compact
from pspf.errors import EventRejected, SchemaError

MAX_DEPTH: Final = 100

# The first letters of the two words: a search for one byte costs a fifth of one for a word.
LETTER_N: Final = ord("N")
LETTER_I: Final = ord("I")

_MESSAGE_CHARS: Final = 300
_NON_FINITE: Final = re.compile(rb"NaN|Infinity")


def dumps(tree: Any) -> bytes:
    """Return `tree` as JSON.

    Besides JSON's own types it takes what pydantic can turn into JSON: datetime, date, time, UUID,
    Enum, dataclass, pydantic model; as text Decimal, timedelta, Path, bytes (UTF-8); as arrays tuple,
    set, frozenset, deque.

    Raises:
        EventRejected: Another type, a key that is no str, an integer of more than 64 bits, a lone
            surrogate, NaN, infinity, a secret, or more than `MAX_DEPTH` levels.
    """
    try:
        value = orjson.dumps(tree, to_jsonable_python)
    except orjson.JSONEncodeError as error:
        reason = error.__cause__ or error
        raise EventRejected(f"can't be stored as JSON: {reason}"[:_MESSAGE_CHARS]) from error
    # orjson writes NaN as null. `find` because `in` costs twice as much on bytes.
    if value.find(b"null") >= 0:
        check_finite(tree)
    if STAR in value and value.find(STARS) >= 0:
        check_no_secrets(tree)
    check_depth(value)
    return compact(value)


def loads(value: bytes) -> dict[str, Any]:
    """Return the JSON object in `value`. Of a name that comes twice the last one counts.

    Raises:
        ValueError: It is no JSON, no object, or has a number that no float can hold.
    """
    # Not orjson: it turns integers of more than 64 bits into floats.
    tree = from_json(value, allow_inf_nan=False)
    if not isinstance(tree, dict):
        raise ValueError(f"is no JSON object but {_JSON_NAMES.get(type(tree), 'a scalar')}")
    refuse_non_finite(tree)
    return tree


_JSON_NAMES: Final = {list: "an array", str: "a string", type(None): "null", bool: "a boolean"}


def check_finite(tree: Any) -> None:
    """Raise EventRejected where a float in `tree` (models and dataclasses included) is NaN or infinite."""
    path = find_non_finite(to_jsonable_python(tree))
    if path is not None:
        raise EventRejected(f"can't be stored as JSON: {path} is NaN or infinite")


def find_non_finite(tree: Any, path: str = "") -> str | None:
    """Return where the first float that is NaN or infinite stands (`a.b[3]`), None without one."""
    if isinstance(tree, float):
        return None if isfinite(tree) else path or "the value"
    if isinstance(tree, dict):
        for name, value in tree.items():
            if type(value) is not str and (found := find_non_finite(value, f"{path}.{name}" if path else name)):
                return found
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            if type(value) is not str and (found := find_non_finite(value, f"{path}[{index}]")):
                return found
    return None


STARS: Final = b'"**********"'
"""What JSON has of a secret of pydantic's."""
STAR: Final = STARS[1]
"""An integer: to ask whether it is in bytes takes a fifth of the time of `find`, and in most payloads it is not."""


def check_no_secrets(tree: Any) -> None:
    """Raise EventRejected where `tree` (models and dataclasses included) has a secret: JSON would have stars of it."""
    path = _find_secret(tree, "")
    if path is not None:
        raise EventRejected(
            f"can't be stored as JSON: {path or 'the value'} is a secret, of which only stars would be kept;"
            " declare it as str, or give it a serializer"
        )


def _find_secret(tree: Any, path: str) -> str | None:
    if isinstance(tree, Secret | SecretStr | SecretBytes):
        return path
    if isinstance(tree, BaseModel):
        tree = tree.model_dump()
    elif is_dataclass(tree) and not isinstance(tree, type):
        tree = {field.name: getattr(tree, field.name) for field in fields(tree)}
    if isinstance(tree, dict):
        parts = [(f"{path}.{name}" if path else str(name), value) for name, value in tree.items()]
    elif isinstance(tree, list | tuple | set | frozenset | deque):
        parts = [(f"{path}[{index}]", value) for index, value in enumerate(tree)]
    else:
        return None
    return next((found for where, value in parts if (found := _find_secret(value, where)) is not None), None)


def may_have_non_finite_tokens(value: bytes) -> bool:
    """Return whether JSON, or several of it one behind the other, has the words NaN or Infinity, be it in strings."""
    return (LETTER_N in value or LETTER_I in value) and _NON_FINITE.search(value) is not None


def refuse_non_finite_tokens(value: bytes) -> None:
    """Raise ValueError where JSON has the words NaN or Infinity outside of strings."""
    if may_have_non_finite_tokens(value):
        try:
            from_json(value, allow_inf_nan=False)
        except ValueError as error:
            raise ValueError("NaN and Infinity are not JSON") from error


def refuse_non_finite(tree: dict[str, Any]) -> None:
    """Raise ValueError where a number of `tree` is NaN or infinite (as 1e400 is, once read)."""
    path = find_non_finite(tree)
    if path is not None:
        raise ValueError(f"{path} is a number that no float can hold")


def check_depth(value: bytes) -> None:
    """Raise EventRejected where JSON is deeper than `MAX_DEPTH` arrays and objects."""
    # Each level takes two bytes at least, and most events have fewer brackets than levels allowed.
    if len(value) <= 2 * MAX_DEPTH or value.count(b"{") + value.count(b"[") <= MAX_DEPTH:
        return
    try:
        level: list[Any] = [from_json(value)]
    except ValueError as error:  # deeper than the parser goes
        raise EventRejected(f"can't be stored as JSON: {error}"[:_MESSAGE_CHARS]) from error
    depth = 0
    while level:
        depth += 1
        children = (child for node in level for child in (node.values() if isinstance(node, dict) else node))
        level = [child for child in children if isinstance(child, dict | list)]
    if depth > MAX_DEPTH:
        raise EventRejected(f"{depth} levels deep; at most {MAX_DEPTH} are stored")


def text_of(name: str, value: object) -> str:
    """Return an id or a key as text: str as it is, int and UUID converted.

    Raises:
        EventRejected: It is of another type.
    """
    if isinstance(value, str):
        return str.__str__(value)  # the text of an Enum member, not its name
    if isinstance(value, int | UUID) and not isinstance(value, bool):
        return str(value)
    raise EventRejected(f"{name} is text or an integer, not {type(value).__name__}")


def cause_of(error: Exception) -> Exception | None:
    """Return what a SchemaError names as its cause: None for a ValidationError.

    Its text, which tracebacks would show, can be longer than the payload.
    """
    return None if isinstance(error, ValidationError) else error


def schema_error(name: str, error: Exception) -> SchemaError:
    """Return why a payload is no `name`: the first reasons, in at most 300 characters, without the payload."""
    if isinstance(error, SchemaError):
        return error
    if isinstance(error, ValidationError):
        details = error.errors(include_url=False, include_context=False, include_input=False)
        reasons = [f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}".removeprefix(": ") for detail in details[:3]]
        if len(details) > len(reasons):
            reasons.append(f"and {len(details) - len(reasons)} more")
        reason = "; ".join(reasons)
    else:
        reason = f"{error}" if type(error) is ValueError else f"{type(error).__name__}: {error}"
    message = f"payload is no {name}: {reason}"
    return SchemaError(message if len(message) <= _MESSAGE_CHARS else f"{message[: _MESSAGE_CHARS - 1]}…")
