"""Decoding: from the bytes of a record to the event of a handler."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass
from datetime import datetime
from functools import partial
from operator import itemgetter
from typing import Any, Final, get_args, get_origin, get_type_hints

from pydantic import BaseModel, PydanticUserError, RootModel, TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation
from pydantic_core import SchemaValidator, core_schema, to_json

from pspf.errors import ConfigurationError
from pspf.events import codec
from pspf.events.event import MADE_UP, BaseEvent, is_struct, setter_for
from pspf.events.repairs import computed_names, repair, takes_objects
from pspf.events.stamps import EventKind, stamp_for, time_of
from pspf.records import Record

Decoder = Callable[[Record], Any]
"""From a record to what the handler gets. Raises SchemaError, and nothing else."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """What stands for the event of a record that can't be read."""

    error: BaseException


SectionDecoder = Callable[[Sequence[Record]], Sequence[Any]]
"""From records to what the handler gets of each, `Unreadable` in its place where there is none. Raises nothing."""


by_type: Final[dict[str, Decoder]] = {}
"""The decoders of registered models, by `event_type`; `SchemaRegistry` keeps it."""


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
    decoder = _find_decoder(head.get("event_type"))
    return decoder(record)


def _find_decoder(event_type: object) -> Decoder:
    found = by_type.get(event_type) if isinstance(event_type, str) else None
    return found or decode_base_event


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
            return _plain_decoder(name, model, model.__pydantic_validator__, model.__pydantic_core_schema__)
        adapter = TypeAdapter(model)
        decoder = _plain_decoder(name, model, adapter.validator, adapter.core_schema)
        return _filled(name, model, decoder) if is_dataclass(model) else decoder
    except (PydanticUserError, PydanticUndefinedAnnotation, NameError) as error:
        raise ConfigurationError(f"events can't be read as {name}: {error}") from error


def make_section_decoder(model: Any, decode: Decoder) -> SectionDecoder:
    """Return what reads several records at once as `decode`, the decoder of `model`, reads each.

    For models of events it costs two thirds: nothing of Python runs per record but what puts its place into it.
    """

    def read_each(records: Sequence[Record]) -> list[Any]:
        return [_read_one(decode, record) for record in records]

    if not (isinstance(model, type) and issubclass(model, BaseEvent)) or model is BaseEvent:
        return read_each
    validate_json = _make_validate_json(model)
    kind = EventKind.of(model)

    def read(records: Sequence[Record]) -> list[Any]:
        values = list(map(_value_of, records))
        rest, events = iter(values), list[Any]()
        failed: dict[int, Any] = {}
        while True:  # it goes on behind one that fails: validators of the user's run once a record
            try:
                events.extend(map(validate_json, rest))
                break
            except BaseException as error:  # whatever a validator raises
                at = len(events) + len(failed)
                failed[at] = _read_one(partial(kind.read_again, error=error), records[at])
        good = records if not failed else [record for at, record in enumerate(records) if at not in failed]
        try:
            if codec.may_have_non_finite_tokens(b"".join(values)):
                raise ValueError("NaN or Infinity in one of them")
            kind.finish(events, good)
        except Exception:  # whose it is, each tells for itself
            events = [
                _read_one(partial(kind.finish_one, event), record) for event, record in zip(events, good, strict=True)
            ]
        if failed:
            rest_of = iter(events)
            return [failed[at] if at in failed else next(rest_of) for at in range(len(records))]
        return events

    return read


def _make_validate_json(model: type[BaseEvent]) -> Callable[[bytes], Any]:
    """Return what validates a `model` and makes up no id and no time: a record has both.

    They are a fifth of its price. Only of models that are their fields and nothing else, as no function of the
    user's may see what is missing; any other is validated as everywhere else.
    """
    schema: Any = model.__pydantic_core_schema__
    fields: Any = schema.get("schema", {})
    if schema["type"] != "model" or fields.get("type") != "model-fields" or any(map(schema.get, _RUNS_CODE)):
        return model.__pydantic_validator__.validate_json
    bare = {
        name: field if field["schema"].get("default_factory") not in MADE_UP else _left_open(field)
        for name, field in fields["fields"].items()
    }
    make: Any = SchemaValidator  # its last argument is not among its types
    try:
        validate_json: Callable[[bytes], Any] = make(
            schema | {"schema": fields | {"fields": bare}}, _use_prebuilt=False
        ).validate_json
    except TypeError:  # a pydantic that has no such argument
        return model.__pydantic_validator__.validate_json
    return validate_json


_RUNS_CODE: Final = frozenset({"post_init", "custom_init"})


def _left_open(field: Any) -> dict[str, Any]:
    schema = {name: value for name, value in field["schema"].items() if not name.startswith("default_factory")}
    return {**field, "schema": {**schema, "default": None}}


_value_of: Final = itemgetter(4)


def _read_one(decode: Decoder, record: Record) -> Any:
    try:
        return decode(record)
    except BaseException as error:  # the boundary of a record: its caller decides
        return Unreadable(error)


def _event_decoder(name: str, model: type[BaseEvent]) -> Decoder:
    kind = EventKind.of(model)
    validate_json = kind.validate_json

    def decode(record: Record) -> Any:
        try:
            event = validate_json(record.value)
        except Exception as error:  # a validator of the user's may raise anything
            return kind.read_again(record, error=error)
        return kind.finish_one(event, record)

    return decode


decode_base_event: Final = _event_decoder("BaseEvent", BaseEvent)
"""Reads any JSON object as a BaseEvent."""


def _plain_decoder(name: str, model: Any, validator: Any, core_schema: Any) -> Decoder:
    if not takes_objects(core_schema):
        raise ConfigurationError(
            f"events can't be read as {name}: an event is a JSON object, and that is another JSON value"
        )
    strips_type = _refuses_event_type(model)
    computed = computed_names(core_schema)
    validate_json = validator.validate_json

    def read(value: bytes) -> Any:
        try:
            return validate_json(value)
        except ValidationError as error:
            repaired = repair(value, error, computed)
            if repaired is None:
                raise
            try:
                return validate_json(repaired)
            except ValidationError:  # the first reason says what the payload has
                raise error from None

    def decode(record: Record) -> Any:
        value = record.value
        try:
            if strips_type:
                payload = codec.loads(value)
                payload.pop("event_type", None)
                value = to_json(payload)
            event = read(value)
            codec.refuse_non_finite_tokens(value)
            if isinstance(event, BaseEvent):  # one of a union
                stamp_for(type(event))((event,), (record,))
        except Exception as error:  # a validator of the user's may raise anything
            raise codec.schema_error(name, error) from codec.cause_of(error)
        return event

    return decode


def _struct_decoder(name: str, model: Any) -> Decoder:
    from pspf.events import structs

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
    ("timestamp", datetime, lambda record: time_of(record.timestamp_ms)),
)


def _filled(name: str, model: Any, decode: Decoder) -> Decoder:
    """Return `decode`, or one that also fills unset fields from the record."""
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
    put = setter_for(members[0])

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
