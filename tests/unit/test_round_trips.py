"""What emit accepts is read back equal, and what could not be is refused where it is emitted."""

import enum
import math
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Final, Generic, Literal, NamedTuple, TypeVar

import pydantic.dataclasses
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    AliasChoices,
    AliasGenerator,
    AliasPath,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Json,
    RootModel,
    SecretStr,
    computed_field,
    create_model,
    field_serializer,
    model_validator,
)
from typing_extensions import TypedDict

from pspf import BaseEvent, Stream, TumblingWindow
from pspf.errors import ConfigurationError, EventRejected, SchemaError
from pspf.events.decoding import Unreadable, make_decoder, make_section_decoder
from pspf.events.encoding import encode
from pspf.records import Record

T = TypeVar("T")
EAST: Final = timezone(timedelta(hours=2))


def read_back(event: Any, model: Any = None) -> Any:
    """Return an event as a handler gets it, alone and in a section: both are the same."""
    model = model or type(event)
    stored = encode(event)
    record = Record("t", 0, 1, stored.raw_key, stored.value, None, 0, 0)
    decode = make_decoder(model)
    alone = decode(record)
    (in_section,) = make_section_decoder(model, decode)([record])
    assert not isinstance(in_section, Unreadable)
    assert in_section == alone
    return alone


def assert_same(event: Any) -> None:
    read = read_back(event)
    for name in type(event).model_fields:
        if name not in ("key", "timestamp"):
            assert getattr(read, name) == getattr(event, name), name
            assert type(getattr(read, name)) is type(getattr(event, name)), name


class Colour(enum.Enum):
    RED = 1
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


class Point(NamedTuple):
    x: int
    y: int


class Row(TypedDict):
    at: datetime
    n: int


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    name: str = "Rex"


class Box(BaseModel, Generic[T]):
    content: T


@dataclass
class Part:
    at: datetime
    price: Decimal


class Node(BaseModel):
    n: int = Field(alias="number")
    next: "Node | None" = None


FIELDS: Final[dict[str, tuple[Any, Any]]] = {
    "text": (str, "a\n\u202e\U0001f600"),
    "large int": (int, 2**70),
    "float": (float, 1e300),
    "small float": (float, 5e-324),
    "Decimal": (Decimal, Decimal("1.10")),
    "aware datetime": (datetime, datetime(2026, 1, 2, 3, 4, 5, 678901, EAST)),
    "naive datetime": (datetime, datetime(2026, 1, 2)),  # noqa: DTZ001 (what is tested)
    "date": (date, date(2026, 1, 2)),
    "timedelta": (timedelta, timedelta(days=-1, microseconds=3)),
    "bytes": (bytes, "é".encode()),
    "set": (set[int], {1, 2}),
    "frozenset": (frozenset[str], frozenset({"a"})),
    "tuple": (tuple[int, str], (1, "a")),
    "NamedTuple": (Point, Point(1, 2)),
    "Enum": (Colour, Colour.RED),
    "IntEnum": (Level, Level.LOW),
    "UUID": (uuid.UUID, uuid.UUID(int=5)),
    "int keys": (dict[int, str], {1: "a"}),
    "date keys": (dict[date, int], {date(2026, 1, 2): 1}),
    "None": (int | None, None),
    "model": (Cat, Cat(lives=3)),
    "models": (list[Dog], [Dog(name="Fido")]),
    "union": (Cat | Dog, Dog()),
    "discriminated union": (Annotated[Cat | Dog, Field(discriminator="kind")], Dog()),
    "generic": (Box[Decimal], Box[Decimal](content=Decimal("2.50"))),
    "TypedDict": (Row, {"at": datetime(2026, 1, 1, tzinfo=UTC), "n": 1}),
    "dataclass": (Part, Part(datetime(2026, 1, 1, tzinfo=UTC), Decimal("1.10"))),
    "itself": (Node, Node(number=1, next=Node(number=2))),
    "Json": (Json[list[int]], "[1, 2]"),
    "Json of anything": (Json, '{"a": [1]}'),
    "complex": (complex, 1j),
}


