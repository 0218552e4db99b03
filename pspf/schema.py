"""Event models, their registry, and the way from an event to bytes and back.

encode(event)  ->  NewRecord               (EventRejected)
make_decoder(model)(record)  ->  event     (SchemaError)
"""

import os
from collections.abc import Callable
from copy import copy
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial
from itertools import repeat
from random import Random
from typing import Annotated, Any, ClassVar, Final, get_args, get_origin, get_type_hints, overload

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PydanticUserError,
    RootModel,
    TypeAdapter,
    ValidationError,
)
from pydantic.errors import PydanticUndefinedAnnotation
from pydantic_core import CoreSchema, PydanticSerializationError, SchemaValidator, core_schema, to_json

from pspf import codec
from pspf.codec import LETTER_I, LETTER_N
from pspf.errors import ConfigurationError, EventRejected
from pspf.records import NewRecord, Record, format_id

GENERIC_EVENT: Final = "GenericEvent"
"""The `event_type` of a dict that has none."""

_GENERIC_START: Final = b'{"event_type":"GenericEvent",'


def _as_utc(value: datetime) -> datetime:
    """Return `value` with a zone: naive ones are taken as UTC, others are converted."""
    if value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("outside of the years 1 to 9999") from error


class _UtcTime:
    """Marks a datetime field as UTC: what is UTC passes untouched, the rest goes through `_as_utc`.

    A union, because a Python validator on every event costs 0.9 us, and nearly all are UTC.
    """

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.union_schema(
            [
                core_schema.datetime_schema(tz_constraint=0),
                core_schema.no_info_after_validator_function(_as_utc, handler(source)),
            ],
            mode="left_to_right",
            custom_error_type="timestamp",
            custom_error_message="Input should be a time of the years 1 to 9999: ISO 8601, or seconds since the epoch",
        )


_random: Final = Random()  # our own: `random.seed` of the user's must not repeat ids
os.register_at_fork(after_in_child=_random.seed)

# 128 random bits in hex, and the time. No Python function runs: these are paid for each event
# without an id, uuid4 would take five times as long.
_new_id: Final = map("%032x".__mod__, map(_random.getrandbits, repeat(128))).__next__
_now: Final = partial(datetime.now, UTC)


_PLACE: Final = "_place"
"""Where in an event's dict the decoder puts (partition, offset); formatting an id that few ask for costs as much."""


class _Offset:
    """`event.offset`: the record's id once the event is handled, None before.

    A descriptor that only gets, so that a field `offset` of a model comes first: on the class this is missing.
    """

    @overload
    def __get__(self, event: None, owner: type) -> "_Offset": ...
    @overload
    def __get__(self, event: "BaseEvent", owner: type) -> str | None: ...
    def __get__(self, event: "BaseEvent | None", owner: type) -> "str | _Offset | None":
        if event is None:
            raise AttributeError("offset")
        place = event.__dict__.get(_PLACE)
        if place is not None:
            return format_id(*place)
        extra = event.__pydantic_extra__
        return extra.get("offset") if extra else None


class BaseEvent(BaseModel):
    """What the models of events derive from; further fields of a payload are kept as attributes.

    `event_id` is unique by default; set by the caller it de-duplicates. `event_type` is the class's
    name. `timestamp` is aware and UTC: naive input is taken as UTC, numbers are seconds since the
    epoch (milliseconds above 2e10). `key` picks the partition and is the unit of order. `offset` is
    the id of the record that the event came in, while it is handled; it is no field.
    NaN and infinity are refused, as JSON has neither.
    """

    model_config = ConfigDict(
        extra="allow",
        allow_inf_nan=False,
        ser_json_inf_nan="constants",  # so that `encode` sees a NaN among the extra fields and refuses it
        ignored_types=(_Offset,),
    )

    # The aliases are the names: an alias generator of a model must not rename the envelope.
    event_id: str = Field(default_factory=_new_id, alias="event_id", coerce_numbers_to_str=True)
    event_type: str = Field(default="BaseEvent", alias="event_type")
    timestamp: Annotated[datetime, _UtcTime] = Field(default_factory=_now, alias="timestamp")
    key: Annotated[str, Field(coerce_numbers_to_str=True)] | None = Field(default=None, alias="key")

    offset = _Offset()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "event_type" in cls.__dict__ or "event_type" in cls.__dict__.get("__annotations__", {}):  # noqa: RUF063 (evaluates forward references)
            return
        parent = next(base for base in cls.__mro__[1:] if issubclass(base, BaseEvent))
        if parent.model_fields["event_type"].default == _type_name(parent):
            # Pydantic takes a value set here as the default of the inherited field.
            cls.event_type = Field(default=_type_name(cls), alias="event_type")


