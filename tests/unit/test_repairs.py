"""Events that go through JSON and back: computed fields, keys that are properties, nulls of defaults, secrets."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, SecretStr, computed_field, field_serializer, field_validator

from pspf import BaseEvent
from pspf.errors import ConfigurationError, EventRejected, SchemaError
from pspf.events.decoding import Unreadable, make_decoder, make_section_decoder
from pspf.events.encoding import encode
from pspf.records import Record


def record(value: bytes, offset: int = 1) -> Record:
    return Record("t", 0, offset, None, value, None, 0, 0)


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    n: int

    @computed_field  # type: ignore[prop-decorator]  # as pydantic documents it
    @property
    def double(self) -> int:
        return self.n * 2


class Strict(BaseEvent):
    model_config = ConfigDict(extra="forbid")
    n: int
    inner: tuple[Inner, ...] = ()

    @computed_field(alias="twice")  # type: ignore[prop-decorator]  # as pydantic documents it
    @property
    def double(self) -> int:
        return self.n * 2


class Open(BaseEvent):
    n: int

    @computed_field  # type: ignore[prop-decorator]  # as pydantic documents it
    @property
    def double(self) -> int:
        return self.n * 2


class Keyed(BaseModel):
    customer: str

    @property
    def key(self) -> str:
        return self.customer

    @cached_property
    def event_id(self) -> str:
        return f"id-{self.customer}"


class KeyedInJson(BaseModel):
    customer: str

    @computed_field  # type: ignore[prop-decorator]  # as pydantic documents it
    @property
    def key(self) -> str:
        return self.customer


class Aliased(BaseModel):
    customer: str = Field(alias="key")


@dataclass
class Plain:
    customer: str

    @property
    def key(self) -> str:
        return self.customer


@pytest.mark.parametrize("event", [Keyed(customer="a"), KeyedInJson(customer="a"), Aliased(key="a"), Plain("a")])
def test_a_key_that_is_computed_or_has_another_name_is_the_records(event: Any) -> None:
    assert encode(event).raw_key == b"a"


def test_an_id_that_is_computed_is_the_callers() -> None:
    assert encode(Keyed(customer="a")).event_id == "id-a"


def test_a_method_called_key_is_none() -> None:
    class Odd(BaseModel):
        n: int

        def key(self) -> str:
            return "k"

    assert encode(Odd(n=1)).raw_key is None


def test_a_property_over_a_field_of_the_envelope_is_refused_where_it_is_declared() -> None:
    with pytest.raises(ConfigurationError, match="model_validator"):

        class Wrong(BaseEvent):
            @property  # type: ignore[misc]  # which is what is refused
            def key(self) -> str:  # type: ignore[override]  # as well
                return "k"


@pytest.mark.parametrize("model", [Strict, Inner], ids=["event", "plain model"])
def test_a_model_that_forbids_other_fields_reads_its_computed_ones(model: Any) -> None:
    event = model(n=3) if model is Inner else Strict(n=3, inner=(Inner(n=4),))
    stored = record(encode(event).value)
    read = make_decoder(model)(stored)
    assert (read.n, read.double) == (3, 6)
    (again,) = make_section_decoder(model, make_decoder(model))([stored])
    assert again.n == 3


def test_other_fields_are_refused_as_before() -> None:
    with pytest.raises(SchemaError, match="other: Extra inputs"):
        make_decoder(Strict)(record(b'{"n":1,"other":2,"twice":2}'))


def test_a_computed_field_is_written_once_when_its_event_goes_on() -> None:
    read = make_decoder(Open)(record(encode(Open(n=3)).value))
    read.n = 5
    assert encode(read).value.count(b"double") == 1
    assert b'"double":10' in encode(read).value


@pytest.mark.parametrize("name", ["event_id", "event_type", "timestamp", "key"])
@pytest.mark.parametrize("model", [BaseEvent, Strict, Open])
def test_null_for_what_a_record_has_is_no_value(model: Any, name: str) -> None:
    stored = record(b'{"n":1,"%b":null}' % name.encode(), 7)
    event = make_decoder(model)(stored)
    assert (event.event_id, event.timestamp.timestamp()) == ("t/7", 0)
    (again,) = make_section_decoder(model, make_decoder(model))([stored])
    assert again.event_id == "t/7"


class Secretive(BaseModel):
    s: SecretStr


class Open2(BaseModel):
    s: SecretStr

    @field_serializer("s", when_used="json")
    def show(self, s: SecretStr) -> str:
        return s.get_secret_value()


@pytest.mark.parametrize(
    "event",
    [Secretive(s=SecretStr("hunter2")), {"a": [SecretStr("hunter2")]}, {"m": Secretive(s=SecretStr("hunter2"))}],
    ids=str,
)
def test_a_secret_is_not_stored_as_stars(event: Any) -> None:
    with pytest.raises(EventRejected, match="is a secret"):
        encode(event)


def test_a_secret_with_a_serializer_and_text_that_is_stars_are_stored() -> None:
    assert b"hunter2" in encode(Open2(s=SecretStr("hunter2"))).value
    assert b"*" in encode({"s": "**********"}).value


def test_a_validator_runs_once_a_record_whatever_becomes_of_the_others() -> None:
    calls: Counter[int] = Counter()

    class Checked(BaseEvent):
        n: int

        @field_validator("n")
        @classmethod
        def check(cls, n: int) -> int:
            calls[n] += 1
            if n in (3, 9):
                raise ValueError("bad")
            return n

    records = [record(b'{"n":%d%b}' % (n, b',"x":NaN' if n == 5 else b""), n) for n in range(10)]
    found = make_section_decoder(Checked, make_decoder(Checked))(records)
    assert set(calls.values()) == {1}
    assert [n for n, event in enumerate(found) if isinstance(event, Unreadable)] == [3, 5, 9]
    assert [(event.n, event.offset) for event in found if not isinstance(event, Unreadable)] == [
        (n, str(n)) for n in range(10) if n not in (3, 5, 9)
    ]


@pytest.mark.parametrize("model", [int, str, bytes, float, list[Open], tuple[Open, ...], int | str])
def test_what_no_json_object_is_read_as_is_refused(model: Any) -> None:
    with pytest.raises(ConfigurationError, match="JSON object"):
        make_decoder(model)


@pytest.mark.parametrize("model", [object, dict[str, int], Open | None, Inner | int, Plain])
def test_what_one_may_be_read_as_is_not(model: Any) -> None:
    make_decoder(model)
