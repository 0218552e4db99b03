"""Timers of ordered handlers: set, replaced, cancelled, fired once, in event time and by the broker's clock."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from pspf import Context, RetryLater, RetryPolicy, Stream, SyncContext, Timer
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.contract.limits import Limits
from pspf.errors import ConfigurationError, NotAvailable, Refused
from pspf.testing import StreamTester
from tests.integration.running import QUICK, TOPIC, Number, drain, numbers, read_events, running, until, wait_until
from tests.support.brokers import Kind

SLOW = RetryPolicy(max_attempts=3, initial_ms=1_000, max_ms=1_000, jitter=0)


class Note(BaseModel):
    """A payload."""

    text: str
    price: Decimal = Decimal(0)
    at: datetime = datetime(2026, 1, 1, tzinfo=UTC)


def make_app(
    function: Any = None, *, plain: bool = False, retry: RetryPolicy = SLOW, concurrency: int = 1, **options: Any
) -> Stream:
    """Return an app that does with timers what its events say: `set`, `at` or `after`, `cancel`."""
    stream = Stream(topic=TOPIC, group="g")

    def change(event: dict[str, Any], ctx: Context) -> None:
        for name, at_ms in event.get("at", {}).items():
            ctx.timer(name, at_ms=at_ms, payload=event.get("n"))
        for name, after_ms in event.get("after", {}).items():
            ctx.timer(name, after_ms=after_ms, payload=event.get("n"))
        for name in event.get("cancel", ()):
            ctx.cancel_timer(name)
        ctx.emit({"seen": event.get("n")}, topic="out", key=ctx.key)
        if event.get("fails"):
            raise ValueError("as it was told")

    async def on_event(event: dict[str, Any], ctx: Context) -> None:
        change(event, ctx)

    def on_event_in_thread(event: dict[str, Any], ctx: SyncContext) -> None:
        change(event, ctx)

    async def fire(timer: Timer[Any], ctx: Context) -> None:
        count = await ctx.state.get("fired", 0) + 1
        await ctx.state.put("fired", count)
        ctx.emit({"fired": timer.name, "of": timer.payload}, topic="out", key=timer.key)

    def fire_in_thread(timer: Timer[Any], ctx: SyncContext) -> None:
        ctx.state.put("fired", ctx.state.get("fired", 0) + 1)
        ctx.emit({"fired": timer.name, "of": timer.payload}, topic="out", key=timer.key)

    handler: Any = on_event_in_thread if plain else on_event
    stream.subscribe(TOPIC, ordering="key", name="app", schema=dict, retry=retry, concurrency=concurrency)(handler)
    stream.on_timer(handler, **options)(function or (fire_in_thread if plain else fire))
    return stream


async def told(tester: StreamTester) -> list[str]:
    """Return what happened, in order: the numbers of events, the names of timers."""
    return [str(each.get("fired", each.get("seen"))) for each in await tester.outputs("out")]


@pytest.mark.parametrize("plain", [False, True])
async def test_a_timer_by_the_clock_fires_once_at_its_time_without_another_record(plain: bool) -> None:
    async with StreamTester(make_app(plain=plain), raises=False) as tester:
        await tester.send(TOPIC, {"n": 1, "after": {"t": 60_000}}, key="a")
        await tester.advance(59_999)
        assert await told(tester) == ["1"]
        await tester.advance(1)
        assert await told(tester) == ["1", "t"]
        assert await tester.state("app", "a", "fired") == 1
        await tester.advance(10_000_000)
        assert await told(tester) == ["1", "t"]


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("plain", [False, True])
async def test_a_timer_in_event_time_fires_before_the_record_that_passes_it(plain: bool, concurrency: int) -> None:
    """All of it is one batch: whatever the batches are, it comes to the same."""
    async with StreamTester(make_app(plain=plain, concurrency=concurrency), raises=False) as tester:
        events = [(1, {"at": {"t": 5_000}}), (4.999, {}), (5, {}), (6, {"at": {"u": 7_000, "v": 6_500}}), (9, {})]
        await tester.send_many(
            TOPIC, [{"n": n, "timestamp": at, **event} for n, (at, event) in enumerate(events)], key="a"
        )
        assert await told(tester) == ["0", "1", "t", "2", "3", "v", "u", "4"]


async def test_a_time_that_has_passed_means_at_once() -> None:
    async with StreamTester(make_app(), raises=False) as tester:
        await tester.send_many(
            TOPIC, [{"n": 1, "timestamp": 9, "at": {"t": 2_000}, "after": {"u": 0}}, {"n": 2, "timestamp": 9}], key="a"
        )
        assert [each for each in await told(tester) if each != "u"] == ["1", "t", "2"]
        assert sorted(await told(tester)) == ["1", "2", "t", "u"]


async def test_the_same_name_replaces_and_a_cancelled_one_does_not_fire() -> None:
    async with StreamTester(make_app(), raises=False) as tester:
        await tester.send(TOPIC, {"n": 1, "after": {"t": 1_000, "u": 1_000, "w": 2_000}, "at": {"v": 1}}, key="a")
        await tester.send(TOPIC, {"n": 2, "after": {"t": 5_000, "v": 9_000}, "cancel": ["u", "none"]}, key="a")
        await tester.send(TOPIC, {"n": 3, "after": {"t": 3_000}}, key="b")
        await tester.advance(2_500)
        assert (await told(tester))[3:] == ["3", "w"]
        await tester.advance(2_500)
        assert (await told(tester))[5:] == ["t", "t"]
        await tester.advance(4_000)
        assert (await told(tester))[7:] == ["v"]


async def test_a_failed_call_sets_and_cancels_nothing() -> None:
    async with StreamTester(make_app(), raises=False) as tester:
        await tester.send(TOPIC, {"n": 1, "after": {"t": 60_000}}, key="a")
        await tester.send(TOPIC, {"n": 2, "after": {"u": 60_000}, "cancel": ["t"], "fails": True}, key="a")
        await tester.advance(100_000)
        assert await told(tester) == ["1", "t"]
        assert len(await tester.dead_letters()) == 1


async def test_a_timer_sets_the_next_one_and_the_end_of_the_input_is_no_endless_chain() -> None:
    async def fire(timer: Timer, ctx: Context) -> None:
        ctx.emit({"fired": timer.name, "at": timer.at_ms}, topic="out")
        if timer.is_event_time:
            ctx.timer(timer.name, at_ms=timer.at_ms + 1_000)
        else:
            ctx.timer(timer.name, after_ms=1_000)

    async with StreamTester(make_app(fire), raises=False) as tester:
        await tester.send(TOPIC, {"n": 1, "timestamp": 1, "at": {"e": 2_000}, "after": {"c": 1_000}}, key="a")
        await tester.advance(3_000)
        assert await told(tester) == ["1", "c", "c", "c"]
        await tester.send(TOPIC, {"n": 2, "timestamp": 4}, key="a")
        assert (await told(tester))[4:] == ["e", "e", "e", "2"]
        await tester.finish()
        assert (await told(tester))[8:] == ["e"]


async def test_the_end_of_the_input_fires_what_waits_for_event_time_and_nothing_else() -> None:
    async with StreamTester(make_app(), raises=False) as tester:
        at = {"t": 10**12, "u": 5_000}
        await tester.send(TOPIC, {"n": 1, "timestamp": 1, "at": at, "after": {"c": 60_000}}, key="a")
        await tester.finish()
        assert await told(tester) == ["1", "u", "t"]
        await tester.advance(60_000)
        assert await told(tester) == ["1", "u", "t", "c"]


async def test_the_watermark_stays_behind_by_its_delay() -> None:
    async with StreamTester(make_app(watermark_delay_ms=2_000), raises=False) as tester:
        await tester.send(TOPIC, {"n": 1, "timestamp": 1, "at": {"t": 5_000}}, key="a")
        await tester.send(TOPIC, {"n": 2, "timestamp": 6.999}, key="b")
        assert await told(tester) == ["1", "2"]
        await tester.send(TOPIC, {"n": 3, "timestamp": 7}, key="b")
        assert await told(tester) == ["1", "2", "t", "3"]


async def test_a_silent_partition_follows_the_clock_where_it_is_told_to() -> None:
    async with StreamTester(make_app(idle_timeout_ms=30_000), raises=False) as tester:
        now_ms = tester.now_ms
        await tester.send(TOPIC, {"n": 1, "at": {"t": now_ms + 600_000, "u": now_ms + 10_000}}, key="a")
        await tester.advance(39_000)
        assert await told(tester) == ["1"]
        await tester.advance(6_000)
        assert await told(tester) == ["1", "u"]
        await tester.advance(600_000 + 30_000 - 45_000 - 1)
        assert await told(tester) == ["1", "u"]
        await tester.advance(1)
        assert await told(tester) == ["1", "u", "t"]


async def test_without_idle_timeout_event_time_stands_still_without_records() -> None:
    async with StreamTester(make_app(), raises=False) as tester:
        await tester.send(TOPIC, {"n": 1, "at": {"t": tester.now_ms + 10}}, key="a")
        await tester.advance(10_000_000)
        assert await told(tester) == ["1"]


async def test_a_time_far_ahead_of_the_clock_fires_nothing() -> None:
    far_s = time.time() + 7_200
    async with StreamTester(make_app(), raises=False) as tester:
        await tester.send(TOPIC, {"n": 1, "timestamp": 1, "at": {"t": 5_000}}, key="a")
        await tester.send(TOPIC, {"n": 2, "timestamp": far_s}, key="b")
        assert await told(tester) == ["1", "2"]
        assert await tester.dead_letters() == []
    async with StreamTester(make_app(max_future_ms=None), raises=False) as tester:
        await tester.send(TOPIC, {"n": 1, "timestamp": 1, "at": {"t": 5_000}}, key="a")
        await tester.send(TOPIC, {"n": 2, "timestamp": far_s}, key="b")
        assert await told(tester) == ["1", "t", "2"]


@pytest.mark.parametrize("plain", [False, True])
async def test_a_failing_timer_is_retried_and_then_a_dead_letter_with_its_payload(plain: bool) -> None:
    runs: list[int] = []

    async def fire(timer: Timer, ctx: Context) -> None:
        runs.append(timer.attempt)
        ctx.emit({"n": 0}, topic="out")
        await ctx.state.put("fired", 1)
        ctx.timer("other", after_ms=1)
        raise ValueError("no")

    def fire_in_thread(timer: Timer, ctx: SyncContext) -> None:
        runs.append(timer.attempt)
        ctx.emit({"n": 0}, topic="out")
        ctx.timer("other", after_ms=1)
        raise ValueError("no")

    async with StreamTester(make_app(fire_in_thread if plain else fire), raises=False) as tester:
        await tester.send(TOPIC, {"n": 7, "after": {"t": 100}}, key="a")
        await tester.advance(100)
        assert runs == [1]
        await tester.send(TOPIC, {"n": 8}, key="a")  # its key goes on meanwhile
        await tester.advance(2_000)
        assert runs == [1, 2, 3]
        (letter,) = await tester.dead_letters()
        assert (letter.attempts, letter.error_type, letter.error, letter.handler) == (3, "ValueError", "no", "app")
        assert (letter.record.value, letter.record.key, letter.is_result) == (b"7", "a", True)
        assert letter.record.headers["timer"] == "t"
        assert await told(tester) == ["7", "8"]
        assert await tester.state("app", "a", "fired") is None
        with pytest.raises(Refused, match="is the timer 't' of a key of app"):
            await tester.broker.replay_dead_letters([letter])
        assert await tester.broker.replay_dead_letters([letter], to="elsewhere") == 1
        assert await tester.outputs("elsewhere") == [7]


async def test_a_retried_timer_is_replaced_and_cancelled_as_any() -> None:
    runs: list[str] = []

    async def fire(timer: Timer, ctx: Context) -> None:
        runs.append(f"{timer.name}{timer.payload}")
        if timer.payload == 1:
            raise RetryLater(10)

    async with StreamTester(make_app(fire), raises=False) as tester:
        await tester.send(TOPIC, {"n": 1, "after": {"t": 0, "u": 0}}, key="a")
        await tester.send(TOPIC, {"n": 2, "after": {"t": 5_000}, "cancel": ["u"]}, key="a")
        await tester.advance(60_000)
        assert sorted(runs[:2]) == ["t1", "u1"]
        assert runs[2:] == ["t2"]


async def test_a_timer_waits_for_the_records_of_its_key_that_are_held_back() -> None:
    attempts: list[int] = []
    stream = Stream(topic=TOPIC, group="g")

    @stream.subscribe(
        TOPIC, ordering="key", name="app", retry=RetryPolicy(5, initial_ms=60_000, max_ms=60_000, jitter=0)
    )
    async def handle(event: Number, ctx: Context) -> None:
        if event.n == 0:
            ctx.timer("c", after_ms=1_000)
            ctx.timer("e", at_ms=2_000)
        if event.n == 1:
            attempts.append(event.n)
            if len(attempts) == 1:
                raise ValueError("once")
        ctx.emit({"seen": event.n}, topic="out")

    @stream.on_timer(handle)
    async def fire(timer: Timer, ctx: Context) -> None:
        ctx.emit({"fired": timer.key + timer.name}, topic="out")

    async with StreamTester(stream, raises=False) as tester:
        await tester.send(TOPIC, {"n": 0}, key="a", timestamp=1)
        await tester.send(TOPIC, {"n": 0}, key="b", timestamp=1)
        await tester.send_many(TOPIC, numbers(2, keys="a", start=1), timestamp=1)
        await tester.send(TOPIC, {"n": 9}, key="c", timestamp=3)
        await tester.advance(2_000)
        assert await told(tester) == ["0", "0", "be", "9", "bc"]
        await tester.advance(58_000)
        assert (await told(tester))[5:] == ["1", "2", "ae", "ac"] or (await told(tester))[5:] == ["1", "2", "ac", "ae"]


async def test_payloads_are_json_or_models() -> None:
    stream = Stream(topic=TOPIC, group="g")
    got: list[object] = []
    note = Note(text="hm", price=Decimal("0.10"))

    @stream.subscribe(TOPIC, ordering="key", name="app", schema=dict)
    async def handle(event: dict[str, Any], ctx: Context) -> None:
        ctx.timer("t", after_ms=timedelta(seconds=1), payload=note if event["n"] else {"price": "none"})

    @stream.on_timer(handle)
    async def fire(timer: Timer[Note]) -> None:
        got.append(timer.payload)

    async with StreamTester(stream, raises=False) as tester:
        await tester.send(TOPIC, {"n": 1}, key="a")
        await tester.send(TOPIC, {"n": 0}, key="b")
        await tester.advance(1_000)
        assert got == [note]
        (letter,) = await tester.dead_letters()
        assert (letter.error_type, letter.attempts) == ("SchemaError", 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"at_ms": 1, "after_ms": 1}, "one of them"),
        ({}, "one of them"),
        ({"at_ms": "soon"}, "whole milliseconds"),
        ({"at_ms": 1.5}, "whole milliseconds"),
        ({"at_ms": 10**18}, "year 9999"),
        ({"after_ms": -1}, "0 or more"),
        ({"after_ms": float("nan")}, "0 or more"),
        ({"after_ms": True}, "0 or more"),
        ({"after_ms": 1, "payload": object()}, "payload of timer 't'"),
        ({"after_ms": 1, "name": ""}, "named by text"),
        ({"after_ms": 1, "name": "\ud800"}, "UTF-8"),
        ({"after_ms": 1, "name": "x" * 600}, "at most 512"),
    ],
)
async def test_what_is_no_timer_is_a_dead_letter_that_says_so(options: dict[str, Any], message: str) -> None:
    stream = Stream(topic=TOPIC, group="g")

    @stream.subscribe(TOPIC, ordering="key", name="app")
    async def handle(event: Number, ctx: Context) -> None:
        ctx.timer(options.pop("name", "t"), **options)

    @stream.on_timer(handle)
    async def fire(timer: Timer) -> None: ...

    async with StreamTester(stream, raises=False) as tester:
        await tester.send(TOPIC, {"n": 1}, key="a")
        (letter,) = await tester.dead_letters()
        assert message in letter.error
        assert letter.attempts == 1


async def test_where_there_are_no_timers_the_error_says_why() -> None:
    for options, key, message in (
        ({"ordering": "none"}, "a", "is not ordered"),
        ({"ordering": "key"}, "a", "@stream.on_timer(app)"),
    ):
        stream = Stream(topic=TOPIC, group="g")

        @stream.subscribe(TOPIC, name="app", **options)  # type: ignore[arg-type]  # of a table
        async def handle(event: Number, ctx: Context) -> None:
            ctx.timer("t", after_ms=1)

        async with StreamTester(stream, raises=False) as tester:
            await tester.send(TOPIC, {"n": 1}, key=key)
            (letter,) = await tester.dead_letters()
            assert message in letter.error
    async with StreamTester(make_app(), raises=False) as tester:
        await tester.send(TOPIC, {"n": 1, "after": {"t": 1}})
        (letter,) = await tester.dead_letters()
        assert "has no key, and a timer belongs to a key" in letter.error


def test_what_can_have_no_timers_is_refused_where_it_is_declared() -> None:
    stream = Stream(topic=TOPIC, group="g")

    async def fire(timer: Timer) -> None: ...

    async def with_context(event: Number, ctx: Context) -> None: ...
    async def alone(event: Number) -> None: ...
    async def batch(events: list[Number], ctx: Context) -> None: ...
    async def unknown(event: Number, ctx: Context) -> None: ...

    stream.subscribe(TOPIC, name="shared")(with_context)
    stream.subscribe(TOPIC, ordering="key", name="alone")(alone)
    stream.subscribe(TOPIC, ordering="key", name="batch")(batch)
    for handler, message in (
        (with_context, "belong to keys of ordered handlers"),
        (alone, "can't set a timer"),
        (batch, "takes whole batches"),
        (unknown, "no handler of this Stream"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            stream.on_timer(handler)(fire)

    async def grouped(event: Number, ctx: Context) -> None: ...

    stream.subscribe(TOPIC, ordering="key", key="n", name="grouped")(grouped)
    with pytest.raises(NotAvailable, match="own keys only"):
        stream.on_timer(grouped)(fire)

    async def joined(event: Number, ctx: Context) -> None: ...

    stream.subscribe(topics=[TOPIC, "more"], ordering="key", name="joined")(joined)
    with pytest.raises(NotAvailable, match="one topic only"):
        stream.on_timer(joined)(fire)
    stream.subscribe(TOPIC, ordering="key", name="fine")(unknown)

    async def three(timer: Timer, ctx: Context, more: int) -> None: ...
    async def wrong(event: Number) -> None: ...
    async def no_context(timer: Timer, ctx: int) -> None: ...
    async def blocking(timer: Timer, ctx: SyncContext) -> None: ...

    for function, message in (
        (three, "takes 3 parameters"),
        (wrong, "a Timer or Timer"),
        (no_context, "no Context"),
        (blocking, "not SyncContext"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            stream.on_timer(unknown)(function)
    with pytest.raises(ConfigurationError, match="watermark_delay_ms=-1"):
        stream.on_timer(unknown, watermark_delay_ms=-1)(fire)
    assert stream.on_timer(unknown)(fire) is fire
    with pytest.raises(ConfigurationError, match="already"):
        stream.on_timer(unknown)(fire)


async def test_an_included_stream_brings_its_timers_whenever_they_are_declared() -> None:
    inner, outer = Stream(topic="inner", group="g"), Stream(topic="outer", group="g")

    @inner.subscribe("inner", ordering="key", name="app")
    async def handle(event: Number, ctx: Context) -> None:
        ctx.timer("t", after_ms=1_000)

    outer.include(inner)

    @inner.on_timer(handle)
    async def fire(timer: Timer, ctx: Context) -> None:
        ctx.emit({"fired": timer.name}, topic="out")

    async with StreamTester(outer, raises=False) as tester:
        await tester.send("inner", {"n": 1}, key="a")
        await tester.advance(1_000)
        assert await told(tester) == ["t"]


async def test_a_crash_loses_no_timer_and_fires_none_twice() -> None:
    async with StreamTester(make_app(), raises=False) as tester:
        await tester.send(
            TOPIC, {"n": 1, "timestamp": 1, "after": {"t": 20_000, "u": 13_000}, "at": {"e": 5_000}}, key="a"
        )
        await tester.crash()
        assert await told(tester) == ["1"]
        await tester.advance(1_000)
        await tester.crash()
        await tester.send(TOPIC, {"n": 2, "timestamp": 5}, key="a")
        await tester.crash()
        assert sorted(await told(tester)) == ["1", "2", "e", "t", "u"]


async def test_a_timer_function_that_takes_too_long_has_failed(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    runs: list[int] = []

    @stream.subscribe(TOPIC, ordering="key", timeout_ms=50, retry=QUICK, name="app")
    async def handle(event: Number, ctx: Context) -> None:
        ctx.timer("t", after_ms=0)

    @stream.on_timer(handle)
    async def fire(timer: Timer, ctx: Context) -> None:
        runs.append(timer.attempt)
        ctx.emit({"fired": timer.attempt}, topic="out")
        if timer.attempt == 1:
            await asyncio.sleep(30)

    await stream.emit_many(numbers(1))
    async with running(stream):
        await until(lambda: len(runs) == 2, within_ms=10_000)
        await drain(stream)
    assert await read_events(backend.broker, "out") == [{"event_type": "GenericEvent", "fired": 2}]


async def test_many_timers_that_are_due_at_once_starve_no_record_and_records_starve_no_timer(
    backend: StreamingBackend,
) -> None:
    stream = Stream(backend)
    fired, seen = 0, 0
    order: list[str] = []

    @stream.subscribe(TOPIC, 100, ordering="key", name="app")
    async def handle(event: Number, ctx: Context) -> None:
        nonlocal seen
        seen += 1
        order.append("r")
        if event.n < 30:
            for n in range(100):
                ctx.timer(f"{n}", after_ms=0)

    @stream.on_timer(handle)
    async def fire(timer: Timer, ctx: Context) -> None:
        nonlocal fired
        fired += 1
        order.append("t")

    await stream.emit_many([{"n": n, "key": f"k{n}"} for n in range(1_000)])
    async with running(stream):
        await until(lambda: seen == 1_000 and fired == 3_000, within_ms=60_000)
        await drain(stream)
    assert fired == 3_000
    assert "t" in order[: order.index("r") + 1_000], "some fire while there is a backlog"
    assert "r" in order[order.index("t") + 600 :] or order.index("t") > 900, "records go on while timers are due"


async def test_state_and_timers_move_together_between_workers(kind: Kind, tmp_path: Path) -> None:
    """A worker that is abandoned half-way leaves timers to the next one, in event time and by the clock."""
    broker = kind.make(tmp_path, Limits(synchronous="NORMAL", lease_ms=1_000), None)
    backend = StreamingBackend(broker, TOPIC, "g")
    fired: list[str] = []

    def make(start: bool) -> Stream:
        stream = Stream(backend)

        @stream.subscribe(TOPIC, 3, ordering="key", name="app", schema=dict)
        async def handle(event: dict[str, Any], ctx: Context) -> None:
            ctx.timer(f"c{event['n']}", after_ms=300)
            ctx.timer(f"e{event['n']}", at_ms=10_000 + event["n"])

        @stream.on_timer(handle)
        async def fire(timer: Timer, ctx: Context) -> None:
            ctx.emit({"fired": timer.key + timer.name}, topic="out")
            fired.append(timer.name)
            await asyncio.sleep(0.002)

        return stream

    await broker.connect()
    await broker.create_topic(TOPIC, partitions=2)
    first = make(True)
    await first.emit_many([{"n": n, "key": f"k{n % 7}", "timestamp": 1} for n in range(60)])
    task = asyncio.create_task(first.run_forever())
    await until(lambda: len(fired) > 10, within_ms=20_000)
    first.abandon()
    await task
    second = make(False)
    await second.emit_many([{"n": 1_000 + n, "key": f"k{n}", "timestamp": 100} for n in range(20)])

    async def all_fired() -> bool:
        return len(await read_events(broker, "out")) >= 160

    async with running(second):
        await wait_until(all_fired, within_ms=60_000)
        await drain(second)
    names = [each["fired"] for each in await read_events(broker, "out")]
    assert sorted(names) == sorted(
        [f"k{n % 7}{c}{n}" for n in range(60) for c in "ce"] + [f"k{n}{c}{1_000 + n}" for n in range(20) for c in "ce"]
    )
    await broker.close()


async def test_a_strict_tester_raises_what_a_timer_raised_and_says_which_it_was() -> None:
    async def fire(timer: Timer) -> None:
        raise ValueError("no")

    async with StreamTester(make_app(fire)) as tester:
        await tester.send(TOPIC, {"n": 1, "after": {"t": 1_000}}, key="a")
        with pytest.raises(ValueError, match="no") as raised:
            await tester.advance(1_000)
        assert "raised for numbers timer 't' of 'a', attempt 1" in raised.value.__notes__[0]


async def test_the_function_of_a_timer_can_have_no_steps() -> None:
    async def fire(timer: Timer, ctx: Context) -> None:
        await ctx.step("charge", lambda: 1)

    async with StreamTester(make_app(fire, retry=RetryPolicy(1)), raises=False) as tester:
        await tester.send(TOPIC, {"n": 1, "after": {"t": 1_000}}, key="a")
        await tester.advance(1_000)
        (letter,) = await tester.dead_letters()
        assert "the function of a timer can't have steps" in letter.error
