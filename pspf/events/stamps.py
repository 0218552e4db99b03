"""Stamps: the fields that a validated event gets from its record."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final

from pydantic import ValidationError

from pspf.events import codec
from pspf.events.codec import LETTER_I, LETTER_N
from pspf.events.event import PLACE, BaseEvent
from pspf.events.repairs import computed_names, repair
from pspf.records import Record

_extra_of: Final = attrgetter("__pydantic_extra__")
_Stamp = Callable[[Sequence[BaseEvent], Sequence[Record]], None]
_STAMPED: Final[tuple[str, ...]] = ("event_id", "timestamp", "key")


def _stamp(events: Sequence[BaseEvent], records: Sequence[Record]) -> None:
    """Give events their records' ids, and for what their payloads left open values that a redelivery repeats."""
    for event, record in zip(events, records, strict=True):
        values = event.__dict__  # written to directly: what we put there must not count as set
        fields_set = event.__pydantic_fields_set__
        topic, partition, offset, raw_key, _, _, timestamp_ms, _ = record
        values[PLACE] = (partition, offset)
        if "event_id" not in fields_set:
            is_plain = not partition and not offset >> 64  # then the id is the offset alone
            values["event_id"] = f"{topic}/{offset}" if is_plain else f"{topic}/{record.id}"
        if "timestamp" not in fields_set:
            values["timestamp"] = time_of(timestamp_ms)
        if raw_key is not None and values["key"] is None:
            values["key"] = record.key


@lru_cache(256)  # the records of one append share their time
def time_of(timestamp_ms: int) -> datetime:
    return datetime.fromtimestamp(timestamp_ms / 1000, UTC)


def stamp_for(model: type[BaseEvent]) -> _Stamp:
    """Return `_stamp`, or one that spares the fields that `model` declares with another type."""
    own = [name for name in _STAMPED if name in model.model_fields and not _is_ours(model, name)]
    if not own:
        return _stamp

    def stamp(events: Sequence[BaseEvent], records: Sequence[Record]) -> None:
        kept = [{name: event.__dict__[name] for name in own} for event in events]
        _stamp(events, records)
        for event, values in zip(events, kept, strict=True):
            event.__dict__.update(values)

    return stamp


def _is_ours(model: type[BaseEvent], name: str) -> bool:
    """Return whether a field means for `model` what it means for BaseEvent."""
    ours = BaseEvent.model_fields.get(name)
    return ours is not None and model.model_fields[name].annotation == ours.annotation


@dataclass(frozen=True, slots=True)
class EventKind:
    """Steps after an event's model has validated it, and where the model refuses it."""

    name: str
    validate_json: Callable[[bytes], Any]
    stamp: _Stamp
    computed: frozenset[str]
    """The names of computed fields, of the model and of the models inside it."""
    mine: tuple[str, ...]
    """The names of its own, as its JSON has them: what came of that is no further field of the payload."""

    @classmethod
    def of(cls, model: type[BaseEvent]) -> "EventKind":
        schema: Any = model.__pydantic_core_schema__
        mine = {field.alias or name for name, field in model.model_computed_fields.items()}
        stamp = stamp_for(model)
        return cls(model.__name__, model.__pydantic_validator__.validate_json, stamp, computed_names(schema), (*mine,))

    def finish(self, events: Sequence[Any], records: Sequence[Record]) -> None:
        """Refuse numbers that no float can hold among further fields, and put what only the records know."""
        for extra in map(_extra_of, events):
            if extra:
                for name in self.mine:
                    extra.pop(name, None)
                codec.refuse_non_finite(extra)
        self.stamp(events, records)

    def finish_one(self, event: Any, record: Record) -> Any:
        """Return an event that was validated, finished. Raises SchemaError, and nothing else."""
        value = record.value
        try:
            if LETTER_N in value or LETTER_I in value:  # a call for each event would cost as much again
                codec.refuse_non_finite_tokens(value)
            self.finish((event,), (record,))
        except Exception as error:
            raise codec.schema_error(self.name, error) from codec.cause_of(error)
        return event

    def read_again(self, record: Record, *, error: BaseException) -> Any:
        """Return the event of a payload that was refused, where it is one without what stands for nothing.

        Raises:
            SchemaError: It is invalid; `error` itself where that is no Exception.
        """
        if not isinstance(error, Exception):
            raise error
        repaired = repair(record.value, error, self.computed) if isinstance(error, ValidationError) else None
        if repaired is None:
            raise codec.schema_error(self.name, error) from codec.cause_of(error)
        try:
            event = self.validate_json(repaired)
        except Exception as still:  # the first reason says what the payload has
            raise codec.schema_error(self.name, error) from codec.cause_of(still)
        return self.finish_one(event, record)
