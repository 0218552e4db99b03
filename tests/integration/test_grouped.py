"""Ordered handlers that group by another key than their records' own."""

import asyncio
import random
from collections import Counter, defaultdict
from typing import Any

import pytest

from pspf import BaseEvent, Context, Count, RetryPolicy, Stream, SyncContext, TumblingWindow
from pspf.connectors.contract.backend import StreamingBackend
from pspf.errors import ConfigurationError
from pspf.records import NewRecord
from pspf.subscription import repartition_topic
from pspf.testing import StreamTester
from tests.integration.running import QUICK, read_events, read_letters, running, wait_until
from tests.support.workers import key_in

TOPIC = "orders"
GROUP = "sums"
THROUGH = f"{GROUP}.total.repartition"
PARTITIONS = pytest.mark.parametrize("partitions", [1, 4])


class Order(BaseEvent):
    n: int
    customer: str | None = None


def orders(count: int, *, seed: int = 3) -> list[dict[str, Any]]:
    """Return numbered events of 20 keys and 5 customers, who have nothing to do with the keys."""
    rng = random.Random(seed)
    return [{"n": n, "key": f"k{rng.randrange(20)}", "customer": f"c{rng.randrange(5)}"} for n in range(count)]


async def make(backend: StreamingBackend, partitions: int) -> Stream:
    await backend.broker.connect()
    await backend.broker.create_topic(TOPIC, partitions=partitions)
    return Stream(StreamingBackend(backend.broker, TOPIC, GROUP))


def add_total(stream: Stream, shape: str = "async", **options: Any) -> None:
    """Add a handler that sums up, and tells each sum."""
    chosen: dict[str, Any] = {"ordering": "key", "key": "customer", "name": "total", "retry": QUICK} | options

    if shape == "thread":

        @stream.subscribe(TOPIC, **chosen)
        def plain(order: Order, ctx: SyncContext) -> None:
            total = ctx.state.get("total", 0) + order.n
            ctx.state.put("total", total)
            ctx.emit({"customer": ctx.key, "own": ctx.own_key, "event_key": order.key, "total": total}, "totals")

        return

    @stream.subscribe(TOPIC, **chosen)
    async def total(order: Order, ctx: Context) -> None:
        total = await ctx.state.get("total", 0) + order.n
        await ctx.state.put("total", total)
        ctx.emit({"customer": ctx.key, "own": ctx.own_key, "event_key": order.key, "total": total}, "totals")


async def run_until_drained(stream: Stream) -> None:
    """Run until nothing is left to do, also behind the hops."""
    broker = stream.broker

    async def nothing_is_left() -> bool:
        infos = await broker.list_cursors()
        found = {(info.cursor.group, info.cursor.handler) for info in infos if info.cursor.topic != TOPIC}
        is_sent_on = (await broker.read_topic(TOPIC))[0].partitions > 1
        wanted = {(each.group, each.name) for each in stream.subscriptions if each.key is not None and is_sent_on}
        return bool(infos) and wanted <= found and all(info.lag == 0 for info in infos)

    await broker.connect()
    async with running(stream):
        await wait_until(nothing_is_left, within_ms=40_000)


def expected(events: list[dict[str, Any]]) -> dict[str, int]:
    sums: Counter[str] = Counter()
    for event in events:
        sums[event["customer"]] += event["n"]
    return dict(sums)


async def final_totals(stream: Stream, customers: list[str]) -> dict[str, Any]:
    found = {each: await stream.read_state("total", each, "total") for each in customers}
    await stream.stop()
    return found


@PARTITIONS
@pytest.mark.parametrize(("shape", "concurrency"), [("async", 1), ("async", 4), ("thread", 1), ("thread", 4)])
async def test_state_and_order_are_the_grouping_keys(
    backend: StreamingBackend, partitions: int, shape: str, concurrency: int
) -> None:
    events = orders(150)
    stream = await make(backend, partitions)
    add_total(stream, shape, concurrency=concurrency)
    await stream.emit_many(events, TOPIC)
    await run_until_drained(stream)
    told = await read_events(backend.broker, "totals")
    assert len(told) == len(events)
    assert all(event["own"] == event["event_key"] for event in told)
    running_sums: defaultdict[str, list[int]] = defaultdict(list)
    for event in told:
        running_sums[event["customer"]].append(event["total"])
    assert {key: sums[-1] for key, sums in running_sums.items()} == expected(events)
    assert all(sums == sorted(sums) for sums in running_sums.values())
    if partitions == 1:  # order is that of the topic
        sums: Counter[str] = Counter()
        for event, n in zip(sorted(events, key=lambda each: each["n"]), range(len(events)), strict=True):
            assert event["n"] == n
            sums[event["customer"]] += n
            assert sums[event["customer"]] in running_sums[event["customer"]]
    assert await final_totals(stream, sorted(expected(events))) == expected(events)
    await backend.broker.connect()
    topics = {info.topic for info in await backend.broker.list_topics()}
    assert (THROUGH in topics) == (partitions > 1), "on one partition there is no hop"
    assert await read_letters(backend.broker) == []


