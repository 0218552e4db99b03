"""Round-trip check of models: one whose JSON it could not read back is refused at its first event.

What a serializer or a validator (before, wrap, plain) of the user's does with a value is not looked into.
"""

from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from functools import lru_cache
from typing import Any, Final

from pydantic import BaseModel, PydanticUserError, TypeAdapter
from pydantic.errors import PydanticUndefinedAnnotation

from pspf.errors import EventRejected

_Schema = Mapping[str, Any]
_OPAQUE: Final = ("function-before", "function-wrap", "function-plain")
_OF_FIELDS: Final = ("model-field", "dataclass-field", "typed-dict-field")
_KEYS_WITHOUT_WAY_BACK: Final = ("tuple", "list", "set", "frozenset")
_WAY_OUT: Final = "or emit a dict, for readers of your own: event.model_dump(mode='json', by_alias=True)"


@lru_cache(1024)
def writes_json_as_text(model: type) -> bool:
    """Return whether a model has `Json` fields, which are read from text and so have to be written as text.

    Raises:
        EventRejected: It can't read what it writes, and each event of it would be lost at its reader.
    """
    schema = _schema_of(model)
    if schema is None:
        return False
    problem, has_json = _look_through(schema)
    if problem is not None:
        raise EventRejected(f"{model.__name__} could not be read back: {problem}; {_WAY_OUT}")
    if has_json and _has_computed_fields(schema):
        raise EventRejected(
            f"{model.__name__} could not be read back: it has a Json field, which is written as text, and computed"
            f" fields, which pydantic leaves out then; declare the Json field as what it holds, {_WAY_OUT}"
        )
    if has_json and not hasattr(model, "__pydantic_serializer__"):
        raise EventRejected(
            f"{model.__name__} could not be read back: it has a Json field, and is no model of pydantic's; declare the"
            " field as what it holds"
        )
    return has_json


def why_no_way_back(model: Any) -> str | None:
    """Return why the JSON of `model`, any annotation, can't be read back; None where it can."""
    try:
        problem, has_json = _look_through(TypeAdapter(model).core_schema)
    except (PydanticUserError, PydanticUndefinedAnnotation, NameError):
        return None
    return problem or ("a Json field is written as what it holds, and read from text" if has_json else None)


def _look_through(schema: _Schema) -> tuple[str | None, bool]:
    """Return the first thing that is wrong with a schema, None without one, and whether it has `Json` in it."""
    has_json = False
    for where, node, problem in _walk(schema, "", {}, dict(_find_definitions(schema)), set()):
        if problem is not None:
            return f"{where} {problem}", has_json
        has_json = has_json or node["type"] == "json"
    return None, has_json


def _schema_of(model: type) -> _Schema | None:
    if issubclass(model, BaseModel):
        schema: Any = model.__pydantic_core_schema__
        return schema if isinstance(schema, Mapping) and "type" in schema else None
    if not is_dataclass(model):
        return None
    try:
        return TypeAdapter(model).core_schema
    except (PydanticUserError, PydanticUndefinedAnnotation, NameError):
        return None  # it may be written all the same, and its reader gets the error


def _find_definitions(node: Any) -> Iterator[tuple[str, _Schema]]:
    if isinstance(node, Mapping):
        if isinstance(node.get("ref"), str):
            yield node["ref"], node
        children: Any = node.values()
    elif isinstance(node, list | tuple):
        children = node
    else:
        return
    for child in children:
        yield from _find_definitions(child)


def _walk(
    node: Any, where: str, config: _Schema, definitions: Mapping[str, _Schema], seen: set[str]
) -> Iterator[tuple[str, _Schema, str | None]]:
    """Yield (path, schema, problem) of all parts that pydantic alone writes and reads."""
    if isinstance(node, list | tuple):
        for child in node:
            yield from _walk(child, where, config, definitions, seen)
        return
    if not isinstance(node, Mapping):
        return
    kind = node.get("type")
    if kind == "definition-ref":
        reference = node["schema_ref"]
        if reference not in seen and reference in definitions:
            yield from _walk(definitions[reference], where, config, definitions, seen)
        return
    if kind in _OPAQUE or _is_written_by_a_function(node):
        return
    if isinstance(node.get("ref"), str):
        if node["ref"] in seen:
            return
        seen = seen | {node["ref"]}
    if kind in ("model", "dataclass", "typed-dict"):
        config = node.get("config") or {}
    if isinstance(kind, str):
        yield where or "it", node, _problem_of_value(kind, node, config)
    for name, field in _fields_of(node):
        place = f"{where}.{name}" if where else name
        yield place, field, _problem_of_field(name, field, config)
        if not field.get("serialization_exclude"):
            yield from _walk(field["schema"], place, config, definitions, seen)
    if kind not in ("model-fields", "dataclass-args", "typed-dict"):
        for name, child in node.items():
            if name not in ("serialization", "metadata", "config", "default", "definitions"):
                yield from _walk(child, where, config, definitions, seen)


def _is_written_by_a_function(node: _Schema) -> bool:
    return str((node.get("serialization") or {}).get("type", "")).startswith("function-")


def _fields_of(node: _Schema) -> Iterator[tuple[str, _Schema]]:
    fields = node.get("fields")
    if node.get("type") in ("model-fields", "typed-dict") and isinstance(fields, Mapping):
        yield from fields.items()
    elif node.get("type") == "dataclass-args" and isinstance(fields, list):
        for field in fields:
            yield field["name"], field


def _problem_of_field(name: str, field: _Schema, config: _Schema) -> str | None:
    if field.get("serialization_exclude"):
        inner = field["schema"]
        if inner.get("type") == "default" or field.get("required") is False:
            return None
        return "is not written (exclude=True), and has no default"
    written = field.get("serialization_alias") or name
    alias = field.get("validation_alias")
    if alias is None or not config.get("validate_by_alias", True):
        read = [[name]]
    else:
        read = [[alias]] if isinstance(alias, str) else [list(each) for each in _choices(alias)]
        if config.get("validate_by_name") or config.get("populate_by_name"):
            read.append([name])
    if [written] in read:
        return None
    names = " or ".join(".".join(map(str, path)) for path in read)
    return f"is written as {written!r} and read from {names!r}: give it alias=, which is both"


def _choices(alias: Any) -> Any:
    return alias if alias and isinstance(alias[0], list | tuple) else [alias]


def _problem_of_value(kind: str, node: _Schema, config: _Schema) -> str | None:
    if kind == "bytes":
        written, read = config.get("ser_json_bytes", "utf8"), config.get("val_json_bytes", "utf8")
        if written != read:
            return f"is bytes, written as {written} and read as {read}: set ser_json_bytes and val_json_bytes alike"
    if kind == "dict" and (node.get("keys_schema") or {}).get("type") in _KEYS_WITHOUT_WAY_BACK:
        return "has keys that are no text and that JSON writes as text: use text keys, or a list of pairs"
    return None


def _has_computed_fields(node: Any) -> bool:
    if isinstance(node, Mapping):
        return bool(node.get("computed_fields")) or any(map(_has_computed_fields, node.values()))
    return isinstance(node, list | tuple) and any(map(_has_computed_fields, node))
