"""Whether an answer of the admin has the names that its document says, and no others."""

import re
from collections.abc import Mapping
from typing import Any

from pspf.admin.answers import ANY, Maybe, Shape
from pspf.admin.app import ENDPOINTS


def shape_of(method: str, path: str) -> Shape:
    """Return what is documented of the answer to a request."""
    (found,) = (
        endpoint.answers
        for endpoint in ENDPOINTS
        if endpoint.method == method and re.fullmatch(re.sub(r"{\w+}", "[^/]+", endpoint.path), path.partition("?")[0])
    )
    return found


def misfits(shape: Shape, value: Any, where: str = "answer") -> list[str]:
    """Return where a value is not of a shape."""
    match shape:
        case Maybe(inner):
            return [] if value is None else misfits(inner, value, where)
        case [inner]:
            if not isinstance(value, list):
                return [f"{where} is no list"]
            return [text for n, each in enumerate(value) for text in misfits(inner, each, f"{where}[{n}]")]
        case Mapping():
            if not isinstance(value, dict):
                return [f"{where} is no object"]
            known = {name.removesuffix("?"): inner for name, inner in shape.items()}
            found = [f"{where}.{name} is not documented" for name in value.keys() - known.keys()]
            found += [f"{where}.{name} is missing" for name in shape.keys() - value.keys() if not name.endswith("?")]
            both = known.keys() & value.keys()
            return found + [text for name in both for text in misfits(known[name], value[name], f"{where}.{name}")]
        case _:
            kinds = {float: (int, float), ANY: (object,)}.get(shape, (shape,))
            return [] if isinstance(value, kinds) else [f"{where} is {value!r}"]