def _type_name(model: type) -> str:
    """Return the class's name, without the parameters of a generic one."""
    return model.__name__.partition("[")[0]


class SchemaRegistry:
    """Which model a record's `event_type` is read with, where nothing else says so. Process-wide."""

    _models: ClassVar[dict[str, type]] = {}
    _decoders: ClassVar[dict[str, Callable[[Record], Any]]] = {}

    @classmethod
    def register(cls, event_type: str, model: type) -> None:
        """Read records of `event_type` as `model`.

        Raises:
            ConfigurationError: The type has another model already, or pydantic can't validate `model`.
        """
        if not event_type:
            raise ConfigurationError("event_type of a model is empty")
        known = cls._models.get(event_type)
        if known is not None and _place(known) != _place(model):
            raise ConfigurationError(
                f"event_type {event_type!r} is registered with {_place(known)}; unregister it before {_place(model)}"
            )
        cls._decoders[event_type] = _decode_base_event if model is BaseEvent else make_decoder(model)
        cls._models[event_type] = model

    @classmethod
    def get(cls, event_type: str) -> type | None:
        """Return the model of `event_type`, None for an unknown one."""
        return cls._models.get(event_type)

    @classmethod
    def unregister(cls, event_type: str) -> None:
        """Forget `event_type`; nothing happens where it is unknown."""
        cls._models.pop(event_type, None)
        cls._decoders.pop(event_type, None)

    @classmethod
    def get_decoder(cls, event_type: object) -> "Decoder | None":
        """Return the decoder of `event_type`, None for an unknown one."""
        return cls._decoders.get(event_type) if isinstance(event_type, str) else None


def _place(model: type) -> str:
    """Return where a model is defined; the same for both copies of a module that was loaded twice."""
    return f"{getattr(model, '__module__', '')}.{getattr(model, '__qualname__', repr(model))}"


_new_tuple: Final[Any] = tuple.__new__  # half the price of NewRecord(...)


