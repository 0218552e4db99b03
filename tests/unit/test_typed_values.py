"""Typed values of state: what is read back equal, and what is refused because it would not be."""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pytest
from pydantic import BaseModel, Field, Json, PrivateAttr, SecretStr, computed_field, field_serializer
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import TypedDict

from pspf.errors import ConfigurationError, EventRejected
from pspf.events.typed_values import default_name, value_type


class Colour(Enum):
    RED = "red"


class Inner(BaseModel):
    n: int = 0


class Stats(BaseModel):
    total: Decimal = Decimal("1.10")
    at: datetime = datetime(2026, 1, 31, 12, tzinfo=UTC)
    local: datetime = datetime(2026, 7, 1, 12, 0, 0, 123_456, tzinfo=ZoneInfo("Europe/Berlin"))
    naive: datetime = datetime(2026, 1, 31, 12)  # noqa: DTZ001 (one without a zone is meant)
    day: date = date(2026, 1, 31)
    hour: time = time(3, 4, 5)
    took: timedelta = timedelta(days=3, microseconds=7)
    id: UUID = UUID(int=5)
    raw: bytes = "grün".encode()
    names: set[str] = {"a", "b"}
    frozen: frozenset[int] = frozenset({1, 2})
    pair: tuple[int, str] = (1, "a")
    by_day: dict[date, Decimal] = {date(2026, 1, 31): Decimal("0.1")}
    colour: Colour = Colour.RED
    inner: Inner = Inner(n=7)
    large: int = 1 << 80
    parsed: Json[list[int]] = [1, 2]
    missing: Decimal | None = None

    @computed_field
    def twice(self) -> Decimal:
        return self.total * 2


@dataclass
class Plain:
    total: Decimal = Decimal(1)
    names: set[str] = field(default_factory=lambda: {"a"})


@pydantic_dataclass
class Checked:
    at: datetime = datetime(2026, 1, 31, tzinfo=timezone(timedelta(hours=5)))


@dataclass(eq=False)
class Object:
    n: int = 5


class Row(TypedDict, total=False):
    total: Decimal
    at: datetime


class Struct(msgspec.Struct):
    total: Decimal = Decimal("1.10")
    at: datetime = datetime(2026, 1, 31, tzinfo=UTC)
    raw: bytes = b"\xff"
    names: set[str] = msgspec.field(default_factory=lambda: {"a"})


class Positional(msgspec.Struct, array_like=True):
    n: int = 5


@pytest.mark.parametrize(
    ("model", "value"),
    [
        (Stats, Stats()),
        (Plain, Plain()),
        (Checked, Checked()),
        (Row, {"total": Decimal("5.0")}),
        (Struct, Struct()),
        (Positional, Positional()),
        (Decimal, Decimal("1E+400")),
        (datetime, datetime(2026, 1, 31, tzinfo=UTC)),
        (list[Inner], [Inner(n=1), Inner(n=2)]),
        (dict[str, Decimal], {"a": Decimal("0.1")}),
        (set[int], {1, 2}),
        (bytes, b"text"),
        (int, 5),
        (list[Struct], [Struct()]),
        (bool, True),
    ],
)
def test_what_is_written_is_read_back_equal(model: Any, value: Any) -> None:
    kind = value_type(model)
    back = kind.read(kind.dump("n", value))
    assert back == value
    assert type(back) is type(value)


def test_one_that_is_compared_as_an_object_is_compared_by_its_fields() -> None:
    kind = value_type(Object)
    assert kind.read(kind.dump("n", Object(7))).n == 7


class Anything(BaseModel):
    value: Any = None
    by_name: dict[str, Any] = {}


class Excluded(BaseModel):
    n: int = Field(default=0, exclude=True)


class Private(BaseModel):
    _seen: int = PrivateAttr(default=0)


class Secretive(BaseModel):
    password: SecretStr = SecretStr("x")


class Sub(Inner):
    more: int = 1


class Renamed(BaseModel):
    n: int = Field(default=0, serialization_alias="m")


class Rounded(BaseModel):
    n: float = 0.0

    @field_serializer("n")
    def write(self, n: float) -> float:
        return round(n)


def private() -> Private:
    made = Private()
    made._seen = 5
    return made


@pytest.mark.parametrize(
    ("model", "value", "words"),
    [
        (Stats, 5, "Stats"),
        (Stats, {"total": 1}, "Stats"),
        (Stats, Stats.model_construct(total="x"), "Stats"),
        (Stats, Stats(raw=b"\xff"), "utf"),
        (Stats, Stats.model_construct(parsed=[1], total=Decimal("NaN")), "total"),
        (Anything, Anything(value=Decimal(1)), "value would be another value"),
        (Anything, Anything(by_name={"at": datetime(2026, 1, 31, tzinfo=UTC)}), "by_name.at would be another value"),
        (Anything, Anything(value=(1, 2)), "value"),
        (Anything, Anything(value=float("nan")), "Anything"),
        (Excluded, Excluded(n=5), "n would be another value"),
        (Private, private(), "another value"),
        (Secretive, Secretive(), "password"),
        (Inner, Sub(), "another value"),
        (Renamed, Renamed(n=5), "n would be another value"),
        (Rounded, Rounded(n=1.5), "n would be another value"),
        (Decimal, 5, "Decimal"),
        (Decimal, "5", "Decimal"),
        (int, True, "int"),
        (Row, {"total": "1"}, "Row"),
        (Row, {"other": 1}, "Row"),
        (Struct, Plain(), "Struct"),
        (Struct, {"total": "1"}, "Struct"),
        (float, float("inf"), "float"),
        (list[int], [*range(3), None], "list"),
    ],
)
def test_what_would_be_read_back_as_something_else_is_refused(model: Any, value: Any, words: str) -> None:
    with pytest.raises(EventRejected, match="'n'") as refused:
        value_type(model).dump("n", value)
    assert words in str(refused.value)


@pytest.mark.parametrize("model", [5, "text", Stats(), {}, lambda: 5])
def test_what_is_no_type_of_values_is_refused(model: Any) -> None:
    with pytest.raises(ConfigurationError, match="state can't be read as"):
        value_type(model)


def test_a_class_of_the_users_names_its_value_and_nothing_else_does() -> None:
    assert [default_name(model) for model in (Stats, Plain, Checked, Row, Struct)] == [
        "Stats",
        "Plain",
        "Checked",
        "Row",
        "Struct",
    ]
    assert [default_name(model) for model in (int, Decimal, list[Stats], Stats | None, Any)] == [None] * 5
