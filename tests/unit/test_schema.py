"""Event models, the registry, and the way from an event to bytes and back."""

import enum
import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, ClassVar, Generic, Literal, TypeVar

import pytest
from pydantic import BaseModel, ConfigDict, Field, RootModel, field_validator
from typing_extensions import TypedDict

from pspf.errors import ConfigurationError, EventRejected, SchemaError
from pspf.events.decoding import Decoder, decode_raw, make_decoder
from pspf.events.encoding import encode
from pspf.events.event import BaseEvent
from pspf.records import Record
from pspf.schema import SchemaRegistry


class Order(BaseEvent):
    order_id: int = 0
    amount: float = 0.0


class PlainOrder(BaseModel):
    order_id: int = 0


@dataclass
class DataOrder:
    order_id: int = 0


class TypedOrder(TypedDict):
    order_id: int


def a_record(value: bytes, *, partition: int = 0, offset: int = 42, raw_key: bytes | None = None) -> Record:
    return Record("orders", partition, offset, raw_key, value, None, 1_700_000_000_123)


@pytest.fixture
def registry() -> Iterator[type[SchemaRegistry]]:
    yield SchemaRegistry
    for event_type in ("Order", "PlainOrder", "clash"):
        SchemaRegistry.unregister(event_type)


# BaseEvent


def test_event_ids_are_unique() -> None:
    assert len({BaseEvent().event_id for _ in range(1_000)}) == 1_000