@pytest.mark.parametrize("base", [BaseEvent, BaseModel])
@pytest.mark.parametrize("name", FIELDS)
def test_a_field_of_an_event_is_read_back_equal(name: str, base: type[BaseModel]) -> None:
    annotation, value = FIELDS[name]
    model: Any = create_model("Made", __base__=base, x=(annotation, ...))
    assert_same(model(x=value))


def made(name: str, base: Any = BaseModel, config: ConfigDict | None = None, **fields: Any) -> Any:
    return create_model(name, __base__=_with(config, base), **fields)


def _with(config: ConfigDict | None, base: Any) -> Any:
    return base if config is None else type("Configured", (base,), {"model_config": config, "__module__": __name__})


class Forbids(BaseModel):
    model_config = ConfigDict(extra="forbid")
    n: int

    @computed_field  # type: ignore[prop-decorator]  # as pydantic documents it
    @property
    def double(self) -> int:
        return self.n * 2


class Holds(BaseModel):
    model_config = ConfigDict(extra="forbid")
    inner: Forbids


class Renames(BaseModel):
    x: int = Field(serialization_alias="ex")

    @model_validator(mode="before")
    @classmethod
    def take_old_name(cls, values: Any) -> Any:
        return {"x": values["ex"]} if "ex" in values else values


class Spelled(BaseModel):
    x: Json[int]

    @field_serializer("x")
    def spell(self, value: int) -> str:
        return str(value)


BOTH_WAYS: Final[dict[str, Callable[[Any], Any]]] = {
    "alias": lambda base: made("A", base, x=(int, Field(alias="ex")))(ex=1),
    "both aliases": lambda base: made("A", base, x=(int, Field(validation_alias="ex", serialization_alias="ex")))(ex=1),
    "own name among choices": lambda base: made(
        "A", base, x=(int, Field(validation_alias=AliasChoices("old", AliasPath("a", 0), "x")))
    )(old=1),
    "by name": lambda base: made("A", base, ConfigDict(validate_by_name=True), x=(int, Field(validation_alias="ex")))(
        x=1
    ),
    "generated alias": lambda base: made("A", base, ConfigDict(alias_generator=str.upper), abc=(int, ...))(ABC=1),
    "bytes as base64": lambda base: made(
        "A", base, ConfigDict(ser_json_bytes="base64", val_json_bytes="base64"), x=(bytes, ...)
    )(x=b"\xff\x00"),
    "timedelta as a number": lambda base: made("A", base, ConfigDict(ser_json_timedelta="float"), x=(timedelta, ...))(
        x=timedelta(seconds=1.5)
    ),
    "infinity as text": lambda base: made(
        "A", base, ConfigDict(allow_inf_nan=True, ser_json_inf_nan="strings"), x=(float, ...)
    )(x=math.inf),
    "a model in a list": lambda base: made("A", base, x=(list[Node], ...))(x=[Node(number=1)]),
    "Json in a model": lambda base: made("A", base, x=(made("J", y=(Json[int], ...)), ...))(x={"y": "1"}),
    "a serializer and a validator": lambda base: Renames(x=1),
    "a serializer of Json": lambda base: Spelled(x="1"),  # type: ignore[arg-type]  # as Json is given
    "left out with a default": lambda base: made("A", base, x=(int, Field(default=1, exclude=True)))(),
}


@pytest.mark.parametrize("base", [BaseEvent, BaseModel])
@pytest.mark.parametrize("name", BOTH_WAYS)
def test_names_that_are_written_and_read_are_read_back_equal(name: str, base: type[BaseModel]) -> None:
    assert_same(BOTH_WAYS[name](base))


