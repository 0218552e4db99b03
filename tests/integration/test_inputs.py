"""Handlers of several topics: one order, one state, one commit."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio

from pspf import BaseEvent, Context, Stream
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.contract.limits import Limits
from pspf.context import SyncContext
from pspf.errors import ConfigurationError, NotFound, TopicMismatch
from pspf.records import Cursor
from tests.integration.running import (
    GROUP,
    QUICK,
    TOPIC,
    Number,
    read_events,
    read_letters,
    run_until_drained,
    running,
    until,
    wait_until,
)
from tests.support.brokers import Kind
from tests.support.workers import read_all

A: Final = "prices"
B: Final = "trades"
BEGIN_S: Final = 1_700_000_000


class Price(BaseEvent):
    price: int


class Trade(BaseEvent):
    amount: int


@pytest_asyncio.fixture
async def quick(kind: Kind, tmp_path: Path) -> AsyncIterator[StreamingBackend]:
    """A backend whose leases end soon."""
    limits = Limits(lease_ms=800, renew_ms=200, synchronous="NORMAL")
    made = StreamingBackend(kind.make(tmp_path, limits, None), TOPIC, GROUP)
    yield made
    await made.close()


def at(second: float, **fields: Any) -> dict[str, Any]:
    """Return an event of key `a`, unless another is given, at a time."""
    return {"key": "a", **fields, "timestamp": BEGIN_S + second}


async def test_a_backlog_is_handled_in_the_order_of_event_time(backend: StreamingBackend) -> None:
    """Each trade sees the price of its time, and not one from its future, though all prices were stored first."""
    stream = Stream(backend)

    @stream.subscribe(topics=[A, B], ordering="key", name="as-of")
    async def price(event: Price | Trade, ctx: Context) -> None:
        if isinstance(event, Price):
            await ctx.state.put("price", event.price)
        else:
            ctx.emit({"amount": event.amount, "price": await ctx.state.get("price")}, "priced")

    await stream.emit_many([at(n, price=n) for n in range(500)], A)
    await stream.emit_many([at(n + 0.5, amount=n) for n in range(500)], B)
    await run_until_drained(stream)
    priced = await read_events(stream.broker, "priced")
    assert [(each["amount"], each["price"]) for each in priced] == [(n, n) for n in range(500)]


@pytest.mark.parametrize("batch_size", [1, 3, None])
async def test_a_record_that_fails_holds_back_those_of_its_key_in_all_topics(
    backend: StreamingBackend, batch_size: int | None
) -> None:
    stream, failed, seen = Stream(backend), set[int](), dict[str, list[int]]()

    @stream.subscribe(topics=[A, B], batch_size=batch_size, ordering="key", retry=QUICK)
    async def handle(event: Number, ctx: Context) -> None:
        if event.n % 4 == 0 and event.n not in failed:
            failed.add(event.n)
            raise ValueError("once")
        seen.setdefault(str(event.key), []).append(event.n)

    for topic, odd in ((B, 1), (A, 0)):
        events = [at(n, n=n, key="ab"[n // 2 % 2]) for n in range(odd, 60, 2)]
        await stream.emit_many(events, topic)
    await run_until_drained(stream)
    assert seen == {key: [n for n in range(60) if "ab"[n // 2 % 2] == key] for key in "ab"}


async def test_what_is_held_back_keeps_its_order_over_a_restart(backend: StreamingBackend) -> None:
    seen: list[int] = []

    def make(*, is_broken: bool) -> Stream:
        stream = Stream(backend)

        @stream.subscribe(topics=[A, B], batch_size=5, ordering="key", retry=QUICK, name="handle")
        async def handle(event: Number) -> None:
            if is_broken and event.n == 0:
                raise ConnectionError("away")
            seen.append(event.n)

        return stream

    first = make(is_broken=True)
    await first.emit_many([at(n, n=n) for n in range(1, 40, 2)], B)
    await first.emit_many([at(n, n=n) for n in range(0, 40, 2)], A)

    async def all_wait() -> bool:
        return sum(info.held_back + info.retries for info in await first.broker.list_cursors()) == 40

    slow = first.subscriptions[0]
    first.subscriptions[0] = type(slow)(
        **{name: getattr(slow, name) for name in slow.__dataclass_fields__} | {"own_retry": type(QUICK)(9, 400, 400)}
    )
    async with running(first):
        await wait_until(all_wait)
    assert seen == []
    await run_until_drained(make(is_broken=False))
    assert seen == list(range(40))


async def test_plain_functions_and_side_by_side_calls_of_several_topics_are_exact(backend: StreamingBackend) -> None:
    stream = Stream(backend)

    @stream.subscribe(topics=[A, B], ordering="key", concurrency=8, retry=QUICK)
    def count(event: Number, ctx: SyncContext) -> None:
        ctx.state.put("n", ctx.state.get("n", 0) + 1)
        ctx.emit({"id": f"{ctx.record.topic}/{ctx.record.id}", "offset": str(ctx.record.offset)}, "seen")

    for topic in (A, B):
        await stream.emit_many([at(n, n=n, key=f"k{n % 7}") for n in range(70)], topic)
    await run_until_drained(stream)
    async with stream:
        for n in range(7):
            assert await stream.read_state(count, f"k{n}", "n") == 20
    found = await read_events(stream.broker, "seen")
    stored = [f"{topic}/{record.id}" for topic in (A, B) for record in await read_all(stream.broker, topic)]
    assert sorted(each["id"] for each in found) == sorted(stored)
    offsets = {str(record.offset) for topic in (A, B) for record in await read_all(stream.broker, topic)}
    assert {each["offset"] for each in found} == offsets


async def test_a_dead_letter_is_of_the_topic_that_its_record_is_of_and_is_replayed_there(
    backend: StreamingBackend,
) -> None:
    stream, is_broken, seen = Stream(backend), True, list[tuple[str, int]]()

    @stream.subscribe(topics=[A, B], ordering="key", retry=QUICK)
    async def handle(event: Number, ctx: Context) -> None:
        if event.n == 3 and is_broken:
            raise ValueError("broken")
        seen.append((ctx.record.topic, event.n))

    for topic in (A, B):
        await stream.emit_many([at(n, n=n) for n in range(5)], topic)
    await run_until_drained(stream)
    letters = await read_letters(stream.broker)
    assert sorted(letter.topic for letter in letters) == [A, B]
    assert {letter.original_id for letter in letters} <= {
        record.id for topic in (A, B) for record in await read_all(stream.broker, topic)
    }
    assert len(seen) == 8
    is_broken = False
    async with running(stream):
        assert await stream.broker.replay_dead_letters([each for each in letters if each.topic == B]) == 1
        await until(lambda: (B, 3) in seen)
    assert len(seen) == 9


async def test_a_seek_of_one_topic_has_its_records_handled_again_and_no_others(backend: StreamingBackend) -> None:
    stream, seen = Stream(backend), list[tuple[str, int]]()

    @stream.subscribe(topics=[A, B], ordering="key", name="handle")
    async def handle(event: Number, ctx: Context) -> None:
        seen.append((ctx.record.topic, event.n))

    for topic in (A, B):
        await stream.emit_many([at(n, n=n) for n in range(5)], topic)
    async with running(stream):
        await until(lambda: len(seen) == 10)
        await stream.broker.operations.seek(Cursor(B, GROUP, "handle", 0), 0, force=True)
        await until(lambda: len(seen) == 15, within_ms=15_000)
    assert seen[10:] == [(B, n) for n in range(5)]


async def test_topics_that_are_not_there_are_made_with_as_many_partitions(backend: StreamingBackend) -> None:
    stream = Stream(backend)

    @stream.subscribe(topics=[A, B, "others"], ordering="key")
    async def handle(event: Number) -> None: ...

    await backend.connect()
    await backend.broker.create_topic(B, partitions=3)
    async with running(stream):
        await wait_until(lambda: _have_cursors(stream, 9))
    assert {(each.topic, each.partitions) for each in await _topics(stream)} >= {(A, 3), (B, 3), ("others", 3)}


async def test_topics_that_are_made_by_a_stream_that_is_only_opened_have_as_many_partitions(
    backend: StreamingBackend,
) -> None:
    stream = Stream(backend)

    @stream.subscribe(topics=[A, B], ordering="key")
    async def handle(event: Number) -> None: ...

    await backend.connect()
    await backend.broker.create_topic(B, partitions=3)
    async with stream:
        assert {(each.topic, each.partitions) for each in await _topics(stream)} >= {(A, 3), (B, 3)}


async def _have_cursors(stream: Stream, count: int) -> bool:
    return len(await stream.broker.list_cursors()) == count


async def _topics(stream: Stream) -> Any:
    await stream.broker.connect()
    return await stream.broker.list_topics()


async def test_topics_of_different_numbers_of_partitions_are_refused(backend: StreamingBackend) -> None:
    stream = Stream(backend)

    @stream.subscribe(topics=[A, B], ordering="key")
    async def handle(event: Number) -> None: ...

    await backend.connect()
    await backend.broker.create_topic(A, partitions=2)
    await backend.broker.create_topic(B, partitions=3)
    with pytest.raises(TopicMismatch, match=f"repartition {A} --partitions 3"):
        await stream.run_forever()


async def test_a_topic_that_gets_other_partitions_ends_the_app_with_what_to_do(quick: StreamingBackend) -> None:
    stream = Stream(quick)

    @stream.subscribe(topics=[A, B], ordering="key")
    async def handle(event: Number) -> None: ...

    await quick.connect()
    run = asyncio.create_task(stream.run_forever())
    await wait_until(lambda: _have_cursors(stream, 2))
    made = None
    while made is None:  # before the worker makes it again as it was
        with suppress(NotFound):
            await quick.broker.operations.delete_topic(B, force=True)
        with suppress(TopicMismatch):
            made = await quick.broker.create_topic(B, partitions=2)
    with pytest.raises(TopicMismatch, match=f"repartition {A} --partitions 2"):
        await run


async def test_state_that_is_kept_with_another_topic_is_not_begun_anew(backend: StreamingBackend) -> None:
    """The first topic has the state: the same topics in another order would not find it."""

    def make(*topics: str) -> Stream:
        stream = Stream(backend)

        @stream.subscribe(topics=topics, ordering="key", name="count")
        async def count(event: Number, ctx: Context) -> None:
            await ctx.state.put("n", await ctx.state.get("n", 0) + 1)

        return stream

    stream = make(A)
    await stream.emit_many([at(n, n=n) for n in range(3)], A)
    await run_until_drained(stream)
    await stream.emit_many([at(n, n=n) for n in range(4)], B)
    with pytest.raises(ConfigurationError, match=rf"name '{A}' first, topics=\['{A}', '{B}'\]"):
        await asyncio.wait_for(make(B, A).run_forever(), 10)
    stream = make(A, B)
    await run_until_drained(stream)
    async with stream:
        assert await stream.read_state("count", "a", "n") == 7


async def test_a_topic_that_is_left_out_is_an_orphan(backend: StreamingBackend) -> None:
    stream = Stream(backend)

    @stream.subscribe(topics=[A, B], ordering="key", name="count")
    async def count(event: Number) -> None: ...

    for topic in (A, B):
        await stream.emit_many([at(n, n=n) for n in range(3)], topic)
    await run_until_drained(stream)
    fewer = Stream(backend)
    fewer.subscribe(A, ordering="key", name="count")(count)
    fewer.subscribe(B, group=GROUP, name="another", ordering="key")(count)
    with pytest.raises(ConfigurationError, match=f"on topic '{B}'"):
        await fewer.run_forever()


async def test_shared_handlers_of_several_topics_take_each_for_itself(backend: StreamingBackend) -> None:
    stream, seen = Stream(backend), list[tuple[str, int]]()

    @stream.subscribe(topics=[A, B], schema={A: Price, B: Trade})
    async def handle(event: Price | Trade, ctx: Context) -> None:
        seen.append((ctx.record.topic, event.price if isinstance(event, Price) else -event.amount))

    models: dict[str, Any] = {A: Price, B: Trade}
    assert {each.topic: each.model for each in stream.subscriptions} == models
    await stream.emit_many([{"price": n} for n in range(1, 5)], A)
    await stream.emit_many([{"amount": n} for n in range(1, 5)], B)
    await run_until_drained(stream)
    assert sorted(seen) == [*((A, n) for n in range(1, 5)), *((B, n) for n in range(-4, 0))]


async def test_each_topic_may_have_a_model_of_its_own(backend: StreamingBackend) -> None:
    stream, seen = Stream(backend), list[str]()

    @stream.subscribe(topics=[A, B], ordering="key", schema={A: Price, B: Trade})
    async def handle(event: Any) -> None:
        seen.append(type(event).__name__)

    await stream.emit(at(1, price=1), A)
    await stream.emit(at(2, amount=1), B)
    await run_until_drained(stream)
    assert seen == ["Price", "Trade"]


REFUSED: Final[list[tuple[str, Callable[[Stream], Any]]]] = [
    ("not both", lambda stream: stream.subscribe(A, topics=[B])),
    ("in a list", lambda stream: stream.subscribe(topics="ab")),
    ("in a list", lambda stream: stream.subscribe(topics=[])),
    ("twice", lambda stream: stream.subscribe(topics=[A, A])),
    ("no model of 'trades'", lambda stream: stream.subscribe(topics=[A, B], schema={A: Price})),
    ("idle_timeout_ms", lambda stream: stream.subscribe(A, ordering="key", idle_timeout_ms=5)),
    ("idle_timeout_ms", lambda stream: stream.subscribe(topics=[A, B], idle_timeout_ms="5s")),
    ("key=", lambda stream: stream.subscribe(topics=[A, B], ordering="key", key="n")),
    ("start", lambda stream: stream.subscribe(topics=[A, B], ordering="key", start="17")),
]


@pytest.mark.parametrize(("match", "declare"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_what_can_not_be_meant_is_refused(
    backend: StreamingBackend, match: str, declare: Callable[[Stream], Any]
) -> None:
    async def handle(event: Number) -> None: ...

    with pytest.raises(ConfigurationError, match=match):
        declare(Stream(backend))(handle)


def test_whole_batches_of_several_topics_are_refused_where_they_are_ordered(backend: StreamingBackend) -> None:
    async def handle(events: list[Number]) -> None: ...

    with pytest.raises(ConfigurationError, match="one event at a time"):
        Stream(backend).subscribe(topics=[A, B], ordering="key")(handle)
    Stream(backend).subscribe(topics=[A, B])(handle)


@pytest.mark.parametrize("seed", range(3))
async def test_two_workers_that_fail_die_and_move_partitions_count_exactly(
    quick: StreamingBackend, seed: int, setting: Any
) -> None:
    """Each key's events of three topics are handled once, in the order of their time, whoever has its partition."""
    rng = random.Random(seed)
    print(f"seed {seed}")
    topics, keys = ["t0", "t1", "t2"], [f"k{n}" for n in range(12)]
    await quick.connect()
    for topic in topics:
        await quick.broker.create_topic(topic, partitions=4)
    failed: set[int] = set()

    def make() -> Stream:
        stream = Stream(quick)

        @stream.subscribe(topics=topics, batch_size=7, ordering="key", retry=QUICK, name="list")
        async def collect(event: Number, ctx: Context) -> None:
            if rng.random() < 0.1 and event.n not in failed:
                failed.add(event.n)
                raise ValueError("once")
            seen = await ctx.state.get("seen", [])
            await ctx.state.put("seen", [*seen, event.n])
            ctx.emit({"n": event.n}, "out")

        return stream

    events = [at(n, n=n, key=rng.choice(keys)) for n in range(600)]
    places = [rng.choice(topics) for _ in events]
    stream = make()
    for topic in topics:
        await stream.emit_many([each for each, place in zip(events, places, strict=True) if place == topic], topic)
    for _ in range(4):
        async with running(make()) as task:
            victim = make()
            other = asyncio.create_task(victim.run_forever())
            await until(lambda: victim.session_id is not None)  # noqa: B023 (awaited here)
            await _some_commits(quick, rng.randrange(2, 20))
            victim.abandon() if rng.random() < 0.5 else await victim.stop()
            await other
            assert not task.done()
    await run_until_drained(make(), within_ms=60_000)
    async with stream:
        for key in keys:
            expected = [each["n"] for each in events if each["key"] == key]
            assert (await stream.read_state("list", key, "seen") or []) == expected
    assert sorted(each["n"] for each in await read_events(quick.broker, "out")) == list(range(600))


async def _some_commits(quick: StreamingBackend, count: int) -> None:
    """Return when about so many records more are done."""

    async def lag() -> int:
        return sum(info.lag or 0 for info in await quick.broker.list_cursors(group=GROUP))

    before = await lag()

    async def is_less() -> bool:
        now = await lag()
        return now == 0 or now <= before - count

    await wait_until(is_less, within_ms=30_000)
