"""Declared topics: values that are a topic's name, and what they can't be declared with."""

import copy
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from pspf import Stream
from pspf.errors import ConfigurationError, EventRejected, NotAvailable
from pspf.events.encoding import encode
from pspf.events.topic import DeclaredTopic


class Order(BaseModel):
    customer_id: str
    amount: float = 0


def make_stream() -> Stream:
    return Stream(topic="events", group="g")


def test_a_declared_topic_is_its_name_and_does_not_change() -> None:
    orders = make_stream().topic("orders", partitions=16, retention="7d", key="customer_id", schema=Order)
    assert orders == "orders"
    assert {"orders": 1}[orders] == 1
    assert str(orders) == "orders"
    assert type(str(orders)) is str
    assert (orders.partitions, orders.retention_ms) == (16, 604_800_000)
    assert copy.deepcopy(orders) is orders
    assert "16 partitions" in repr(orders)
    with pytest.raises(AttributeError):
        orders.partitions = 3


@pytest.mark.parametrize(
    ("retention", "retention_ms"),
    [
        ("forever", -1),
        ("consumed", 0),
        ("90m", 5_400_000),
        (timedelta(days=1), 86_400_000),
        (1_000, 1_000),
        (None, None),
    ],
)
def test_a_retention_is_a_duration_or_one_of_two_words(retention: Any, retention_ms: int | None) -> None:
    assert DeclaredTopic("orders", retention=retention).retention_ms == retention_ms


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("a b", {}, "a b"),
        ("orders-dlq", {}, "-dlq"),
        (5, {}, "takes a name"),
        ("orders", {"partitions": 0}, "partitions=0"),
        ("orders", {"partitions": True}, "partitions=True"),
        ("orders", {"partitions": 1_025}, "1 to 1024"),
        ("orders", {"retention": 0}, "consumed"),
        ("orders", {"retention": "0s"}, "consumed"),
        ("orders", {"retention": "7"}, "no unit"),
        ("orders", {"retention": "for ever"}, "7d"),
        ("orders", {"key": ""}, "key=''"),
        ("orders", {"key": 5}, "key=5"),
        ("orders", {"key": "costumer_id", "schema": Order}, "did you mean 'customer_id'"),
        ("orders", {"schema": int}, "int"),
    ],
)
def test_what_no_topic_can_be_declared_with_is_refused(name: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        make_stream().topic(name, **options)


def test_compaction_is_not_in_this_version() -> None:
    with pytest.raises(NotAvailable, match="compact"):
        make_stream().topic("customers", retention="compact")


def test_a_topic_is_declared_twice_only_alike() -> None:
    stream = make_stream()
    stream.topic("orders", partitions=4, key="customer_id")
    stream.topic("orders", partitions=4, key="customer_id")
    for options in ({"partitions": 8, "key": "customer_id"}, {"partitions": 4}, {"partitions": 4, "key": "id"}):
        with pytest.raises(ConfigurationError, match="orders"):
            stream.topic("orders", **options)  # type: ignore[arg-type]  # a mapping of several types


def test_the_streams_own_number_of_partitions_is_a_declaration_too() -> None:
    stream = Stream(topic="orders", group="g", partitions=4)
    stream.topic("orders", retention="1d")
    assert [tuple(each) for each in stream.topics_to_make()] == [("orders", 4, 86_400_000)]
    with pytest.raises(ConfigurationError, match="4 partitions and with 8"):
        stream.topic("orders", partitions=8, retention="1d")


def test_declarations_of_included_streams_are_taken_in_later_ones_as_well() -> None:
    inner, app = Stream(topic="paid", group="pay", partitions=2), make_stream()
    inner.topic("payments", partitions=4)
    app.include(inner)
    inner.topic("refunds", partitions=3)
    assert [tuple(each)[:2] for each in app.topics_to_make()] == [("paid", 2), ("payments", 4), ("refunds", 3)]
    with pytest.raises(ConfigurationError, match="payments"):
        app.topic("payments", partitions=8)
    app.topic("audit", partitions=8)
    with pytest.raises(ConfigurationError, match="audit"):
        inner.topic("audit", partitions=9)
    assert "audit" not in [each.topic for each in inner.topics_to_make()]


def test_a_stream_whose_declarations_differ_is_not_included() -> None:
    inner, app = make_stream(), make_stream()
    inner.topic("ok")
    inner.topic("orders", partitions=4)
    app.topic("orders", partitions=8)
    with pytest.raises(ConfigurationError, match="orders"):
        app.include(inner)
    assert [each.topic for each in app.topics_to_make()] == ["orders"]


def test_the_model_of_handlers_is_the_topics_unless_they_name_one() -> None:
    class Narrow(BaseModel):
        amount: float

    stream = Stream(topic="events", group="g", schema=dict)
    orders = stream.topic("orders", schema=Order)

    @stream.subscribe(orders, name="by topic")
    async def by_topic(event) -> None: ...  # type: ignore[no-untyped-def]  # what has no annotation is asked for

    @stream.subscribe("orders", name="by name", group="h")
    async def by_name(event) -> None: ...  # type: ignore[no-untyped-def]  # as above

    @stream.subscribe(orders, name="its own", group="i")
    async def its_own(event: Narrow) -> None: ...

    @stream.subscribe("other", name="the streams")
    async def the_streams(event) -> None: ...  # type: ignore[no-untyped-def]  # as above

    assert [each.model for each in stream.subscriptions] == [Order, Order, Narrow, dict]
    assert all(type(each.topic) is str for each in stream.subscriptions)


@dataclass
class Plain:
    customer_id: str


@pytest.mark.parametrize("event", [{"customer_id": "ada"}, Order(customer_id="ada"), Plain("ada")])
@pytest.mark.parametrize("key", ["customer_id", lambda event: event.customer_id])
@pytest.mark.parametrize("schema", [None, Order])
def test_the_key_of_an_event_is_the_topics_unless_one_is_passed(event: Any, key: Any, schema: Any) -> None:
    if schema is None and isinstance(event, dict) and callable(key):
        return  # without a schema the function gets the event as it is
    topic = DeclaredTopic("orders", key=key, schema=schema)
    assert topic.finish(event, encode(event), has_key=False).raw_key == b"ada"
    assert topic.finish(event, encode(event, key="bob"), has_key=True).raw_key == b"bob"


@pytest.mark.parametrize(
    ("options", "event", "said"),
    [
        ({"key": "customer_id"}, {"amount": 1}, "keyed by 'customer_id'"),
        ({"key": "customer_id"}, {"customer_id": [1]}, "key"),
        ({"key": lambda event: event["who"]}, {"amount": 1}, "KeyError"),
        ({"key": lambda event: "\ud800"}, {"amount": 1}, "UTF-8"),
        ({"schema": Order}, {"amount": 1}, "takes Order"),
        ({"schema": Order}, {"customer_id": 5}, "takes Order"),
    ],
)
def test_an_event_that_does_not_fit_its_topic_is_refused(options: dict[str, Any], event: Any, said: str) -> None:
    with pytest.raises(EventRejected, match=said):
        DeclaredTopic("orders", **options).finish(event, encode(event), has_key=False)