ONE_WAY: Final[dict[str, Callable[[Any], Any]]] = {
    "validation_alias": lambda base: made("A", base, x=(int, Field(validation_alias="ex")))(ex=1),
    "validation_alias with a default": lambda base: made("A", base, x=(int, Field(default=3, validation_alias="ex")))(
        ex=1
    ),
    "serialization_alias": lambda base: made("A", base, x=(int, Field(serialization_alias="ex")))(x=1),
    "serialization_alias with a default": lambda base: made(
        "A", base, x=(int, Field(default=3, serialization_alias="ex"))
    )(x=1),
    "choices without its own name": lambda base: made(
        "A", base, x=(int, Field(validation_alias=AliasChoices("a", "b")))
    )(a=1),
    "a path": lambda base: made("A", base, x=(int, Field(validation_alias=AliasPath("a", 0))))(a=[1]),
    "two aliases": lambda base: made("A", base, x=(int, Field(alias="ex", serialization_alias="out")))(ex=1),
    "a generator of one": lambda base: made(
        "A", base, ConfigDict(alias_generator=AliasGenerator(serialization_alias=str.upper)), abc=(int, ...)
    )(abc=1),
    "aliases that are not read": lambda base: made(
        "A", base, ConfigDict(validate_by_alias=False, validate_by_name=True), x=(int, Field(alias="ex"))
    )(x=1),
    "in a model": lambda base: made("A", base, inner=(made("I", x=(int, Field(validation_alias="ex"))), ...))(
        inner={"ex": 1}
    ),
    "in a list in a union": lambda base: made(
        "A",
        base,
        inner=(
            list[Cat | made("I", x=(int, Field(serialization_alias="ex")))],  # type: ignore[misc]  # made here
            ...,
        ),
    )(inner=[{"x": 1}]),
    "left out": lambda base: made("A", base, x=(int, Field(exclude=True)))(x=1),
    "bytes as base64": lambda base: made("A", base, ConfigDict(ser_json_bytes="base64"), x=(bytes, ...))(x=b"\xff\xfe"),
    "keys that are tuples": lambda base: made("A", base, x=(dict[tuple[int, int], str], ...))(x={(1, 2): "a"}),
}


@pytest.mark.parametrize("base", [BaseEvent, BaseModel])
@pytest.mark.parametrize("name", ONE_WAY)
def test_what_could_not_be_read_back_is_refused_by_the_name_of_its_field(name: str, base: type[BaseModel]) -> None:
    event = ONE_WAY[name](base)
    for _ in range(2):  # what is remembered of a model is no leave
        with pytest.raises(EventRejected, match=r"^A could not be read back: (x|abc|inner\.x) .*; or emit a dict"):
            encode(event)


def test_json_beside_a_computed_field_is_refused() -> None:
    class Both(BaseModel):
        x: Json[int]

        @computed_field  # type: ignore[prop-decorator]  # as pydantic documents it
        @property
        def double(self) -> int:
            return self.x * 2

    with pytest.raises(EventRejected, match="declare the Json field as what it holds"):
        encode(Both(x="1"))  # type: ignore[arg-type]  # as Json is given


def test_a_model_of_others_names_is_read_though_it_can_not_be_emitted() -> None:
    model = made("A", x=(int, Field(validation_alias="ex")))
    assert make_decoder(model)(Record("t", 0, 1, None, b'{"ex": 1}', None, 0, 0)).x == 1


def test_a_field_that_a_validator_of_the_users_takes_is_not_looked_into() -> None:
    model = made("A", x=(Annotated[Json[int], BeforeValidator(str)], ...))
    assert read_back(model(x="1")).x == 1


@pytest.mark.parametrize("n", [1, 2])
def test_models_that_forbid_other_fields_come_back(n: int) -> None:
    assert read_back(Forbids(n=n)) == Forbids(n=n)
    assert read_back(Holds(inner=Forbids(n=n))) == Holds(inner=Forbids(n=n))