def encode(event: object, *, key: str | None = None, raw_headers: bytes | None = None) -> NewRecord:
    """Return `event`, a model, a dataclass, a msgspec Struct or a dict, as it is stored; itself it stays as it is.

    Without an `event_type` it gets the class's name, a dict `GenericEvent`. The key is `key`, else
    the event's `key` field (text, an integer or a UUID), else none. Models are written by alias.
    `event_id` is set only where the caller chose it: then it de-duplicates. Of a dataclass or a Struct
    it is the caller's wherever it is not None.

    Raises:
        EventRejected: It is of another type, or no JSON object that `codec.dumps` takes.
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
        event_id = getattr(event, "event_id", None) if "event_id" in event.__pydantic_fields_set__ else None
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


def _encode_key(key: object) -> bytes:
    try:
        return (key if type(key) is str else codec.text_of("key", key)).encode()
    except UnicodeEncodeError as error:
        raise EventRejected(f"key {key!r:.80} can't be written as UTF-8") from error


def _describe(event: object) -> str:
    return f"the class {event.__name__}" if isinstance(event, type) else type(event).__name__


def _field(event: BaseModel, name: str) -> Any:
    """Return a field or extra field of a model, None without it (a method of the name is none)."""
    value = event.__dict__.get(name)
    if value is None and event.__pydantic_extra__:
        value = event.__pydantic_extra__.get(name)
    return value


def _with_type(value: bytes, event_type: str, *, replace: bool) -> bytes:
    """Return the JSON object `value` with an `event_type`, without parsing it where it has none."""
    if replace:
        return to_json({**codec.loads(value), "event_type": event_type})
    head = b'{"event_type":' + to_json(event_type)
    return head + b"}" if value == b"{}" else head + b"," + value[1:]


def _dump_model(event: BaseModel) -> bytes:
    try:
        # By alias, as the decoder reads by alias.
        value = event.__pydantic_serializer__.to_json(event, by_alias=True)
    except (PydanticSerializationError, RecursionError) as error:
        raise EventRejected(f"{type(event).__name__} can't be stored as JSON: {error!s:.200}") from error
    try:
        codec.refuse_non_finite_tokens(value)
    except ValueError as error:
        raise EventRejected(f"{type(event).__name__} can't be stored as JSON: {error}") from error
    codec.check_depth(value)
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
    return _with_type(value, named if isinstance(named, str) and named else _type_name(model), replace=has_field)


def is_struct(model: Any) -> bool:
    """Return whether this is a class of msgspec's; msgspec itself is not asked, and may be missing."""
    return isinstance(model, type) and hasattr(model, "__struct_fields__")


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
    _setter_for(type(event))(named, "event_id", event_id)
    return named


def _setter_for(model: Any) -> Callable[[Any, str, Any], None]:
    """Return what sets a field of a dataclass or a Struct, be it frozen."""
    if not is_struct(model):
        return object.__setattr__
    from pspf import structs

    return structs.set_field


def _dump_plain(event: Any) -> bytes:
    """Return a dataclass or a Struct as JSON, with an `event_type`."""
    model: Any = type(event)
    if is_struct(model):
        from pspf import structs

        value = structs.dump(event)
        names: frozenset[str] = structs.names_in_json(model)
    else:
        value = codec.dumps(TypeAdapter(model).dump_python(event, by_alias=True) if _is_pydantics(model) else event)
        names = frozenset(field.name for field in fields(model))
    event_type = getattr(event, "event_type", None)
    if not isinstance(event_type, str) or not event_type:
        event_type = _type_name(model)
    if "event_type" not in names:
        return _with_type(value, event_type, replace=False)
    # A Struct's tag is in its JSON, and no attribute.
    return value if getattr(event, "event_type", True) else _with_type(value, event_type, replace=True)


def _is_pydantics(model: type) -> bool:
    """Return whether a dataclass is one of pydantic's own, which may have aliases."""
    return hasattr(model, "__pydantic_validator__")


Decoder = Callable[[Record], Any]
"""From a record to what the handler gets. Raises SchemaError, and nothing else."""


def decode_raw(record: Record) -> dict[str, Any]:
    """Return the payload as the JSON object that it is, not validated.

    Raises:
        SchemaError: It is no JSON object.
    """
    try:
        return codec.loads(record.value)
    except ValueError as error:
        raise codec.schema_error("event", error) from None


def decode_event(record: Record) -> Any:
    """Return the event by its `event_type`: of the registered model, else a BaseEvent.

    Raises:
        SchemaError: The payload does not fit.
    """
    try:
        head = _read_head(record.value)
    except ValidationError as error:
        raise codec.schema_error("BaseEvent", error) from None
    decoder = SchemaRegistry.get_decoder(head.get("event_type")) or _decode_base_event
    return decoder(record)


# Looks into the JSON without making Python objects of it, at half the price of parsing it.
_read_head: Final = SchemaValidator(
    core_schema.typed_dict_schema(
        {"event_type": core_schema.typed_dict_field(core_schema.any_schema(), required=False)}, extra_behavior="ignore"
    )
).validate_json


