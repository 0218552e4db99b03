"""Topics declared in code: made at the start, checked against what is there, used by emits and handlers."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from pspf import Context, Count, Stream, TumblingWindow
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.contract.limits import Limits
from pspf.errors import ConfigurationError, EventRejected, TopicMismatch
from pspf.events.topic import DeclaredTopic
from pspf.records import NewRecord, partition_of
from pspf.testing import StreamTester
from tests.integration.running import GROUP, TOPIC, read_events, read_letters, run_until_drained
from tests.support.brokers import Kind

DAY_MS = 86_400_000


class Order(BaseModel):
    customer_id: str
    amount: float = 0


class Receipt(BaseModel):
    customer_id: str
    total: float


@pytest.mark.parametrize("start", ["emit", "enter", "run"])
async def test_a_declared_topic_is_made_at_the_start(backend: StreamingBackend, start: str) -> None:
    stream = Stream(backend)
    orders = stream.topic("orders", partitions=4, retention="1d")
    stream.topic("audit", retention="forever")

    @stream.subscribe(orders)
    async def handle(event: Order) -> None: ...

    if start == "emit":
        await stream.emit({"n": 1}, "elsewhere")
    elif start == "enter":
        async with stream:
            pass
    else:
        await run_until_drained(stream)
    await backend.connect()
    infos = {info.topic: (info.partitions, info.retention_ms) for info in await backend.broker.list_topics()}
    assert (infos["orders"], infos["audit"]) == ((4, DAY_MS), (1, -1))
    await stream.stop()


async def test_another_number_of_partitions_is_refused_and_none_takes_the_topic_as_it_is(
    backend: StreamingBackend,
) -> None:
    await backend.connect()
    await backend.broker.create_topic("orders", partitions=4)
    stream = Stream(backend)
    stream.topic("orders")
    await stream.emit({"n": 1}, "orders")
    await stream.stop()
    other = Stream(backend)
    other.topic("orders", partitions=8)
    with pytest.raises(TopicMismatch, match="has 4 partitions, not 8"):
        await other.emit({"n": 1}, "orders")
    await other.stop()


async def test_another_retention_is_warned_about_and_stays(
    backend: StreamingBackend, caplog: pytest.LogCaptureFixture
) -> None:
    await backend.connect()
    await backend.broker.create_topic("orders", retention_ms=DAY_MS)
    stream = Stream(backend)
    orders = stream.topic("orders", retention="2d")
    await stream.emit({"n": 1}, orders)
    assert "retention 1d and is declared with 2d" in caplog.text
    assert "pspf topics alter orders --retention 2d --execute" in caplog.text
    assert (await backend.broker.read_topic("orders"))[0].retention_ms == DAY_MS
    await stream.stop()
    caplog.clear()
    await backend.connect()
    await backend.broker.operations.set_retention("orders", 2 * DAY_MS)
    await stream.emit({"n": 2}, orders)
    assert "retention" not in caplog.text
    await stream.stop()


async def test_several_processes_that_start_at_once_make_a_topic_once(kind: Kind, tmp_path: Path) -> None:
    limits = Limits(synchronous="NORMAL")
    brokers = [kind.make(tmp_path, limits, None) for _ in range(4 if kind.is_shared else 1)]
    streams = [Stream(StreamingBackend(broker, TOPIC, GROUP)) for broker in brokers for _ in range(2)]
    topics = [stream.topic("orders", partitions=8, retention="1d", key="id") for stream in streams]
    await asyncio.gather(
        *(stream.emit({"id": n}, topic) for n, (stream, topic) in enumerate(zip(streams, topics, strict=True)))
    )
    info, partitions = await brokers[0].read_topic("orders")
    assert (info.partitions, info.retention_ms, len(partitions)) == (8, DAY_MS, 8)
    assert sum(each.records for each in partitions) == len(streams)
    for stream in streams:
        await stream.stop()


async def test_events_go_under_the_topics_key_unless_one_is_passed(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    orders = stream.topic("orders", partitions=4, key="customer_id", schema=Order)
    receipts = stream.topic("receipts", key=lambda receipt: receipt.customer_id, schema=Receipt)

    @stream.subscribe(orders, ordering="key")
    async def charge(order, ctx: Context) -> None:  # type: ignore[no-untyped-def]  # its model is the topic's
        assert isinstance(order, Order)
        spent = await ctx.state.get("spent", 0) + order.amount
        await ctx.state.put("spent", spent)
        ctx.emit({"customer_id": order.customer_id, "total": spent}, receipts)
        ctx.emit(Receipt(customer_id="of name", total=1), "receipts", key="passed")

    first = await stream.emit({"customer_id": "ada", "amount": 3}, orders)
    await stream.emit_many([Order(customer_id="ada", amount=4)], "orders")
    assert (await backend.broker.read("orders", partition_of(b"ada", 4), offset=0, max_records=1))[0].id == first
    await run_until_drained(stream)
    await backend.connect()
    records = await backend.broker.read("receipts", 0, offset=0, max_records=9)
    assert sorted(record.key or "" for record in records) == ["ada", "ada", "passed", "passed"]
    assert [e["total"] for e in await read_events(backend.broker, "receipts") if e["customer_id"] == "ada"] == [3, 7]
    await stream.stop()


async def test_an_event_that_does_not_fit_its_topic_is_not_stored(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    orders = stream.topic("orders", key="customer_id", schema=Order)
    for emit in (stream.emit({"amount": 1}, orders), stream.emit_many([Order(customer_id="a"), {"n": 1}], "orders")):
        with pytest.raises(EventRejected, match="takes Order"):
            await emit
    await stream.stop()
    assert await read_events(backend.broker, "orders") == []


async def test_a_handlers_event_that_does_not_fit_its_topic_is_a_dead_letter(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    receipts = stream.topic("receipts", schema=Receipt)

    @stream.subscribe(TOPIC)
    async def handle(event: dict[str, Any], ctx: Context) -> None:
        ctx.emit({"customer_id": "ada", "total": 1}, receipts)
        ctx.emit({"total": event["n"]}, receipts)

    await stream.emit({"n": 1})
    await run_until_drained(stream)
    (letter,) = await read_letters(backend.broker)
    assert (letter.error_type, letter.attempts) == ("EventRejected", 1)
    assert await read_events(backend.broker, "receipts") == []
    await stream.stop()


async def test_declared_topics_are_taken_wherever_a_topics_name_is(backend: StreamingBackend) -> None:
    topics = Stream(topic="x", group="y")
    orders, totals = topics.topic("orders"), topics.topic("totals")
    stream = Stream(StreamingBackend(backend.broker, orders, GROUP))
    stream.include(topics)
    stream.window(orders, TumblingWindow(60_000), emit="final", to=totals)(Count())
    async with StreamTester(stream, partitions={orders: 1}) as tester:
        await tester.send(orders, {"n": 1}, key="ada")
        await stream.emit({"n": 2, "key": "ada"}, orders)
        await stream.emit({"n": 3, "key": "ada"})
        await tester.settle()
        await tester.finish()
        assert [event["value"] for event in await tester.outputs(totals)] == [3]
        assert len(await tester.records(orders)) == 3
        assert await tester.late(orders) == []
        broker = tester.broker
        assert (await broker.read_topic(orders))[0].records == 3
        await broker.append(orders, [NewRecord(b"ada", b'{"n":4}')])
        await tester.settle()
        assert len(await tester.records(orders)) == 4
    clone = stream.backend.clone_with_topic(totals)
    assert clone.stream_key == "totals"


async def test_results_of_windows_have_to_fit_the_schema_of_their_topic(backend: StreamingBackend) -> None:
    class Total(BaseModel):
        key: str
        value: int

    class Other(BaseModel):
        nothing: str

    stream = Stream(backend)
    good, bad = stream.topic("good", schema=Total), stream.topic("bad", schema=Other)
    stream.window(TOPIC, TumblingWindow(60_000), emit="final", to=good, name="good")(Count())
    stream.window(TOPIC, TumblingWindow(60_000), emit="final", to=bad, name="bad")(Count())
    async with StreamTester(stream, raises=False) as tester:
        await tester.send(TOPIC, {"n": 1}, key="ada")
        await tester.finish()
        assert [event["value"] for event in await tester.outputs(good)] == [1]
        assert await tester.outputs(bad) == []
        (letter,) = await tester.dead_letters()
        assert (letter.handler, letter.is_result) == ("bad", True)


async def test_the_topics_key_is_that_of_events_that_a_test_sends() -> None:
    stream = Stream(topic="events", group="g")
    orders = stream.topic("orders", partitions=4, key="customer_id", schema=Order)

    @stream.subscribe(orders, ordering="key", name="spent")
    async def spent(order: Order, ctx: Context) -> None:
        await ctx.state.put("spent", order.amount)

    async with StreamTester(stream) as tester:
        await tester.send("orders", {"customer_id": "ada", "amount": 5})
        assert await tester.state("spent", "ada", "spent") == 5
        with pytest.raises(EventRejected, match="customer_id"):
            await tester.send("orders", {"amount": 5})


def test_a_topic_of_another_module_is_used_without_a_declaration_of_ones_own() -> None:
    stream = Stream(topic="events", group="g")
    orders = DeclaredTopic("orders", partitions=4)
    stream.topic("orders", partitions=4)
    with pytest.raises(ConfigurationError, match="takes a topic"):
        stream.subscribe(orders.upper)  # type: ignore[arg-type]  # a forgotten call
    assert stream.declared_topics == ["orders"]
