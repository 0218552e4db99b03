"""Streams in a Stream, and events that would go to their own handler."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest

from pspf import BaseEvent, Context, Count, MemoryBackend, MemoryStateStore, RetryPolicy, Stream, TumblingWindow
from pspf.errors import ConfigurationError
from pspf.testing import StreamTester


async def test_an_included_streams_handler_emits_to_its_own_streams_topic() -> None:
    payments = Stream(topic="paid", group="pay")

    @payments.subscribe("payments")
    async def pay(event: BaseEvent, ctx: Context) -> None:
        ctx.emit({"n": 2})

    inner = Stream(topic="other", group="g")
    inner.include(payments)
    app = Stream(topic="orders", group="shop")
    app.include(inner)
    async with StreamTester(app) as tester:
        await tester.send("payments", {"n": 1})
        assert [event["n"] for event in await tester.outputs("paid")] == [2]


async def test_handlers_that_are_decorated_after_their_stream_was_included_run_as_well() -> None:
    payments = Stream(topic="paid", group="pay")
    inner = Stream(topic="other", group="g")
    app = Stream(topic="orders", group="shop")
    app.include(inner)
    inner.include(payments)

    @payments.subscribe("payments", name="late")
    async def pay(event: BaseEvent, ctx: Context) -> None:
        ctx.emit({"n": 2})

    payments.window("payments", TumblingWindow(1_000), name="counted")(Count())
    assert [each.name for each in app.subscriptions] == ["late", "counted"]
    async with StreamTester(app) as tester:
        await tester.send("payments", {"n": 1, "key": "a"})
        assert [event["n"] for event in await tester.outputs("paid")] == [2]


async def test_a_handler_that_an_included_stream_runs_itself_is_not_its_hosts() -> None:
    payments = Stream(topic="paid", group="pay")
    app = Stream(MemoryBackend(stream_key="orders", group_name="shop"))
    app.include(payments)

    async def pay(event: BaseEvent) -> None: ...

    running = asyncio.create_task(payments.run(pay))
    await asyncio.sleep(0)
    assert app.subscriptions == []
    await payments.stop()
    await running
    await app.stop()


async def test_lifespans_and_topics_of_included_streams_are_theirs() -> None:
    seen: list[Any] = []

    @asynccontextmanager
    async def lifespan(stream: Stream) -> AsyncIterator[None]:
        seen.append(stream)
        yield
        seen.append("closed")

    payments = Stream(topic="payments", group="pay", lifespan=lifespan, partitions=4)

    @payments.subscribe("payments")
    async def pay(event: BaseEvent) -> None:
        await payments.emit({"n": 2}, "paid")

    app = Stream(topic="orders", group="shop", lifespan=lifespan)
    app.include(payments)
    async with StreamTester(app) as tester:
        await tester.send("payments", {"n": 1})
        assert [event["n"] for event in await tester.outputs("paid")] == [2]
        assert (await app.broker.read_topic("payments"))[0].partitions == 4
    assert seen == [app, payments, "closed", "closed"]


def test_what_an_included_stream_would_lose_is_refused() -> None:
    app = Stream(topic="orders", group="shop")
    with pytest.raises(ConfigurationError, match="state_store"):
        app.include(Stream(topic="t", group="g", state_store=MemoryStateStore()))
    with pytest.raises(ConfigurationError, match="once"):
        app.include(app)
    inner = Stream(topic="other", group="g")
    app.include(inner)
    with pytest.raises(ConfigurationError, match="once"):
        inner.include(app)


@pytest.mark.parametrize("way", ["ctx", "stream"])
@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_an_event_goes_to_its_own_handler_only_where_that_is_said(way: str, ordering: Any) -> None:
    stream = Stream(topic="t", group="g")

    @stream.subscribe("t", ordering=ordering, retry=RetryPolicy(max_attempts=5, initial_ms=0))
    async def again(event: BaseEvent, ctx: Context) -> None:
        n = event.n  # type: ignore[attr-defined]  # a further field
        if n == 1:
            ctx.emit({"n": 2}, topic="t")
        elif n == 0 and way == "ctx":
            ctx.emit({"n": 1})
        elif n == 0:
            await stream.emit({"n": 1})

    async with StreamTester(stream, raises=False) as tester:
        await tester.send("t", {"n": 0}, key="k")
        await tester.send("t", {"n": 1}, key="k")
        (letter,) = await tester.dead_letters()
        assert (letter.error_type, letter.attempts) == ("ConfigurationError", 1)
        assert "name another topic=" in letter.error
        assert len(await tester.outputs("t")) == 3


async def test_a_windows_decimal_stays_one() -> None:
    stream = Stream(topic="t", group="g")

    @stream.window("t", TumblingWindow(1_000), emit="final", to="sums")
    def total(event: BaseEvent, state: Decimal | None) -> Decimal:
        return (state or Decimal(0)) + Decimal("0.10")

    async with StreamTester(stream) as tester:
        for _ in range(3):
            await tester.send("t", {"timestamp": 5}, key="k")
        await tester.finish()
        assert [event["value"] for event in await tester.outputs("sums")] == ["0.30"]
