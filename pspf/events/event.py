"""`BaseEvent`, the base class of event models, and the other types that can be events."""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cached_property, partial
from itertools import repeat
from random import Random
from typing import Annotated, Any, Final, overload

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from pspf.errors import ConfigurationError
from pspf.records import format_id


def _as_utc(value: datetime) -> datetime:
    """Return `value` with a zone: naive ones are taken as UTC, others are converted."""
    if value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("outside of the years 1 to 9999") from error


class _UtcTime:
    """Marks a datetime field as UTC: UTC values pass untouched, others go through `_as_utc`.

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

MADE_UP: Final = (_new_id, _now)
"""The defaults of an event's id and time."""


PLACE: Final = "_place"
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
        place = event.__dict__.get(PLACE)
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
        for name in ("event_id", "event_type", "timestamp", "key"):
            if isinstance(cls.__dict__.get(name), property | cached_property):
                raise ConfigurationError(
                    f"{cls.__name__}.{name} is a property, and a field of BaseEvent: set it in a"
                    ' @model_validator(mode="after"), or derive from pydantic.BaseModel'
                )
        if "event_type" in cls.__dict__ or "event_type" in cls.__dict__.get("__annotations__", {}):  # noqa: RUF063 (evaluates forward references)
            return
        parent = next(base for base in cls.__mro__[1:] if issubclass(base, BaseEvent))
        if parent.model_fields["event_type"].default == type_name(parent):
            # Pydantic takes a value set here as the default of the inherited field.
            cls.event_type = Field(default=type_name(cls), alias="event_type")


def type_name(model: type) -> str:
    """Return the class's name, without the parameters of a generic one."""
    return model.__name__.partition("[")[0]


def is_struct(model: Any) -> bool:
    """Return whether this is a class of msgspec's; msgspec itself is not asked, and may be missing."""
    return isinstance(model, type) and hasattr(model, "__struct_fields__")


def setter_for(model: Any) -> Callable[[Any, str, Any], None]:
    """Return what sets a field of a dataclass or a Struct, be it frozen."""
    if not is_struct(model):
        return object.__setattr__
    from pspf.events import structs

    return structs.set_field
