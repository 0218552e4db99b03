"""State values as JSON bytes."""

from collections.abc import Callable
from typing import Any

import orjson
from pydantic import BaseModel

from pspf.compact import compact
from pspf.errors import EventRejected
from pspf.events import codec


def encode_value(name: str, value: object, default: Callable[[Any], Any] | None = None, *, hint: str = "") -> bytes:
    """Return a state value as JSON; `default` converts other values to JSON, where they are read back equal.

    `hint` ends the error, where there is another way.

    Raises:
        EventRejected: JSON can't hold it.
    """
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    try:
        encoded = orjson.dumps(plain) if default is None else orjson.dumps(plain, default)
    except (orjson.JSONEncodeError, RecursionError) as error:
        raise EventRejected(
            f"state {name!r} can't be stored as JSON: {error.__cause__ or error}; store a number or text (a Decimal"
            f" as str(value)) and turn it back after get{hint}"
        ) from error
    if encoded.find(b"null") >= 0:
        codec.check_finite({name: plain})
    if codec.STAR in encoded and encoded.find(codec.STARS) >= 0:
        codec.check_no_secrets({name: value})
    return compact(encoded)
