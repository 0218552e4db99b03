"""Records that are read by sections are what each would be alone."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel, Field, field_validator, model_validator

from pspf import BaseEvent
from pspf.errors import SchemaError
from pspf.events.decoding import Unreadable, make_decoder, make_section_decoder
from pspf.records import Record


class Reading(BaseEvent):
    value: float
    place: str = "roof"


class Numbered(Reading):
    number: int = Field(default_factory=iter(range(1_000)).__next__)


class Renamed(Reading):
    event_id: int = 7  # type: ignore[assignment]  # a field of its own, by a name of ours


class Checked(Reading):
    @field_validator("value")
    @classmethod
    def check(cls, value: float) -> float:
        if value > 1_000:
            raise SystemExit("of the user's")
        return value


class Looking(Reading):
    seen: str = ""

    @model_validator(mode="after")
    def look(self) -> "Looking":
        self.seen = self.event_id
        return self


class Nested(Reading):
    inner: Reading | None = None


VALUES = (
    b'{"value": 1.5}',
    b'{"value": 2, "event_id": "mine", "key": "k", "timestamp": "2026-01-02T03:04:05Z"}',
    b'{"value": 3, "event_id": 4, "more": {"deep": [1, 2]}}',
    b'{"value": 5, "place": "NaN and Infinity are words"}',
    b'{"value": 6, "inner": {"value": 7, "event_id": "i", "timestamp": 0}}',
)
BROKEN = (
    b"",
    b"null",
    b'{"value": "x"}',
    b'{"value": NaN}',
    b'{"value": 1, "more": Infinity}',
    b'{"value": 1, "more": 1e400}',
    b'\xff{"value": 1}',
)


def records_of(*values: bytes) -> list[Record]:
    return [
        Record("readings", 0, offset, b"own" if offset % 2 else None, value, None, 1_700_000_000_000 + offset)
        for offset, value in enumerate(values, 1)
    ]


def told(event: Any) -> Any:
    """Return all that makes an event what it is."""
    if isinstance(event, Unreadable):
        return type(event.error), str(event.error)
    return type(event), vars(event), event.model_extra, event.model_fields_set, event.offset


@pytest.mark.parametrize("model", [Reading, Renamed, Checked, Nested])
@pytest.mark.parametrize("broken", [(), *[(value,) for value in BROKEN], BROKEN])
def test_a_section_is_read_as_each_of_its_records_is(model: type[BaseEvent], broken: tuple[bytes, ...]) -> None:
    records = records_of(*VALUES[:2], *broken, *VALUES[2:])
    decode = make_decoder(model)

    def read_alone(record: Record) -> Any:
        try:
            return decode(record)
        except SchemaError as error:
            return Unreadable(error)

    assert [told(event) for event in make_section_decoder(model, decode)(records)] == [
        told(read_alone(record)) for record in records
    ]


def test_a_model_that_looks_at_its_id_sees_one() -> None:
    events = make_section_decoder(Looking, make_decoder(Looking))(records_of(*VALUES[:2]))
    assert [len(event.seen) for event in events] == [32, len("mine")]
    assert [event.event_id for event in events] == ["readings/1", "mine"]


def test_a_factory_of_the_users_is_called() -> None:
    events = make_section_decoder(Numbered, make_decoder(Numbered))(records_of(VALUES[0], VALUES[0]))
    assert events[1].number == events[0].number + 1


def test_what_is_left_open_comes_from_the_record_and_does_not_count_as_set() -> None:
    (event,) = make_section_decoder(Reading, make_decoder(Reading))(records_of(VALUES[0]))
    assert event.timestamp == datetime.fromtimestamp(1_700_000_000.001, UTC)
    assert (event.event_id, event.key) == ("readings/1", "own")
    assert event.model_fields_set == {"value"}


def test_a_validator_that_wants_to_end_the_process_fails_its_record_alone() -> None:
    good, bad = make_section_decoder(Checked, make_decoder(Checked))(records_of(VALUES[0], b'{"value": 2000}'))
    assert good.value == 1.5
    assert isinstance(bad.error, SystemExit)


def test_other_models_are_read_one_by_one() -> None:
    class Plain(BaseModel):
        value: float

    good, bad = make_section_decoder(Plain, make_decoder(Plain))(records_of(VALUES[0], b"{}"))
    assert good == Plain(value=1.5)
    assert isinstance(bad.error, SchemaError)


def test_an_event_within_an_event_has_an_id_of_its_own() -> None:
    (event,) = make_section_decoder(Nested, make_decoder(Nested))(records_of(b'{"value": 6, "inner": {"value": 7}}'))
    assert len(event.inner.event_id) == 32