@PARTITIONS
async def test_a_failing_record_holds_back_those_of_its_grouping_key_alone(
    backend: StreamingBackend, partitions: int
) -> None:
    stream = await make(backend, partitions)
    seen: list[tuple[str | None, int]] = []
    failed: set[int] = set()

    @stream.subscribe(TOPIC, ordering="key", key=lambda order: order.customer, name="total", retry=QUICK)
    async def handle(order: Order, ctx: Context) -> None:
        if order.n == 0 and 0 not in failed:
            failed.add(0)
            raise ValueError("once")
        seen.append((ctx.key, order.n))

    key = key_in(0, partitions)
    events = [{"n": 0, "customer": "ada"}, {"n": 1, "customer": "ada"}, {"n": 2, "customer": "bob"}]
    await stream.emit_many([{**event, "key": key} for event in events], TOPIC)
    await run_until_drained(stream)
    assert [n for customer, n in seen if customer == "ada"] == [0, 1]
    if partitions == 1:
        assert seen[0] == ("bob", 2)
    await stream.stop()


@PARTITIONS
async def test_a_record_whose_key_cannot_be_told_is_a_dead_letter_as_it_was(
    backend: StreamingBackend, partitions: int
) -> None:
    stream = await make(backend, partitions)
    calls: list[int] = []

    def key_of(order: Order) -> str:
        calls.append(order.n)
        if order.n == 1:
            raise KeyError("no such customer")
        return order.customer or ""

    add_total(stream, key=key_of)
    await stream.emit_many([{"n": n, "customer": "ada", "key": "own"} for n in range(3)], TOPIC)
    await backend.broker.append(TOPIC, [NewRecord(b"own", b"no JSON")])
    await run_until_drained(stream)
    letters = {letter.error_type: letter for letter in await read_letters(backend.broker)}
    assert set(letters) == {"KeyError", "SchemaError"}
    assert letters["KeyError"].attempts == QUICK.max_attempts
    assert letters["SchemaError"].attempts == 1
    for letter in letters.values():
        assert (letter.topic, letter.handler, letter.record.raw_key) == (TOPIC, "total", b"own")
    assert await final_totals(stream, ["ada"]) == {"ada": 2}


@PARTITIONS
async def test_a_dead_letter_of_a_handler_is_the_record_as_it_was_emitted_and_is_replayed(
    backend: StreamingBackend, partitions: int
) -> None:
    stream = await make(backend, partitions)
    is_broken = True

    @stream.subscribe(TOPIC, ordering="key", key="customer", name="total", retry=RetryPolicy(max_attempts=1))
    async def handle(order: Order, ctx: Context) -> None:
        if is_broken:
            raise ValueError("broken")
        assert order.offset == first
        await ctx.state.put("total", order.n)

    first = await stream.emit({"n": 7, "customer": "ada", "key": "own"}, TOPIC)
    await run_until_drained(stream)
    (letter,) = await read_letters(backend.broker)
    assert (letter.topic, letter.original_id, letter.record.raw_key) == (TOPIC, first, b"own")
    is_broken = False
    await backend.broker.connect()
    assert await backend.broker.replay_dead_letters([letter]) == 1
    await run_until_drained(stream)
    assert await final_totals(stream, ["ada"]) == {"ada": 7}


@PARTITIONS
async def test_events_without_the_key_stand_alone_and_have_no_state(backend: StreamingBackend, partitions: int) -> None:
    stream = await make(backend, partitions)
    seen: list[str | None] = []

    @stream.subscribe(TOPIC, ordering="key", key="customer", name="total")
    async def handle(order: Order, ctx: Context) -> None:
        seen.append(ctx.key)
        if order.n == 1:
            await ctx.state.get("total")

    await stream.emit_many([{"n": n, "key": "own"} for n in range(2)], TOPIC)
    await run_until_drained(stream)
    assert seen == [None, None]
    (letter,) = await read_letters(backend.broker)
    assert letter.error_type == "StateUnavailable"
    await stream.stop()


@PARTITIONS
async def test_a_batch_and_a_raw_handler_are_grouped_too(backend: StreamingBackend, partitions: int) -> None:
    stream = await make(backend, partitions)
    batches: list[int] = []
    ids: list[str] = []

    @stream.subscribe(TOPIC, ordering="key", key="customer", name="total")
    async def handle(orders: list[Order]) -> None:
        batches.extend(order.n for order in orders)

    @stream.subscribe(TOPIC, ordering="key", key="customer", name="raw", group="other")
    async def raw(msg_id, raw_data):  # type: ignore[no-untyped-def]  # the shape that is tried
        ids.append(msg_id)

    stored = await stream.emit_many(orders(40), TOPIC)
    await run_until_drained(stream)
    assert sorted(batches) == list(range(40))
    assert sorted(ids) == sorted(stored)
    await stream.stop()