def test_a_root_model_of_an_object_comes_back_and_one_of_a_list_is_no_event() -> None:
    class Counts(RootModel[dict[str, int]]): ...

    class Rows(RootModel[list[int]]): ...

    assert read_back(Counts({"a": 1})) == Counts({"a": 1})
    with pytest.raises(EventRejected, match="no JSON object"):
        encode(Rows([1]))


# Dataclasses and dicts


@dataclass
class Everything:
    at: datetime
    price: Decimal
    colour: Colour
    parts: list[Part] = field(default_factory=list)
    some: set[int] = field(default_factory=set)
    took: timedelta = timedelta(0)
    raw: bytes = b""
    box: Box[int] | None = None


@pydantic.dataclasses.dataclass
class Renamed:
    x: int = Field(alias="ex")
    y: Json[int] = Field(default="1", validate_default=True)


@pydantic.dataclasses.dataclass
class OneWay:
    x: int = Field(validation_alias="ex")


@dataclass
class HoldsJson:
    x: Json[int]


@dataclass
class HoldsOneWay:
    inner: OneWay


def test_dataclasses_come_back() -> None:
    at = datetime(2026, 1, 1, 5, tzinfo=EAST)
    event = Everything(
        at, Decimal("1.10"), Colour.BLUE, [Part(at, Decimal(2))], {1}, timedelta(seconds=3), b"a", Box[int](content=1)
    )
    assert read_back(event) == event
    renamed: Any = Renamed(ex=1, y="2")  # type: ignore[call-arg, arg-type]  # as aliases and Json are given
    assert (read_back(renamed).x, read_back(renamed).y) == (1, 2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: OneWay(ex=1),  # type: ignore[call-arg]  # as an alias is given
        lambda: HoldsOneWay(OneWay(ex=1)),  # type: ignore[call-arg]  # as an alias is given
        lambda: HoldsJson(1),  # type: ignore[arg-type]  # what it holds
    ],
    ids=["pydantic's", "nested", "Json"],
)
def test_dataclasses_that_could_not_be_read_back_are_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(EventRejected, match="could not be read back"):
        encode(make())


