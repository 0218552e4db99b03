"""Encoding: from an event to the bytes that are stored."""

from copy import copy
from dataclasses import fields, is_dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from inspect import getattr_static
from typing import Any, Final

from pydantic import BaseModel, TypeAdapter
from pydantic_core import PydanticSerializationError, to_json

from pspf.errors import EventRejected
from pspf.events import codec
from pspf.events.event import BaseEvent, is_struct, setter_for, type_name
from pspf.events.round_trips import writes_json_as_text
from pspf.events.timestamps import datetime_of, ms_of
from pspf.records import NewRecord

GENERIC_EVENT: Final = "GenericEvent"
"""The `event_type` of a dict that has none."""

_GENERIC_START: Final = b'{"event_type":"GenericEvent",'
_new_tuple: Final[Any] = tuple.__new__  # half the price of NewRecord(...)


def encode(event: object, *, key: str | None = None, raw_headers: bytes | None = None) -> NewRecord:
    """Return `event`, a model, a dataclass, a msgspec Struct or a dict, as it is stored; itself it stays as it is.

    Without an `event_type` it gets the class's name, a dict `GenericEvent`. The key is `key`, else
    the event's `key` field or property (text, an integer or a UUID), else none. Models are written by alias.
    `event_id` is set only where the caller chose it: then it de-duplicates. Of a dataclass or a Struct
    it is the caller's wherever it is not None.

    Raises:
        EventRejected: It is of another type, no JSON object that `codec.dumps` takes, or its model could not read it.
    """
    if isinstance(event, dict):
        value = codec.dumps(event)
        event_type = event.get("event_type")
        if not event_type:
            if event and "event_type" not in event:
                value = _GENERIC_START + value[1:]
            else:
                value = _with_type(value, GENERIC_EVENT, replace=bool(event))
        elif not isinstance(event_type, str):
            raise EventRejected(f"event_type is text, not {type(event_type).__name__}")
        event_id = event.get("event_id")
        own_key = event.get("key") if key is None else key
    elif isinstance(event, BaseModel):
        value = _dump_model(event)
        event_id = _own_id(event)
        own_key = _field(event, "key") if key is None else key
    elif is_struct(type(event)) or (is_dataclass(event) and not isinstance(event, type)):
        value = _dump_plain(event)
        event_id = getattr(event, "event_id", None)
        own_key = getattr(event, "key", None) if key is None else key
    else:
        raise EventRejected(
            f"an event is a pydantic model, a dataclass, a msgspec Struct or a dict, not {_describe(event)}"
        )
    if event_id is not None and (type(event_id) is not str or not event_id):
        event_id = codec.text_of("event_id", event_id)
        if not event_id:
            raise EventRejected("event_id is empty; leave it out, or give each event its own")
    raw_key = None if own_key is None else _encode_key(own_key)
    record: NewRecord = _new_tuple(NewRecord, (raw_key, value, raw_headers, None, event_id))
    return record


def encode_at(
    event: object,
    time_ms: int,
    *,
    key: str | None = None,
    raw_headers: bytes | None = None,
    timestamp: datetime | None = None,
) -> NewRecord:
    """Return an event as `encode` does, of the event time `time_ms` unless it has a timestamp of its own.

    Its own is one that was set: a model's default is not. `timestamp` comes before both. Errors as in `encode`.
    """
    own, is_own = _timestamp_of(event)
    if timestamp is None and (is_own or (own is not None and not isinstance(own, datetime))):
        return encode(event, key=key, raw_headers=raw_headers)
    if timestamp is not None:
        time_ms = ms_of(timestamp)
    at = datetime_of(time_ms)
    if own is not None and at is not None:
        event = _with_timestamp(event, at if not isinstance(own, str) else at.isoformat())
    return encode(event, key=key, raw_headers=raw_headers)._replace(timestamp_ms=time_ms)


def has_own_timestamp(event: object) -> bool:
    """Return whether an event's timestamp was set: a model's default is not."""
    return _timestamp_of(event)[1]


def _timestamp_of(event: object) -> tuple[Any, bool]:
    """Return an event's timestamp, and whether it was set."""
    if isinstance(event, dict):
        own = event.get("timestamp")
    elif isinstance(event, BaseModel):
        own = _field(event, "timestamp")
        is_set = "timestamp" in event.__pydantic_fields_set__ or "timestamp" not in type(event).model_fields
        return own, own is not None and is_set
    else:
        own = getattr(event, "timestamp", None)
    return own, own is not None


def _with_timestamp(event: Any, timestamp: object) -> Any:
    if isinstance(event, dict):
        return {**event, "timestamp": timestamp.isoformat() if isinstance(timestamp, datetime) else timestamp}
    if isinstance(event, BaseModel):
        return event.model_copy(update={"timestamp": timestamp})
    named = copy(event)
    setter_for(type(event))(named, "timestamp", timestamp)
    return named


def _encode_key(key: object) -> bytes:
    try:
        return (key if type(key) is str else codec.text_of("key", key)).encode()
    except UnicodeEncodeError as error:
        raise EventRejected(f"key {key!r:.80} can't be written as UTF-8") from error