async def test_an_event_does_not_go_to_its_own_handler_unsaid(backend: StreamingBackend) -> None:
    stream = await make(backend, 4)

    @stream.subscribe(TOPIC, ordering="key", key="customer", name="total")
    async def handle(order: Order, ctx: Context) -> None:
        ctx.emit({"n": 2, "customer": "ada"})

    await stream.emit({"n": 1, "customer": "ada"}, TOPIC)
    await run_until_drained(stream)
    (letter,) = await read_letters(backend.broker)
    assert "name another topic=" in letter.error
    await stream.stop()


@PARTITIONS
@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ("customer", None, "had a key="),
        ("customer", "n", "and had"),
        (None, "customer", "had none"),
        ("window", "customer", "something else"),
    ],
)
async def test_another_key_than_the_state_is_by_is_refused(
    backend: StreamingBackend, partitions: int, before: str | None, now: str | None, said: str
) -> None:
    if before == "window" and partitions > 1:
        said = "had none|something else"
    stream = await make(backend, partitions)
    if before == "window":
        stream.window(TOPIC, TumblingWindow(1_000), name="total")(Count())
    else:
        add_total(stream, key=before)
    await stream.emit_many(orders(20), TOPIC)
    await run_until_drained(stream)
    await stream.stop()
    other = Stream(StreamingBackend(backend.broker, TOPIC, GROUP))
    add_total(other, key=now)
    with pytest.raises(ConfigurationError, match=said):
        await other.run_forever()
    await backend.broker.connect()
    for info in await backend.broker.list_cursors(group=GROUP):
        await backend.broker.operations.seek(info.cursor, info.end or 0, keep_state=False, force=True)
    async with running(other):
        await other.emit({"n": 5, "customer": "new", "key": "new"}, TOPIC)
        key = {None: "new", "customer": "new", "n": "5"}[now]

        async def is_summed() -> bool:
            return bool(await other.read_state("total", key, "total") == 5)

        await wait_until(is_summed, within_ms=20_000)


def test_what_can_not_be_grouped_is_refused_where_it_is_declared() -> None:
    stream = Stream(topic=TOPIC, group=GROUP)

    class Narrow(BaseEvent, extra="forbid"):
        customer: str

    async def later(event: Any) -> str:
        return "x"

    async def handle(event: Narrow) -> None: ...

    cases: list[tuple[dict[str, Any], str]] = [
        ({"key": "customer"}, 'pass ordering="key"'),
        ({"key": "", "ordering": "key"}, "key=''"),
        ({"key": 5, "ordering": "key"}, "key=5"),
        ({"key": later, "ordering": "key"}, "async"),
        ({"key": "costumer", "ordering": "key"}, "did you mean 'customer'"),
    ]
    for options, said in cases:
        with pytest.raises(ConfigurationError, match=said):
            stream.subscribe(TOPIC, **options)(handle)
    assert stream.subscriptions == []


@PARTITIONS
async def test_a_test_sees_grouped_state_as_plain_values(partitions: int) -> None:
    stream = Stream(topic=TOPIC, group=GROUP)
    add_total(stream)
    async with StreamTester(stream, partitions={TOPIC: partitions}) as tester:
        for n in range(1, 4):
            await tester.send(TOPIC, {"n": n, "customer": "ada"}, key=f"k{n}")
            await tester.crash()
        assert await tester.state("total", "ada", "total") == 6
        assert [event["total"] for event in await tester.outputs("totals")] == [1, 3, 6]


@PARTITIONS
async def test_two_workers_that_divide_partitions_count_each_key_once(
    backend: StreamingBackend, partitions: int
) -> None:
    events = orders(300)
    stream = await make(backend, partitions)
    other = Stream(StreamingBackend(backend.broker, TOPIC, GROUP))
    add_total(stream, batch_size=7)
    add_total(other, batch_size=7)
    async with running(stream):
        await stream.emit_many(events[:100], TOPIC)
        async with running(other):
            await stream.emit_many(events[100:200], TOPIC)
            await asyncio.sleep(0)
        await stream.emit_many(events[200:], TOPIC)

        async def all_are_told() -> bool:
            return len(await read_events(backend.broker, "totals")) >= len(events)

        await wait_until(all_are_told, within_ms=40_000)
    assert len(await read_events(backend.broker, "totals")) == len(events)
    assert await final_totals(stream, sorted(expected(events))) == expected(events)


def test_the_internal_topic_is_named_like_that_of_windows() -> None:
    assert repartition_topic(GROUP, "total") == THROUGH
