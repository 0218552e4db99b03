"""Response models of the endpoints: the names that clients may rely on, for /openapi.json and /docs.

A shape is a type, `Maybe(shape)` for what may be null, `[shape]` for a list, or names with their shapes. A name
that ends in `?` is not always there. Times end in `_ms` (milliseconds, UTC) or `_seconds`; an unknown value is null.
"""

import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pspf.observability.fields import Fields
from pspf.observability.worker_status import WorkerStatus

Shape = Any


@dataclass(frozen=True, slots=True)
class Maybe:
    """What may be null."""

    shape: Shape


ANY: Final = object
"""A value of the user's own."""
_TYPES: Final = {str: "string", int: "integer", float: "number", bool: "boolean", dict: "object"}
_WORDS: Final = {str: "text", int: "int", float: "number", bool: "bool", dict: "{...}", ANY: "any"}

_LINE: Final = 80


def shape_of(kind: type) -> dict[str, Shape]:
    """Return the shape of a status, as `as_fields` gives it."""
    return {name: _shape_of(hint) for name, hint in typing.get_type_hints(kind).items()}


def _shape_of(hint: Any) -> Shape:
    arguments = typing.get_args(hint)
    if type(None) in arguments:
        return Maybe(_shape_of(arguments[0]))
    if typing.get_origin(hint) is tuple:
        return [_shape_of(arguments[0])]
    return shape_of(hint) if issubclass(hint, Fields) else hint


HEALTH: Final = {"status": str, "version?": str, "reason?": str}
READY: Final = {"ready": bool, "state": Maybe(str), "why": [str]}

_HANDLER: Final = {"topic": str, "group": str, "handler": str}
STATUS: Final = {
    "worker": str,
    "version": str,
    "host": str,
    "pid": int,
    "app": str,
    "started_ms": int,
    "age_ms": int,
    "broker": {"name": str, "connected": Maybe(bool), "error": Maybe(str)},
    "log_level": str,
    **shape_of(WorkerStatus),
}
TOPOLOGY: Final = {
    "app": str,
    "broker": str,
    "topics": [{"topic": str, "role": str, "partitions": Maybe(int), "records": Maybe(int)}],
    "handlers": [
        {
            **_HANDLER,
            "topics": [str],
            "ordering": str,
            "model": Maybe(str),
            "window": Maybe(str),
            "to": Maybe(str),
            "emits": [str],
            "concurrency": int,
            "processes": int,
            "running": int,
            "processed": int,
            "failed": int,
            "retried": int,
            "dead": int,
            "late": int,
            "batches": int,
            "rate": float,
            "last_commit_ms": Maybe(int),
            "busy_ms": int,
        }
    ],
}
LAG: Final = {
    "groups": [
        {
            "group": str,
            "topic": str,
            "handler": Maybe(str),
            "ordering": str,
            "partitions": [
                {
                    "partition": int,
                    "committed": Maybe(str),
                    "end": Maybe(str),
                    "lag": Maybe(int),
                    "pending": int,
                    "oldest_pending_ms": Maybe(int),
                    "owner": Maybe(str),
                    "watermark_ms": Maybe(int),
                    "lag_seconds": Maybe(float),
                }
            ],
            "lag": Maybe(int),
            "pending": int,
            "lag_seconds": Maybe(float),
            "watermark_delay_seconds": Maybe(float),
        }
    ],
    "lag": Maybe(int),
    "lag_seconds": Maybe(float),
    "age_ms": int,
}
STATE: Final = {
    "state": [{**_HANDLER, "partition": int, "key": str, "name": str, "value": ANY}],
    "truncated": bool,
}
_LETTER: Final = {
    **_HANDLER,
    "id": str,
    "attempts": int,
    "error_type": str,
    "error": str,
    "original_id": str,
    "dead_at_ms": int,
}
DLQ: Final = {
    "dead_letters": [_LETTER],
    "total": int,
    "by_error": [{"error_type": str, "handler": str, "topic": str, "count": int}],
}
DEAD_LETTER: Final = {
    **_LETTER,
    "partition": int,
    "traceback": str,
    "key": Maybe(str),
    "headers": dict,
    "event": ANY,
    "raw?": str,
}
DONE: Final = {"ok": str}
REPLAYED: Final = {"replayed": int, "left": int}


def as_schema(shape: Shape) -> dict[str, Any]:
    """Return a shape as a JSON schema."""
    match shape:
        case Maybe(inner):
            return {"anyOf": [as_schema(inner), {"type": "null"}]}
        case [inner]:
            return {"type": "array", "items": as_schema(inner)}
        case Mapping():
            return {
                "type": "object",
                "properties": {name.removesuffix("?"): as_schema(inner) for name, inner in shape.items()},
                "required": [name for name in shape if not name.endswith("?")],
            }
        case _:
            return {"type": _TYPES[shape]} if shape in _TYPES else {}


def as_text(shape: Shape, indent: str = "") -> str:
    """Return a shape for people, one name a line where a line would be long: `{"ready": bool, "why": [text]}`."""
    match shape:
        case Maybe(inner):
            return f"{as_text(inner, indent)} | null"
        case [inner]:
            return f"[{as_text(inner, indent)}]"
        case Mapping():
            deeper = indent + "  "
            names = [f'"{name}": {as_text(inner, deeper)}' for name, inner in shape.items()]
            line = "{" + ", ".join(names) + "}"
            if len(indent) + len(line) <= _LINE:
                return line
            return "{\n" + "".join(f"{deeper}{name},\n" for name in names) + indent + "}"
        case _:
            return _WORDS[shape]
