"""`StreamTester` is strict: what handlers raise is raised, and names that nobody knows are refused."""

import functools
from datetime import timedelta
from typing import Any

import pytest

from pspf import BaseEvent, Context, Count, RetryPolicy, SessionWindow, Stream, TumblingWindow, WindowResult
from pspf.errors import ConfigurationError, HandlerCrashed, NotFound, RetryLater, SchemaError
from pspf.testing import ManualClock, StreamTester

ALERTS = "alerts"


class Order(BaseEvent):
    n: int = 0


def make(**options: Any) -> Stream:
    """Return an app that fails for negative numbers, and counts the others by key."""
    stream = Stream(topic="orders", group="g")

    @stream.subscribe("orders", ordering="key", name="count", **options)
    async def count(order: Order, ctx: Context) -> None:
        if order.n < 0:
            raise ValueError(f"no {order.n}")
        await ctx.state.put("seen", await ctx.state.get("seen", 0) + 1)
        await ctx.state.put("last", order.n)
        ctx.emit({"n": order.n}, "counted")
        if order.n > 1_000:
            ctx.emit({"n": order.n}, ALERTS)

    return stream


async def test_what_a_handler_raises_is_raised_where_it_was_sent() -> None:
    async with StreamTester(make()) as tester:
        await tester.send("orders", {"n": 1}, key="a")
        with pytest.raises(ValueError, match="no -1") as raised:
            await tester.send("orders", {"n": -1}, key="a")
        (note,) = raised.value.__notes__
        assert "orders" in note
        assert "attempt 1" in note
        assert "raises=False" in note
        assert any(entry.name == "count" for entry in raised.traceback), "the handler's line is in it"
        # What was raised once is not raised again, and the app goes on as in production.
        await tester.send("orders", {"n": 2}, key="b")
        assert [each.attempts for each in await tester.pending()] == [1]
        with pytest.raises(ValueError, match="no -1"):
            await tester.advance("1s")


async def test_a_payload_that_is_no_event_is_raised_too() -> None:
    async with StreamTester(make()) as tester:
        with pytest.raises(SchemaError):
            await tester.send("orders", b"no JSON", key="a")
        assert len(await tester.dead_letters()) == 1


async def test_the_first_of_several_failures_is_raised_and_the_others_are_counted() -> None:
    async with StreamTester(make(retry=RetryPolicy(max_attempts=1))) as tester:
        with pytest.raises(ValueError, match="no -1") as raised:
            await tester.send_many("orders", [{"n": n, "key": "a"} for n in (-1, -2, 3, -4)])
        assert "2 more failed" in raised.value.__notes__[0]
        assert "it is a dead letter" in raised.value.__notes__[0]


async def test_what_would_end_more_than_the_test_is_raised_as_an_error() -> None:
    stream = Stream(topic="orders", group="g")

    @stream.subscribe("orders", retry=RetryPolicy(max_attempts=1))
    async def leave(order: Order) -> None:
        raise SystemExit(3)

    async with StreamTester(stream) as tester:
        with pytest.raises(HandlerCrashed, match="SystemExit"):
            await tester.send("orders", {"n": 1})


async def test_a_retry_that_is_meant_is_not_raised() -> None:
    stream = Stream(topic="orders", group="g")
    runs: list[int] = []

    @stream.subscribe("orders")
    async def later(order: Order) -> None:
        runs.append(order.n)
        if len(runs) == 1:
            raise RetryLater(5)

    async with StreamTester(stream) as tester:
        await tester.send("orders", {"n": 1})
        await tester.advance("6s")
        assert runs == [1, 1]


async def test_a_failing_result_is_raised_by_the_call_that_closed_its_window() -> None:
    stream = Stream(topic="orders", group="g")

    def fail(result: WindowResult) -> dict[str, Any]:
        raise KeyError("no result")

    stream.window("orders", TumblingWindow(10_000), emit="final", to="out", result=fail, name="w")(Count())
    async with StreamTester(stream) as tester:
        await tester.send("orders", {}, key="a", timestamp=1)
        with pytest.raises(KeyError, match="no result"):
            await tester.finish()


async def test_a_topic_that_no_handler_reads_is_not_sent_to() -> None:
    async with StreamTester(make()) as tester:
        with pytest.raises(ConfigurationError, match="did you mean 'orders'") as refused:
            await tester.send("oders", {"n": 1})
        assert "any_topic=True" in str(refused.value)
        assert await tester.broker.list_topics() != []
        assert "oders" not in {info.topic for info in await tester.broker.list_topics()}
    async with StreamTester(make(), any_topic=True) as tester:
        await tester.send("oders", {"n": 1})
        assert len(await tester.outputs("oders")) == 1
        assert await tester.outputs("nothing") == []


async def test_a_topic_that_nobody_writes_is_not_read() -> None:
    stream = make()
    stream.topic("declared")
    stream.window("orders", TumblingWindow(10_000), emit="final", to="totals", name="w")(Count())
    async with StreamTester(stream) as tester:
        for known in ("orders", "counted", ALERTS, "declared", "totals", "orders-dlq"):
            assert await tester.outputs(known) == []
        assert await tester.late("orders") == []
        for wrong, near in (("countd", "counted"), ("total", "totals"), ("order", "orders"), ("alert", ALERTS)):
            with pytest.raises(ConfigurationError, match=f"did you mean '{near}'"):
                await tester.outputs(wrong)
        with pytest.raises(ConfigurationError, match="orders"):
            await tester.late("ordres")
        await tester.broker.create_topic("elsewhere")
        assert await tester.outputs("elsewhere") == []


