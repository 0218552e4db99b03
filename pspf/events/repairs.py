"""Repair of payloads that a model refuses for no fault of theirs: computed fields, nulls where there is a default."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import to_json

from pspf.events import codec

_MADE_UP: Final = ("event_id", "event_type", "timestamp")
"""Fields of the envelope that a record has a value for: null counts as not set, as other languages write it."""


def repair(value: bytes, error: ValidationError, computed: frozenset[str]) -> bytes | None:
    """Return a payload that its model refused, without nulls and computed fields; None where it has none.

    `computed` are the names of computed fields (see `computed_names`): a model that forbids other fields writes
    them and refuses them.
    """
    try:
        tree = codec.loads(value)
    except ValueError:
        return None
    nulls = [name for name in _MADE_UP if name in tree and tree[name] is None]
    for name in nulls:
        del tree[name]
    extra = [
        detail["loc"]
        for detail in error.errors(include_url=False, include_context=False, include_input=False)
        if detail["type"] in ("extra_forbidden", "unexpected_keyword_argument") and detail["loc"][-1] in computed
    ]
    for place in extra:
        _remove(tree, place)
    return to_json(tree) if nulls or extra else None


def _remove(tree: Any, place: Sequence[int | str]) -> None:
    """Remove the value at a path; names in it that are not in the tree are those of a union's members."""
    node = tree
    for step in place[:-1]:
        if isinstance(node, dict):
            node = node.get(step, node)
        elif isinstance(node, list) and isinstance(step, int):
            node = node[step]
    if isinstance(node, dict):
        node.pop(place[-1], None)


def computed_names(core_schema: Mapping[str, Any]) -> frozenset[str]:
    """Return the names, as JSON has them, of all computed fields of a model and of the models inside it."""
    return frozenset(_find_computed(core_schema))


def _find_computed(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        for field in node.get("computed_fields") or ():
            yield field["property_name"]
            if "alias" in field:
                yield field["alias"]
        for child in node.values():
            yield from _find_computed(child)
    elif isinstance(node, list | tuple):
        for child in node:
            yield from _find_computed(child)


_NO_OBJECTS: Final = re.compile(
    "none|bool|int|float|decimal|complex|str|bytes|date|time|datetime|timedelta|literal|enum|uuid|url|multi-host-url"
    "|list|tuple|set|frozenset|generator|callable"
)
_AROUND: Final = ("schema", "json_schema", "lax_schema")


def takes_objects(core_schema: Mapping[str, Any]) -> bool:
    """Return whether a type can be read from a JSON object, as far as its schema tells."""
    kind = core_schema["type"]
    if kind in ("union", "tagged-union"):
        choices = core_schema["choices"]
        members = choices.values() if isinstance(choices, Mapping) else choices
        return any(takes_objects(each[0] if isinstance(each, tuple) else each) for each in members)
    if kind.startswith("function-") and kind != "function-after":
        return True  # a function of the user's may make anything of it
    if _NO_OBJECTS.fullmatch(kind):
        return False
    inner = next((core_schema[name] for name in _AROUND if name in core_schema), None)
    if kind in ("model", "dataclass", "custom-error") or not isinstance(inner, Mapping):
        return True
    return takes_objects(inner)