def _describe(event: object) -> str:
    return f"the class {event.__name__}" if isinstance(event, type) else type(event).__name__


def _field(event: BaseModel, name: str) -> Any:
    """Return a field or extra field of a model, None without it (a method of the name does not count)."""
    value = event.__dict__.get(name)
    if value is None and event.__pydantic_extra__:
        value = event.__pydantic_extra__.get(name)
    if value is None and (attribute := _attribute_for(type(event), name)) is not None:
        return getattr(event, attribute)
    return value


def _own_id(event: BaseModel) -> Any:
    """Return the `event_id` that the caller chose, None where it was made up."""
    if "event_id" in event.__pydantic_fields_set__:
        return getattr(event, "event_id", None)
    attribute = _attribute_for(type(event), "event_id")
    return None if attribute is None else getattr(event, attribute)


@lru_cache(1024)
def _attribute_for(model: type[BaseModel], name: str) -> str | None:
    """Return the attribute that a model computes for `name`, or writes under it; None of a field of that name."""
    if name in model.model_fields:
        return None
    if isinstance(getattr_static(model, name, None), property | cached_property):
        return name
    declared: dict[str, Any] = {**model.model_fields, **model.model_computed_fields}
    aliases = {getattr(field, "serialization_alias", None) or field.alias: at for at, field in declared.items()}
    return name if name in model.model_computed_fields else aliases.get(name)


def _with_type(value: bytes, event_type: str, *, replace: bool) -> bytes:
    """Return the JSON object `value` with an `event_type`, without parsing it where it has none."""
    if replace:
        return to_json({**codec.loads(value), "event_type": event_type})
    head = b'{"event_type":' + to_json(event_type)
    return head + b"}" if value == b"{}" else head + b"," + value[1:]


def _dump_model(event: BaseModel) -> bytes:
    try:
        # By alias, as the decoder reads by alias.
        if writes_json_as_text(type(event)):
            value = event.__pydantic_serializer__.to_json(event, by_alias=True, round_trip=True)
        else:
            value = event.__pydantic_serializer__.to_json(event, by_alias=True)
    except (PydanticSerializationError, RecursionError) as error:
        raise EventRejected(f"{type(event).__name__} can't be stored as JSON: {error!s:.200}") from error
    try:
        codec.refuse_non_finite_tokens(value)
    except ValueError as error:
        raise EventRejected(f"{type(event).__name__} can't be stored as JSON: {error}") from error
    codec.check_depth(value)
    if codec.STAR in value and value.find(codec.STARS) >= 0:
        codec.check_no_secrets(event)
    if isinstance(event, BaseEvent):
        event_type = event.event_type
    else:
        if not value.startswith(b"{"):
            raise EventRejected(f"{type(event).__name__} is no JSON object")
        if value.find(b"null") >= 0:  # models of others write NaN as null
            codec.check_finite(event.model_dump(by_alias=True))
        event_type = _field(event, "event_type")
    if event_type:
        return value
    model = type(event)
    named = getattr(model, "event_type", None)  # a ClassVar
    has_field = "event_type" in model.model_fields or "event_type" in (event.__pydantic_extra__ or {})
    return _with_type(value, named if isinstance(named, str) and named else type_name(model), replace=has_field)


def identify(event: Any, event_id: str) -> Any:
    """Return an event with an id, unless the caller chose one; where there is no place for it, as it is."""
    if isinstance(event, dict):
        return event if "event_id" in event else {**event, "event_id": event_id}
    if isinstance(event, BaseModel):
        if "event_id" in event.__pydantic_fields_set__ or "event_id" not in type(event).model_fields:
            return event
        return event.model_copy(update={"event_id": event_id})
    if getattr(event, "event_id", "") is not None:
        return event
    named = copy(event)
    setter_for(type(event))(named, "event_id", event_id)
    return named


def _dump_plain(event: Any) -> bytes:
    """Return a dataclass or a Struct as JSON, with an `event_type`."""
    model: Any = type(event)
    if is_struct(model):
        from pspf.events import structs

        value = structs.dump(event)
        names: frozenset[str] = structs.names_in_json(model)
    else:
        as_text = writes_json_as_text(model)
        if _is_pydantics(model):
            value = codec.dumps(TypeAdapter(model).dump_python(event, by_alias=True, round_trip=as_text))
        else:
            value = codec.dumps(event)
        names = frozenset(field.name for field in fields(model))
    event_type = getattr(event, "event_type", None)
    if not isinstance(event_type, str) or not event_type:
        event_type = type_name(model)
    if "event_type" not in names:
        return _with_type(value, event_type, replace=False)
    # A Struct's tag is in its JSON, and no attribute.
    return value if getattr(event, "event_type", True) else _with_type(value, event_type, replace=True)


def _is_pydantics(model: type) -> bool:
    """Return whether a dataclass is one of pydantic's own, which may have aliases."""
    return hasattr(model, "__pydantic_validator__")