def test_a_typed_dict_comes_back() -> None:
    row: Row = {"at": datetime(2026, 1, 1, tzinfo=UTC), "n": 1}
    read = read_back(row, Row)
    assert (read["at"], read["n"]) == (row["at"], 1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("base", [BaseEvent, BaseModel])
def test_no_number_that_json_has_not_is_emitted(base: type[BaseModel], value: float) -> None:
    loose = made("A", base, ConfigDict(allow_inf_nan=True), x=(float, ...))
    with pytest.raises(EventRejected, match=r"NaN|Infinity|infinite"):
        encode(loose(x=value))


def test_a_secret_is_not_emitted_as_stars() -> None:
    with pytest.raises(EventRejected, match="x is a secret"):
        encode(made("A", x=(SecretStr, ...))(x="a"))


# null


@pytest.mark.parametrize("base", [BaseEvent, BaseModel])
def test_null_is_a_value_and_not_the_default_of_a_field_of_the_users(base: type[BaseModel]) -> None:
    model = made("A", base, amount=(float, 1.5), note=(str | None, "none"))
    decode = make_decoder(model)
    read = decode(Record("t", 0, 1, None, b'{"note": null, "event_type": "A"}', None, 0, 0))
    assert (read.amount, read.note) == (1.5, None)
    with pytest.raises(SchemaError, match=r"payload is no A: amount: Input should be a valid number"):
        decode(Record("t", 0, 1, None, b'{"amount": null, "event_type": "A"}', None, 0, 0))


# States of windows


@pytest.mark.parametrize(
    "fields",
    [{"x": (int, Field(default=0, validation_alias="ex"))}, {"x": (Json[int], 0)}],
    ids=["an alias of one way", "Json"],
)
def test_a_state_that_could_not_be_read_back_is_refused_at_decoration(fields: dict[str, Any]) -> None:
    model = made("State", **fields)

    def fold(event: BaseEvent, state: Any) -> Any:
        return state

    fold.__annotations__["state"] = model | None
    with pytest.raises(ConfigurationError, match="state could not be read back"):
        Stream(topic="in", group="g").window("in", TumblingWindow(1_000), emit="final", to="out", name="w")(fold)


# Any model

_LEAVES: Final[dict[Any, st.SearchStrategy[Any]]] = {
    int: st.integers(),
    float: st.floats(allow_nan=False, allow_infinity=False),
    str: st.text(st.characters(exclude_categories=["Cs"])),
    bool: st.booleans(),
    Decimal: st.decimals(allow_nan=False, allow_infinity=False),
    datetime: st.datetimes(timezones=st.just(UTC)),
    date: st.dates(),
    uuid.UUID: st.uuids(),
    bytes: st.text(st.characters(exclude_categories=["Cs"])).map(str.encode),
    Colour: st.sampled_from(Colour),
    Json[int]: st.integers().map(str),
    timedelta: st.timedeltas(timedelta(days=-10_000), timedelta(days=10_000)),
}
_NAMES: Final = st.sampled_from(["x", "ex", "out"])
_ALIASES: Final = st.fixed_dictionaries(
    {},
    optional={
        "alias": _NAMES,
        "validation_alias": _NAMES | st.lists(_NAMES, min_size=1).map(lambda names: AliasChoices(*names)),
        "serialization_alias": _NAMES,
    },
)


@st.composite
def _fields(draw: st.DrawFn) -> tuple[Any, st.SearchStrategy[Any]]:
    leaf = draw(st.sampled_from(list(_LEAVES)))
    values = _LEAVES[leaf]
    shape = draw(st.sampled_from(["one", "list", "set", "dict", "tuple", "optional"]))
    if shape == "list":
        return list[leaf], st.lists(values, max_size=3)  # type: ignore[valid-type]  # made here
    if shape == "set" and leaf is not Json[int]:
        return frozenset[leaf], st.frozensets(values, max_size=3)  # type: ignore[valid-type]  # made here
    if shape == "dict":
        return dict[str, leaf], st.dictionaries(_LEAVES[str], values, max_size=3)  # type: ignore[valid-type]  # made here
    if shape == "tuple":
        return tuple[leaf, int], st.tuples(values, st.integers())  # type: ignore[valid-type]  # made here
    if shape == "optional":
        return leaf | None, st.none() | values
    return leaf, values


@given(data=st.data(), base=st.sampled_from([BaseEvent, BaseModel]), is_nested=st.booleans(), by_name=st.booleans())
def test_whatever_emit_takes_is_read_back_equal(
    data: st.DataObject, base: type[BaseModel], is_nested: bool, by_name: bool
) -> None:
    annotation, values = data.draw(_fields())
    aliases = data.draw(_ALIASES)
    config = ConfigDict(validate_by_name=by_name, validate_by_alias=True)
    inner_base = BaseModel if is_nested else base
    options: dict[str, Any] = dict(aliases)
    if data.draw(st.booleans()):
        options["default"] = None
    model = made("Inner", inner_base, config, x=(annotation, Field(**options)))
    given_value = data.draw(values)
    alias = aliases.get("validation_alias", aliases.get("alias", "x"))
    name = alias.choices[0] if isinstance(alias, AliasChoices) else alias
    event = model(**{str(name): given_value})
    if is_nested:
        event = made("Outer", base, inner=(model, ...))(inner=event)
    try:
        encode(event)
    except EventRejected as refused:
        assert "could not be read back" in str(refused)  # noqa: PT017 (what was refused is refused for that alone)
        assert "alias" in repr(aliases)
        return
    read = read_back(event)
    if is_nested:
        assert read.inner.x == event.inner.x
    else:
        assert read.x == event.x