async def test_a_topic_that_a_handler_mentions_in_another_way_is_known() -> None:
    stream, enclosed = Stream(topic="orders", group="g"), "enclosed"

    @stream.subscribe("orders")
    async def handle(order: Order, ctx: Context) -> None:
        for each in [functools.partial(ctx.emit, topic=name) for name in ("left", "right")]:
            each({"n": order.n})
        ctx.emit({"n": order.n}, enclosed)

    async with StreamTester(stream) as tester:
        assert await tester.outputs("left") == await tester.outputs("enclosed") == []
        await tester.send("orders", {"n": 1})
        assert len(await tester.outputs("right")) == 1


async def test_what_is_new_since_the_last_read_is_read_once() -> None:
    async with StreamTester(make(), partitions={"counted": 2}) as tester:
        assert await tester.new_outputs("counted") == []
        await tester.send("orders", {"n": 1}, key="a")
        await tester.send("orders", {"n": 2}, key="a")
        assert sorted(event["n"] for event in await tester.new_outputs("counted")) == [1, 2]
        assert await tester.new_records("counted") == []
        await tester.send("orders", {"n": 3}, key="a")
        assert [record.value.count(b"3") for record in await tester.new_records("counted")] == [1]
        assert len(await tester.outputs("counted")) == 3


async def test_all_of_a_handlers_state_is_read_as_plain_values() -> None:
    async with StreamTester(make()) as tester:
        await tester.send("orders", {"n": 1}, key="a")
        await tester.send("orders", {"n": 2}, key="b")
        await tester.send("orders", {"n": 3}, key="a")
        assert await tester.states("count") == {"a": {"seen": 2, "last": 3}, "b": {"seen": 1, "last": 2}}
        with pytest.raises(NotFound, match="count"):
            await tester.states("nobody")


@pytest.mark.parametrize("partitions", [1, 3])
async def test_open_windows_are_read_as_plain_values(partitions: int) -> None:
    stream = Stream(topic="orders", group="g")
    stream.window("orders", TumblingWindow(10_000), key="kind", emit="final", to="out", name="tens")(Count())
    stream.window("orders", SessionWindow(5_000), key="kind", name="sessions")(Count())
    async with StreamTester(stream, partitions={"orders": partitions}) as tester:
        for at in (1, 2, 14):
            await tester.send("orders", {"kind": "x"}, key=f"k{at}", timestamp=at)
        tens = await tester.windows("tens")
        assert WindowResult("x", 10_000, 20_000, 1) in tens
        assert [each[1:] for each in await tester.windows("sessions")] == [(1_000, 7_000, 2), (14_000, 19_000, 1)]
        await tester.finish()
        assert await tester.windows("tens") == []
        assert sum(event["value"] for event in await tester.outputs("out")) == 3


async def test_times_advance_by_themselves_where_that_is_asked() -> None:
    stream = Stream(topic="orders", group="g")
    stream.window("orders", TumblingWindow(10_000), emit="final", to="out", name="tens")(Count())
    async with StreamTester(stream, clock=ManualClock(0), auto_advance="4s") as tester:
        for n in range(3):
            await tester.send("orders", Order(n=n, key="a"))  # at 0, 4 and 8 s
        assert tester.now_ms == 12_000
        assert await tester.outputs("out") == []
        await tester.send_many("orders", [{"n": 3, "key": "a"}, {"n": 4, "key": "a"}])  # at 12 and 16 s
        assert tester.now_ms == 20_000
        assert [(e["window_start_ms"], e["value"]) for e in await tester.new_outputs("out")] == [(0, 3)]
        await tester.send("orders", {"n": 5, "timestamp": 17, "key": "a"})  # a time of its own
        await tester.send("orders", {"n": 6}, key="a", timestamp=18)
        await tester.finish()
        assert [(e["window_start_ms"], e["value"]) for e in await tester.new_outputs("out")] == [(10_000, 4)]
        assert [record.timestamp_ms for record in await tester.records("orders")][:5] == [
            0,
            4_000,
            8_000,
            12_000,
            16_000,
        ]


@pytest.mark.parametrize("by", ["10s", timedelta(seconds=10), 10_000, 10_000.0, 0.1 * 3 * 1e5 / 3])
async def test_the_clock_is_moved_by_durations_of_each_form(by: Any) -> None:
    async with StreamTester(make()) as tester:
        before_ms = tester.now_ms
        await tester.advance(by)
        assert tester.now_ms - before_ms == 10_000


async def test_a_stream_raises_nothing_for_a_later_test_of_another_tester() -> None:
    stream = make(retry=RetryPolicy(max_attempts=1))
    async with StreamTester(stream) as tester:
        await tester.send("orders", {"n": 1}, key="a")
    async with StreamTester(stream, raises=False) as tester:
        await tester.send("orders", {"n": -1}, key="a")
        assert len(await tester.dead_letters()) == 1
    assert stream.processor.on_failures is None
