"""Fields of a model: what its events have, and names that they can't have."""

from collections.abc import Collection
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from inspect import get_annotations
from typing import Any

from pydantic import BaseModel
from typing_extensions import is_typeddict

from pspf.errors import ConfigurationError


def fields_of(model: Any) -> Collection[str] | None:
    """Return the fields that events of a model have; None where they may have others, or that is unknown."""
    if not isinstance(model, type):
        return None
    if issubclass(model, BaseModel):
        return None if model.model_config.get("extra") == "allow" else model.model_fields
    if is_dataclass(model):
        return [field.name for field in fields(model)]
    if is_typeddict(model):
        return get_annotations(model)
    found: Collection[str] | None = getattr(model, "__struct_fields__", None)
    return found


def check_field(where: str, model: Any, name: str) -> None:
    """Raise ConfigurationError for a field's name that events of a model can't have."""
    known = fields_of(model)
    if known is None or name in known or hasattr(model, name):
        return
    near = get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(sorted(known)):.200}"
    raise ConfigurationError(f"{where}: {model.__name__} has no field {name!r}{hint}")
