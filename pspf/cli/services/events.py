"""Records made of JSON text, with errors that say where the text is wrong."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from pspf.cli.console import visible
from pspf.connectors.contract.limits import Limits
from pspf.errors import EventRejected, SchemaError
from pspf.events.encoding import encode
from pspf.records import NewRecord, encode_headers

_EXCERPT: Final = 30


@dataclass(frozen=True, slots=True)
class Recipe:
    """What an emit adds to each event: `event_type` and `event_id` replace the event's own."""

    limits: Limits
    key: str | None = None
    headers: Mapping[str, str] | None = None
    event_type: str | None = None
    event_id: str | None = None

    def make_record(self, text: str) -> NewRecord:
        """Return the record of one event.

        Raises:
            SchemaError: The text is no JSON object; the message has the position and an excerpt.
            EventRejected: The event can't be stored, or is larger than `limits` allow.
        """
        event = parse_event(text)
        if self.event_type is not None:
            event["event_type"] = self.event_type
        if self.event_id is not None:
            event["event_id"] = self.event_id
        record = encode(event, key=self.key, raw_headers=encode_headers(self.headers))
        self.limits.check(record)
        return record


def parse_event(text: str) -> dict[str, Any]:
    """Return the JSON object that `text` is.

    The standard library parses, because it keeps integers beyond 64 bits, which are then refused
    instead of silently rounded.

    Raises:
        SchemaError: It is no event; the message has the position and an excerpt.
    """
    try:
        event = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise SchemaError(_point_at(text, error)) from None
    except RecursionError:
        raise EventRejected("the JSON is nested too deep") from None
    except ValueError as error:  # an integer of more digits than Python converts, or NaN
        raise SchemaError(f"bad JSON: {error}") from None
    if not isinstance(event, dict):
        raise SchemaError(f'an event is a JSON object such as {{"amount": 12.5}}, not {_kind(event)}')
    return event


def decode_line(line: bytes) -> str:
    """Return a line of a file as text.

    Raises:
        SchemaError: It is not UTF-8; the message has the position.
    """
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise SchemaError(f"not UTF-8: byte 0x{line[error.start]:02x} at column {error.start + 1}") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _kind(value: object) -> str:
    names: dict[type, str] = {list: "an array", str: "a text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _point_at(text: str, error: json.JSONDecodeError) -> str:
    """Return the message with the line's part around the position and a caret under it."""
    start = text.rfind("\n", 0, error.pos) + 1
    end = text.find("\n", error.pos)
    line = text[start : end if end >= 0 else len(text)]
    column = error.pos - start
    left = max(0, column - _EXCERPT)
    before = visible(line[left:column])
    after = visible(line[column : column + _EXCERPT])
    dots = "..." if left else ""
    caret = " " * (len(dots) + len(before)) + "^"
    place = f"line {error.lineno}, column {error.colno}"
    return f"bad JSON at {place}: {error.msg}\n  {dots}{before}{after}\n  {caret}"