def test_event_ids_are_unique_in_a_forked_child_too() -> None:
    code = """
import os
from pspf.events.event import BaseEvent

BaseEvent()
pid = os.fork()
if pid:
    os.waitpid(pid, 0)
print(BaseEvent().event_id, flush=True)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    child, parent = ran.stdout.split()
    assert len(parent) == len(child) == 32
    assert parent != child


def test_the_event_type_is_the_name_of_the_class() -> None:
    class Refund(Order):
        pass

    assert BaseEvent().event_type == "BaseEvent"
    assert Order().event_type == "Order"
    assert Refund().event_type == "Refund"
    assert "event_type" not in Order().model_fields_set


def test_a_declared_event_type_is_kept_and_inherited() -> None:
    class Paid(BaseEvent):
        event_type: Literal["order.paid"] = "order.paid"

    class PaidTwice(Paid):
        pass

    assert Paid().event_type == "order.paid"
    assert PaidTwice().event_type == "order.paid"


def test_the_event_type_of_a_generic_model_has_no_parameters() -> None:
    T = TypeVar("T")

    class Box(BaseEvent, Generic[T]):
        content: T

    assert Box[int](content=1).event_type == "Box"


def test_an_alias_generator_does_not_rename_the_envelope() -> None:
    class Camel(BaseEvent):
        model_config = ConfigDict(alias_generator=lambda name: name.upper(), validate_by_name=True)
        amount: int

    stored = json.loads(encode(Camel(amount=1)).value)
    assert stored.keys() == {"event_id", "event_type", "timestamp", "key", "AMOUNT"}
    assert make_decoder(Camel)(a_record(encode(Camel(amount=3)).value)).amount == 3


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (datetime(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC)),  # noqa: DTZ001 (what is tested)
        ("2026-01-01T00:00:00", datetime(2026, 1, 1, tzinfo=UTC)),
        ("2026-01-01T02:00:00+02:00", datetime(2026, 1, 1, tzinfo=UTC)),
        ("2026-01-01T00:00:00Z", datetime(2026, 1, 1, tzinfo=UTC)),
        (1_700_000_000, datetime.fromtimestamp(1_700_000_000, UTC)),
        (1_700_000_000_123, datetime.fromtimestamp(1_700_000_000.123, UTC)),
    ],
)
def test_a_timestamp_becomes_aware_and_utc(given: object, expected: datetime) -> None:
    stamp = BaseEvent.model_validate({"timestamp": given}).timestamp
    assert stamp == expected
    assert stamp.utcoffset() == timedelta(0)


def test_a_timestamp_that_utc_can_not_hold_is_a_validation_error() -> None:
    with pytest.raises(ValueError, match="years 1 to 9999"):
        BaseEvent.model_validate({"timestamp": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5)))})


def test_nan_is_no_value_of_an_event() -> None:
    with pytest.raises(ValueError, match="finite"):
        Order(amount=float("nan"))


def test_numbers_are_taken_as_key_and_id() -> None:
    event = BaseEvent.model_validate_json(b'{"event_id": 7, "key": 8}')
    assert (event.event_id, event.key) == ("7", "8")


# offset


def test_offset_is_none_until_the_event_is_handled() -> None:
    assert Order().offset is None
    assert make_decoder(Order)(a_record(b"{}")).offset == "42"
    assert make_decoder(Order)(a_record(b"{}", partition=3)).offset == "3:42"
    assert make_decoder(Order)(a_record(b"{}", offset=5 << 64)).offset == "5-0"


def test_offset_shows_in_no_dump_and_no_comparison() -> None:
    event = make_decoder(Order)(a_record(encode(Order(event_id="a")).value))
    twin = Order.model_validate(event.model_dump())
    assert event.offset == "42"
    assert event == twin
    assert "offset" not in event.model_dump()
    assert "offset" not in event.model_dump_json()
    assert "offset" not in repr(event)
    assert "offset" not in Order.model_json_schema()["properties"]
    assert event.model_copy(update={"amount": 2.0}).offset == "42"


def test_a_payload_may_have_an_entry_offset() -> None:
    event = make_decoder(Order)(a_record(b'{"offset": 7}'))
    assert event.offset == "42"
    assert event.model_dump()["offset"] == 7
    assert json.loads(encode(event).value)["offset"] == 7


def test_a_model_keeps_a_field_offset_of_its_own() -> None:
    class Seek(BaseEvent):
        offset: int  # type: ignore[assignment]

    assert Seek(offset=7).offset == 7
    assert make_decoder(Seek)(a_record(b'{"offset": 7}')).offset == 7
    with pytest.raises(SchemaError, match="offset: Field required"):
        make_decoder(Seek)(a_record(b"{}"))


# encode


def test_an_event_is_a_model_or_a_dict() -> None:
    for event, name in (([1], "list"), ("text", "str"), (None, "NoneType"), (Order, "the class Order")):
        with pytest.raises(EventRejected, match=name):
            encode(event)
    with pytest.raises(ValueError, match="not int"):
        encode(7)


def test_a_dict_gets_an_event_type_and_stays_as_it_is() -> None:
    event = {"amount": 1}
    assert json.loads(encode(event).value) == {"event_type": "GenericEvent", "amount": 1}
    assert json.loads(encode({}).value) == {"event_type": "GenericEvent"}
    assert json.loads(encode({"a": 1, "event_type": ""}).value) == {"a": 1, "event_type": "GenericEvent"}
    assert json.loads(encode({"event_type": "order"}).value) == {"event_type": "order"}
    assert event == {"amount": 1}


def test_a_model_gets_the_name_of_its_class() -> None:
    class Named(BaseModel):
        event_type: ClassVar[str] = "order.named"
        amount: int = 1

    class Optional(BaseModel):
        event_type: str | None = None

    event = Order(event_type="")
    assert json.loads(encode(PlainOrder(order_id=7)).value) == {"event_type": "PlainOrder", "order_id": 7}
    assert json.loads(encode(event).value)["event_type"] == "Order"
    assert event.event_type == ""
    assert json.loads(encode(Named()).value) == {"event_type": "order.named", "amount": 1}
    assert json.loads(encode(Optional()).value) == {"event_type": "Optional"}


def test_only_an_id_of_the_caller_de_duplicates() -> None:
    assert encode(Order()).event_id is None
    assert encode({"a": 1}).event_id is None
    assert encode({"event_id": None}).event_id is None
    assert encode(Order(event_id="mine")).event_id == "mine"
    assert encode({"event_id": "mine"}).event_id == "mine"
    assert encode({"event_id": 7}).event_id == "7"
    assert encode({"event_id": uuid.UUID(int=1)}).event_id == str(uuid.UUID(int=1))


@pytest.mark.parametrize("event_id", ["", 1.5, True, ["a"]])
def test_an_id_that_is_no_text_is_rejected(event_id: object) -> None:
    with pytest.raises(EventRejected, match="event_id"):
        encode({"event_id": event_id})


def test_the_key_is_the_argument_else_the_field() -> None:
    class Kind(enum.StrEnum):
        A = "kind-a"

    assert encode({"key": "a"}).raw_key == b"a"
    assert encode({"key": "a"}, key="b").raw_key == b"b"
    assert encode({"key": 7}).raw_key == b"7"
    assert encode({"key": Kind.A}).raw_key == b"kind-a"
    assert encode({"key": None}).raw_key is None
    assert encode(Order(key="ä")).raw_key == "ä".encode()
    assert encode(Order()).raw_key is None
    with pytest.raises(EventRejected, match="key is text or an integer, not dict"):
        encode({"key": {}})
    with pytest.raises(EventRejected, match="UTF-8"):
        encode({"a": 1}, key="\ud800")


def test_a_dict_holds_what_pydantic_can_write() -> None:
    event = {
        "at": datetime(2026, 1, 1, tzinfo=UTC),
        "id": uuid.UUID(int=1),
        "price": Decimal("1.10"),
        "order": PlainOrder(order_id=7),
        "data": DataOrder(order_id=8),
        "tags": {"a"},
    }
    assert json.loads(encode(event).value) == {
        "event_type": "GenericEvent",
        "at": "2026-01-01T00:00:00+00:00",
        "id": str(uuid.UUID(int=1)),
        "price": "1.10",
        "order": {"order_id": 7},
        "data": {"order_id": 8},
        "tags": ["a"],
    }


def nested(depth: int) -> Any:
    tree: Any = 1
    for _ in range(depth):
        tree = [tree]
    return tree


@pytest.mark.parametrize(
    ("tree", "reason"),
    [
        (float("nan"), r"a\.b is NaN or infinite"),
        (float("-inf"), r"a\.b is NaN or infinite"),
        ([1, [float("nan")]], r"a\.b\[1\]\[0\] is NaN"),
        (DataOrder(float("nan")), r"a\.b\.order_id is NaN"),  # type: ignore[arg-type]
        ({1: 2}, "key must be str"),
        (object(), "object"),
        (b"\xff", "utf-8"),
        ("\ud800", "surrogates"),
        (1 << 70, "64-bit"),
        (nested(99), "levels deep; at most 100"),
        (nested(300), "Recursion limit"),
    ],
)
def test_what_json_can_not_hold_is_rejected(tree: object, reason: str) -> None:
    with pytest.raises(EventRejected, match=reason):
        encode({"a": {"b": tree}})


def test_null_and_the_word_nan_are_values_like_others() -> None:
    assert decode_raw(a_record(encode({"a": None, "b": "NaN null Infinity"}).value))["b"] == "NaN null Infinity"
    assert json.loads(encode(BaseEvent(note="NaN", other=None)).value)["note"] == "NaN"  # type: ignore[call-arg]
    assert encode({"a": nested(99)}).value


def test_a_model_with_what_json_can_not_hold_is_rejected() -> None:
    class Loose(BaseModel):
        amount: float
        tree: Any = None

    for event in (
        Loose(amount=float("nan")),
        Loose(amount=1.0, tree={"a": [float("inf")]}),
        Loose(amount=1.0, tree=nested(100)),
        Loose(amount=1.0, tree=nested(5_000)),
        Loose(amount=1.0, tree="\ud800"),
        Loose(amount=1.0, tree=object()),
        BaseEvent(amount=float("nan")),  # type: ignore[call-arg]
        RootModel[list[int]]([1]),
    ):
        with pytest.raises(EventRejected):
            encode(event)


def test_a_tree_that_holds_itself_is_rejected() -> None:
    event: dict[str, Any] = {}
    event["self"] = event
    with pytest.raises(EventRejected):
        encode(event)


# decoders


def test_what_is_encoded_is_decoded() -> None:
    class Alias(BaseEvent):
        order_id: int = Field(alias="orderId")

    for event in (Order(order_id=7, amount=1.5, key="k", note="x"), Alias(orderId=3)):  # type: ignore[call-arg]
        assert make_decoder(type(event))(a_record(encode(event).value)) == event
    assert make_decoder(PlainOrder)(a_record(encode(PlainOrder(order_id=7)).value)) == PlainOrder(order_id=7)
    assert make_decoder(DataOrder)(a_record(encode({"order_id": 7}).value)) == DataOrder(7)
    assert make_decoder(TypedOrder)(a_record(b'{"order_id": 7}')) == {"order_id": 7}
    assert make_decoder(dict)(a_record(b'{"a": 1}')) == {"a": 1}
    assert make_decoder(dict[str, Any])(a_record(b'{"a": 1}')) == {"a": 1}


def test_models_that_forbid_extra_fields_get_no_event_type() -> None:
    class Strict(BaseModel):
        model_config = ConfigDict(extra="forbid")
        order_id: int

    class Counts(RootModel[dict[str, int]]):
        pass

    assert make_decoder(Strict)(a_record(encode(Strict(order_id=7)).value)) == Strict(order_id=7)
    assert make_decoder(Counts)(a_record(encode(Counts({"a": 1})).value)) == Counts({"a": 1})
    assert make_decoder(dict[str, int])(a_record(encode({"a": 1}).value)) == {"a": 1}


def test_a_union_gives_the_member_that_fits() -> None:
    class Paid(BaseEvent):
        event_type: Literal["paid"] = "paid"

    class Refunded(BaseEvent):
        event_type: Literal["refunded"] = "refunded"

    event = make_decoder(Paid | Refunded)(a_record(encode(Refunded()).value))
    assert type(event) is Refunded
    assert event.offset == "42"


def test_what_the_payload_leaves_open_comes_from_the_record() -> None:
    event = make_decoder(Order)(a_record(b'{"order_id": 7}', partition=1, raw_key=b"k"))
    assert event.event_id == "orders/1:42"
    assert event.timestamp == datetime.fromtimestamp(1_700_000_000.123, UTC)
    assert event.key == "k"
    assert event.event_type == "Order"
    assert event.model_fields_set == {"order_id"}
    assert encode(event).event_id is None


def test_what_the_payload_says_is_kept() -> None:
    value = b'{"event_id": "a", "timestamp": 0, "key": "own", "event_type": "other"}'
    event = make_decoder(Order)(a_record(value, raw_key=b"k"))
    assert (event.event_id, event.key, event.event_type) == ("a", "own", "other")
    assert event.timestamp == datetime(1970, 1, 1, tzinfo=UTC)


def test_a_null_key_is_filled_from_the_record() -> None:
    assert make_decoder(Order)(a_record(encode(Order()).value, raw_key=b"k")).key == "k"


def test_fields_of_another_type_are_not_filled() -> None:
    class Numbered(BaseEvent):
        event_id: int = 0  # type: ignore[assignment]
        key: int | None = None  # type: ignore[assignment]

    event = make_decoder(Numbered)(a_record(b"{}", raw_key=b"k"))
    assert (event.event_id, event.key, event.offset) == (0, None, "42")


def test_a_key_that_is_not_utf_8_is_a_schema_error() -> None:
    with pytest.raises(SchemaError, match="not UTF-8"):
        make_decoder(Order)(a_record(b"{}", raw_key=b"\xff"))


@pytest.mark.parametrize("model", [None, BaseEvent])
def test_a_registered_type_is_read_as_its_model(model: Any, registry: type[SchemaRegistry]) -> None:
    registry.register("Order", Order)
    decode = make_decoder(model)
    event = decode(a_record(encode(Order(order_id=7)).value))
    assert type(event) is Order
    assert event.offset == "42"
    unknown = decode(a_record(b'{"event_type": "unknown", "a": 1, "big": 123456789012345678901234567890}'))
    assert type(unknown) is BaseEvent
    assert unknown.model_extra == {"a": 1, "big": 123456789012345678901234567890}
    assert unknown.event_id == "orders/42"
    with pytest.raises(SchemaError, match="payload is no Order"):
        decode(a_record(b'{"event_type": "Order", "order_id": "x"}'))


def test_a_type_has_one_model(registry: type[SchemaRegistry]) -> None:
    registry.register("clash", Order)
    registry.register("clash", Order)
    with pytest.raises(ConfigurationError, match=r"'clash' is registered with .*Order; unregister it"):
        registry.register("clash", PlainOrder)
    assert registry.get("clash") is Order
    registry.unregister("clash")
    registry.unregister("clash")
    assert registry.get("clash") is None
    registry.register("clash", PlainOrder)


def test_what_pydantic_can_not_validate_is_a_configuration_error() -> None:
    class Thing:
        pass

    class Open(BaseModel):
        other: "Missing"  # type: ignore[name-defined]  # noqa: F821

    for model in (Thing, Open):
        with pytest.raises(ConfigurationError, match=f"can't be read as {model.__name__}"):
            make_decoder(model)


# payloads that are none

DECODERS = {
    "BaseEvent": make_decoder(None),
    "Order": make_decoder(Order),
    "pydantic": make_decoder(PlainOrder),
    "dataclass": make_decoder(DataOrder),
    "dict": make_decoder(dict),
    "typed dict": make_decoder(dict[str, Any] | None),
}

BAD = {
    "truncated": b'{"order_id": 7, "amo',
    "empty": b"",
    "array": b"[1]",
    "scalar": b"7",
    "BOM": b"\xef\xbb\xbf{}",
    "UTF-16": '{"order_id": 7}'.encode("utf-16"),
    "NaN": b'{"order_id": 7, "x": NaN}',
    "infinity": b'{"x": -Infinity}',
    "lone surrogate": b'{"x": "\\ud800"}',
    "raw NUL": b'{"x": "\x00"}',
    "invalid UTF-8": b'{"x": "\xff\xfe"}',
    "depth": b'{"x":' * 100_000,
    "deep arrays": b'{"x":' + b"[" * 100_000,
    "two documents": b"{}{}",
    "long integer": b'{"x": ' + b"1" * 5_000 + b"}",
}


@pytest.mark.parametrize("decode", DECODERS.values(), ids=DECODERS.keys())
@pytest.mark.parametrize("value", BAD.values(), ids=BAD.keys())
def test_a_bad_payload_is_a_schema_error(value: bytes, decode: Decoder) -> None:
    with pytest.raises(SchemaError) as caught:
        decode(a_record(value))
    assert len(str(caught.value)) <= 300
    str(caught.value).encode()


@pytest.mark.parametrize("name", ["BaseEvent", "Order", "pydantic", "dataclass", "dict"])
def test_null_is_no_event(name: str) -> None:
    with pytest.raises(SchemaError):
        DECODERS[name](a_record(b"null"))


@pytest.mark.parametrize("name", ["BaseEvent", "Order", "dict"])
def test_a_number_that_no_float_holds_is_a_schema_error(name: str) -> None:
    for value in (b'{"x": 1e400}', b'{"x": {"y": [-1e400]}}', b'{"amount": 1e400}'):
        with pytest.raises(SchemaError):
            DECODERS[name](a_record(value))


@pytest.mark.parametrize("decode", DECODERS.values(), ids=DECODERS.keys())
def test_odd_payloads_are_clean_events(decode: Decoder) -> None:
    for value in (b'{"order_id": 1, "order_id": 2}', b'{"x": "\\u0000"}', b' {"x": "NaN"}\n', b'{"offset": 1}'):
        event = decode(a_record(value))
        if isinstance(event, BaseModel):
            encode(event)


def test_of_a_name_that_comes_twice_the_last_counts() -> None:
    for model in (None, Order, PlainOrder):
        assert make_decoder(model)(a_record(b'{"order_id": 1, "order_id": 2}')).order_id == 2
    assert decode_raw(a_record(b'{"order_id": 1, "order_id": 2}')) == {"order_id": 2}


def test_an_error_names_the_model_and_the_field_and_not_the_payload() -> None:
    secret = "s3cret" * 100_000
    value = json.dumps({"order_id": secret, "amount": secret}).encode()
    with pytest.raises(SchemaError) as caught:
        make_decoder(Order)(a_record(value))
    message = str(caught.value)
    assert message.startswith("payload is no Order: order_id: Input should be a valid integer")
    assert "amount: " in message
    assert "s3cret" not in message
    assert caught.value.__cause__ is None


def test_many_errors_are_counted() -> None:
    class Batch(BaseEvent):
        numbers: list[int]

    with pytest.raises(SchemaError, match=r"numbers\.2: .*; and 7 more"):
        make_decoder(Batch)(a_record(json.dumps({"numbers": ["x"] * 10}).encode()))


def test_whatever_a_validator_raises_is_a_schema_error() -> None:
    class Picky(BaseEvent):
        name: str

        @field_validator("name")
        @classmethod
        def check(cls, value: str) -> str:
            raise KeyError(value)

    with pytest.raises(SchemaError, match="payload is no Picky: KeyError: 'x'") as caught:
        make_decoder(Picky)(a_record(b'{"name": "x"}'))
    assert isinstance(caught.value.__cause__, KeyError)
