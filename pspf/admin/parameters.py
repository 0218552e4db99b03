"""Request parameters: query strings and JSON bodies, parsed within bounds."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson
from starlette.requests import Request

from pspf.admin.http_error import HttpError
from pspf.admin.security import read_body

_MAX_CHARACTERS: Final = 1_024


def check_query(request: Request, allowed: Sequence[str]) -> None:
    """Raise Trouble 400 where a query has a parameter that is unknown or there twice: a typo would widen the answer."""
    given = [name for name, _ in request.query_params.multi_items()]
    for name in given:
        if name not in allowed:
            known = f"there is {', '.join(allowed)}" if allowed else "there is none"
            raise HttpError(400, f"no parameter {name!r:.40} here; {known}")
        if given.count(name) > 1:
            raise HttpError(400, f"{name} is there twice")


def text_of(request: Request, name: str) -> str | None:
    """Return a query parameter, None where it is missing or empty. Trouble 400: it is too long."""
    text = request.query_params.get(name)
    if text is not None and len(text) > _MAX_CHARACTERS:
        raise HttpError(400, f"{name} is longer than {_MAX_CHARACTERS:,} characters")
    return text or None


def number_of(request: Request, name: str, *, default: int, most: int) -> int:
    """Return a query parameter from 0 to `most`. Trouble 400: it is no such number."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= most):
        raise HttpError(400, f"{name} is a number from 0 to {most:,}, not {text!r:.40}")
    return int(text)


async def body_of(request: Request, allowed: Mapping[str, type]) -> dict[str, Any]:
    """Return the JSON object of a body, `{}` where it is empty; a null field counts as missing.

    Raises:
        Trouble: 400: it is no JSON object, or has a field of another name or type; 413: it is too large.
    """
    raw = await read_body(request.receive)
    if not raw.strip():
        return {}
    try:
        fields = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise HttpError(400, f"the body is no JSON: {error}") from None
    if not isinstance(fields, dict):
        raise HttpError(400, "the body is no JSON object")
    for name, value in fields.items():
        if name not in allowed:
            raise HttpError(400, f"no field {name!r:.40} here; there is {', '.join(allowed)}")
        if value is not None and type(value) is not allowed[name]:
            raise HttpError(400, f"{name} is no {allowed[name].__name__}")
        if isinstance(value, str) and len(value) > _MAX_CHARACTERS:
            raise HttpError(400, f"{name} is longer than {_MAX_CHARACTERS:,} characters")
    return {name: value for name, value in fields.items() if value is not None}