def make_decoder(model: Any = None) -> Decoder:
    """Return the decoder for handlers that take `model`.

    None and BaseEvent read by `event_type`; `dict` takes the JSON object as it is. A msgspec Struct, or
    a union of them, is read by msgspec. Anything else that pydantic can validate: models, dataclasses,
    TypedDicts, unions. Of Structs and dataclasses the fields `offset`, `event_id`, `key` and `timestamp`
    that are None are taken from the record, where there are such and they may be text or a datetime.

    Raises:
        ConfigurationError: `model` can't be read, or it is not fully defined.
    """
    if model is None or model is BaseEvent or model is Any:
        return decode_event
    if model is dict or (get_origin(model) is dict and get_args(model) == (str, Any)):
        return decode_raw
    name = getattr(model, "__name__", None) or str(model)
    if is_struct(model) or any(is_struct(member) for member in get_args(model)):
        return _struct_decoder(name, model)
    try:
        if isinstance(model, type) and issubclass(model, BaseModel):
            model.model_rebuild()  # does nothing where the model is complete
            if issubclass(model, BaseEvent):
                return _event_decoder(name, model)
            return _plain_decoder(name, model, model.__pydantic_validator__.validate_json)
        decoder = _plain_decoder(name, model, TypeAdapter(model).validator.validate_json)
        return _filled(name, model, decoder) if is_dataclass(model) else decoder
    except (PydanticUserError, PydanticUndefinedAnnotation, NameError) as error:
        raise ConfigurationError(f"events can't be read as {name}: {error}") from error


_Stamp = Callable[[BaseEvent, Record], None]
_STAMPED: Final[tuple[str, ...]] = ("event_id", "timestamp", "key")


def _stamp(event: BaseEvent, record: Record) -> None:
    """Give an event its record's id, and for what its payload left open values that a redelivery repeats."""
    values = event.__dict__  # written to directly: what we put there must not count as set
    fields_set = event.__pydantic_fields_set__
    topic, partition, offset, raw_key, _, _, timestamp_ms, _ = record
    values[_PLACE] = (partition, offset)
    if "event_id" not in fields_set:
        is_plain = not partition and not offset >> 64  # then the id is the offset alone
        values["event_id"] = f"{topic}/{offset}" if is_plain else f"{topic}/{record.id}"
    if "timestamp" not in fields_set:
        values["timestamp"] = _time_of(timestamp_ms)
    if raw_key is not None and values["key"] is None:
        values["key"] = record.key


@lru_cache(256)  # the records of one append share their time
def _time_of(timestamp_ms: int) -> datetime:
    return datetime.fromtimestamp(timestamp_ms / 1000, UTC)


def _stamp_for(model: type[BaseEvent]) -> _Stamp:
    """Return `_stamp`, or one that spares the fields that `model` declares anew with another type."""
    own = [name for name in _STAMPED if name in model.model_fields and not _is_ours(model, name)]
    if not own:
        return _stamp

    def stamp(event: BaseEvent, record: Record) -> None:
        kept = {name: event.__dict__[name] for name in own}
        _stamp(event, record)
        event.__dict__.update(kept)

    return stamp


def _is_ours(model: type[BaseEvent], name: str) -> bool:
    """Return whether a field means for `model` what it means for BaseEvent."""
    ours = BaseEvent.model_fields.get(name)
    return ours is not None and model.model_fields[name].annotation == ours.annotation


def _event_decoder(name: str, model: type[BaseEvent]) -> Decoder:
    validate_json = model.__pydantic_validator__.validate_json
    stamp = _stamp_for(model)

    def decode(record: Record) -> Any:
        value = record.value
        try:
            event = validate_json(value)
            if LETTER_N in value or LETTER_I in value:  # a call for each event would cost as much again
                codec.refuse_non_finite_tokens(value)
            extra = event.__pydantic_extra__
            if extra:
                codec.refuse_non_finite(extra)
            stamp(event, record)
        except Exception as error:  # a validator of the user's may raise anything
            raise codec.schema_error(name, error) from codec.cause_of(error)
        return event

    return decode


_decode_base_event: Final = _event_decoder("BaseEvent", BaseEvent)


def _plain_decoder(name: str, model: Any, validate_json: Callable[[bytes], Any]) -> Decoder:
    strips_type = _refuses_event_type(model)

    def decode(record: Record) -> Any:
        value = record.value
        try:
            if strips_type:
                payload = codec.loads(value)
                payload.pop("event_type", None)
                value = to_json(payload)
            event = validate_json(value)
            codec.refuse_non_finite_tokens(value)
            if isinstance(event, BaseEvent):  # one of a union
                _stamp_for(type(event))(event, record)
        except Exception as error:  # a validator of the user's may raise anything
            raise codec.schema_error(name, error) from codec.cause_of(error)
        return event

    return decode


def _struct_decoder(name: str, model: Any) -> Decoder:
    from pspf import structs

    read = structs.make_reader(name, model)
    strips_type = structs.refuses_event_type(model)

    def decode(record: Record) -> Any:
        value = record.value
        try:
            if strips_type:
                payload = codec.loads(value)
                payload.pop("event_type", None)
                value = to_json(payload)
            return read(value)
        except UnicodeDecodeError:
            raise codec.schema_error(name, ValueError("text that is not UTF-8")) from None  # it holds the payload
        except ValueError as error:
            raise codec.schema_error(name, ValueError(str(error))) from error
        except Exception as error:  # a __post_init__ of the user's may raise anything
            raise codec.schema_error(name, error) from codec.cause_of(error)

    return _filled(name, model, decode)


_Fill = Callable[[Record], Any]
_FILLS: Final[tuple[tuple[str, type, _Fill], ...]] = (
    ("offset", str, lambda record: record.id),
    ("event_id", str, lambda record: f"{record.topic}/{record.id}"),
    ("key", str, lambda record: record.key),
    ("timestamp", datetime, lambda record: _time_of(record.timestamp_ms)),
)


def _filled(name: str, model: Any, decode: Decoder) -> Decoder:
    """Return `decode`, or one that also fills what is open in the fields that a record has a value for."""
    members = [each for each in get_args(model) or (model,) if is_struct(each) or is_dataclass(each)]
    open_fields: dict[Any, list[tuple[str, _Fill]]] = {}
    for member in members:
        try:
            hints = get_type_hints(member)
        except (NameError, TypeError) as error:
            raise ConfigurationError(f"events can't be read as {name}: {error}") from error
        mine = [(field, fill) for field, kind, fill in _FILLS if _may_be(hints.get(field), kind)]
        if mine:
            open_fields[member] = mine
    if not open_fields:
        return decode
    put = _setter_for(members[0])

    def decode_and_fill(record: Record) -> Any:
        event = decode(record)
        for field, fill in open_fields.get(type(event), ()):
            if getattr(event, field, None) is None:
                put(event, field, fill(record))
        return event

    return decode_and_fill


def _may_be(hint: Any, kind: type) -> bool:
    """Return whether a field may be None and of a type."""
    return hint is not None and type(None) in get_args(hint) and kind in get_args(hint)


def _refuses_event_type(model: Any) -> bool:
    """Return whether the `event_type` that `encode` added would be an error or a wrong entry for `model`."""
    if get_origin(model) is dict or (isinstance(model, type) and issubclass(model, RootModel)):
        return True
    if isinstance(model, type) and issubclass(model, BaseModel):
        return model.model_config.get("extra") == "forbid" and "event_type" not in model.model_fields
    config = getattr(model, "__pydantic_config__", None) or {}
    return config.get("extra") == "forbid" and "event_type" not in getattr(model, "__annotations__", {})
