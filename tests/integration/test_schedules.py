"""Schedules: each tick runs once, is retried beside later ones; outages, clocks that are set, changed definitions."""

import asyncio
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pspf import Context, RetryPolicy, Stream, SyncContext, Tick
from pspf.clock import ManualClock
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.contract.limits import Limits
from pspf.connectors.letters import replay_batch
from pspf.errors import ConfigurationError
from pspf.testing import StreamTester
from pspf.windowing.schedules.schedule import CatchUp
from tests.integration.running import read_events, running, until, wait_until
from tests.support.brokers import Kind

HOUR_MS = 3_600_000
START_MS = 1_700_000_000_000 // HOUR_MS * HOUR_MS
ONCE = RetryPolicy(max_attempts=1)
SLOW = RetryPolicy(max_attempts=3, initial_ms=15_000, max_ms=15_000, jitter=0)


def make_app(
    interval: str = "10s",
    *,
    catch_up: CatchUp = "last",
    fails: Callable[[Tick], bool] = lambda tick: False,
    **options: Any,
) -> Stream:
    """Return an app whose schedule `report` counts its ticks and emits them."""
    stream = Stream(topic="orders", group="g")

    @stream.every(interval, name="report", catch_up=catch_up, **options)
    async def report(tick: Tick, ctx: Context) -> None:
        count = await ctx.state.get("count", 0) + 1
        await ctx.state.put("count", count)
        ctx.emit({"at": tick.at_ms - START_MS, "count": count, "attempt": tick.attempt}, topic="out", key="k")
        if fails(tick):
            raise ValueError(tick.id)

    return stream


async def ticks(tester: StreamTester) -> list[int]:
    """Return which ticks ran, in seconds from the start."""
    return [each["at"] // 1_000 for each in await tester.outputs("out")]


def on(kind: Kind, folder: Path, clock: ManualClock) -> StreamingBackend:
    return StreamingBackend(kind.make(folder, Limits(synchronous="NORMAL"), clock), "orders", "g")


async def test_each_tick_runs_once_at_its_time_with_state_and_emits(kind: Kind, tmp_path: Path) -> None:
    clock = ManualClock(START_MS + 1)
    async with StreamTester(make_app(), on(kind, tmp_path, clock), clock=clock) as tester:
        await tester.advance(9_998)
        assert await ticks(tester) == []
        await tester.advance(1)
        assert await ticks(tester) == [10]
        await tester.advance("35s")
        assert await ticks(tester) == [10, 20, 30, 40]
        assert await tester.state("report", "report", "count") == 4
        await tester.crash()
        await tester.advance("10s")
        assert await ticks(tester) == [10, 20, 30, 40, 50, 60]
        assert [each["count"] for each in await tester.outputs("out")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("catch_up", "expected"),
    [("all", [10, 20, 30, 40, 50, 60, 70]), ("last", [10, 60, 70]), ("none", [10, 60, 70])],
)
async def test_ticks_that_nobody_ran(kind: Kind, tmp_path: Path, catch_up: CatchUp, expected: list[int]) -> None:
    clock = ManualClock(START_MS + 1)
    backend = on(kind, tmp_path, clock)
    async with StreamTester(make_app(catch_up=catch_up), backend, clock=clock) as tester:
        await tester.advance("12s")
    clock.advance(50_000)
    async with StreamTester(make_app(catch_up=catch_up), backend, clock=clock) as tester:
        await tester.advance("10s")
        assert await ticks(tester) == expected


async def test_an_outage_of_a_month_is_one_tick_or_none() -> None:
    for catch_up, more in (("last", [720 * 3_600, 721 * 3_600]), ("none", [721 * 3_600])):
        clock = ManualClock(START_MS + 1)
        backend = StreamingBackend(StreamTester(make_app(), clock=clock)._make_broker(), "orders", "g")
        app = make_app("1h", catch_up=catch_up)  # type: ignore[arg-type]  # of the three
        async with StreamTester(app, backend, clock=clock) as tester:
            await tester.advance("1h")
            clock.advance(719 * HOUR_MS + 120_000)
            await tester.broker.ping()
            await tester.settle()
            await tester.advance("1h")
            assert await ticks(tester) == [3_600, *more]


async def test_a_tick_that_fails_is_retried_while_later_ones_run_and_can_be_replayed(
    kind: Kind, tmp_path: Path
) -> None:
    clock = ManualClock(START_MS + 1)
    is_mended = False

    def fails(tick: Tick) -> bool:
        return not is_mended and tick.at_ms == START_MS + 20_000

    app = make_app(fails=fails, retry=SLOW)
    async with StreamTester(app, on(kind, tmp_path, clock), clock=clock, raises=False) as tester:
        await tester.advance("75s")
        assert await ticks(tester) == [10, 30, 40, 50, 60, 70]
        (letter,) = await tester.dead_letters()
        assert (letter.topic, letter.handler, letter.attempts) == ("g.ticks", "report", 3)
        assert letter.record.headers["timer"] == "tick 2023-11-14T22:00:20Z"
        is_mended = True
        assert await replay_batch(tester.broker, [letter], None) == (1, [])
        await tester.settle()
        assert await ticks(tester) == [10, 30, 40, 50, 60, 70, 20]
        assert await tester.dead_letters() == []


async def test_a_tick_whose_retry_comes_later_keeps_its_time() -> None:
    clock = ManualClock(START_MS + 1)
    app = make_app(fails=lambda tick: tick.attempt < 2 and tick.at_ms == START_MS + 10_000, retry=SLOW)
    async with StreamTester(app, clock=clock, raises=False) as tester:
        await tester.advance("30s")
        assert [(each["at"], each["attempt"]) for each in await tester.outputs("out")] == [
            (20_000, 1),
            (10_000, 2),
            (30_000, 1),
        ]


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("is_plain", [False, True])
async def test_all_shapes_of_functions(count: int, is_plain: bool) -> None:
    stream, seen = Stream(topic="orders", group="g"), list[Any]()

    async def nothing() -> None:
        seen.append(())

    async def one(tick: Tick) -> None:
        seen.append((tick.at_ms,))

    async def two(tick: Tick, ctx: Context) -> None:
        seen.append((tick.at_ms, ctx.key))

    def plain_nothing() -> None:
        seen.append(())

    def plain_one(tick: Tick) -> None:
        seen.append((tick.at_ms,))

    def plain_two(tick: Tick, ctx: SyncContext) -> None:
        seen.append((tick.at_ms, ctx.key))
        ctx.state.put("n", 1)

    function: Any = ((nothing, one, two), (plain_nothing, plain_one, plain_two))[is_plain][count]
    stream.cron("* * * * *", name="s")(function)
    async with StreamTester(stream, clock=ManualClock(START_MS)) as tester:
        await tester.advance("1m")
        assert seen == [(START_MS + 60_000, "s")[:count]]
        assert await tester.state(function, "s", "n") == (1 if is_plain and count == 2 else None)


async def test_a_schedule_of_another_time_drops_the_stored_tick() -> None:
    clock = ManualClock(START_MS + 1)
    backend = StreamingBackend(StreamTester(make_app(), clock=clock)._make_broker(), "orders", "g")
    async with StreamTester(make_app("1h"), backend, clock=clock) as tester:
        await tester.advance("1m")
    async with StreamTester(make_app("7s"), backend, clock=clock) as tester:
        await tester.advance("10s")
        assert await ticks(tester) == [66]
    async with StreamTester(make_app("1h"), backend, clock=clock) as tester:
        await tester.advance("1h")
        assert await ticks(tester) == [66, 3_600]


async def test_a_schedule_that_is_gone_and_another_app_of_the_group_hold_up_nothing() -> None:
    clock = ManualClock(START_MS + 1)
    backend = StreamingBackend(StreamTester(make_app(), clock=clock)._make_broker(), "orders", "g")
    async with StreamTester(make_app(), backend, clock=clock) as tester:
        await tester.advance("20s")
    other = Stream(topic="orders", group="g")

    @other.every("5s", name="other")
    async def tick(tick: Tick, ctx: Context) -> None:
        ctx.emit({"at": tick.at_ms - START_MS}, topic="others", key="k")

    async with StreamTester(other, backend, clock=clock) as tester:
        await tester.advance("40s")
        assert len(await tester.outputs("others")) == 8
    async with StreamTester(make_app(), backend, clock=clock) as tester:
        assert await ticks(tester) == [10, 20, 60]


async def test_a_clock_that_goes_a_year_on_and_back_neither_stops_nor_doubles_ticks() -> None:
    clock = ManualClock(START_MS + 1)
    async with StreamTester(make_app(), clock=clock) as tester:
        await tester.advance("20s")
        clock.set_wall(START_MS + 365 * 24 * HOUR_MS + 1)
        await tester.advance("10s")
        year_s = 365 * 24 * 3_600
        assert await ticks(tester) == [10, 20, year_s + 10]
        clock.set_wall(START_MS + 31_000)
        await tester.advance("60s")  # it is looked at once a minute, or when there is something else to do
        await tester.advance("10s")
        assert (await ticks(tester))[3:] == [100]
        clock.set_wall(START_MS + 99_000)  # a little: 100 does not run again
        await tester.advance("12s")
        assert (await ticks(tester))[4:] == [110]


async def test_a_function_that_takes_longer_than_its_interval_skips_ticks_and_never_runs_twice_at_once() -> None:
    stream, running_now, most, seen = Stream(topic="orders", group="g"), 0, 0, list[int]()

    @stream.every(50, name="slow")
    async def slow(tick: Tick) -> None:
        nonlocal running_now, most
        running_now += 1
        most = max(most, running_now)
        await asyncio.sleep(0.12)
        seen.append(tick.at_ms)
        running_now -= 1

    async with StreamTester(stream, "memory://", clock=None) as tester:
        clock = tester._manual("test")
        begun = time.monotonic()
        while len(seen) < 4:
            clock.advance(int((time.monotonic() - begun) * 1_000))
            begun = time.monotonic()
            await tester.broker.ping()
            await asyncio.sleep(0.005)
    assert most == 1
    assert seen == sorted(set(seen))
    assert any(later - earlier > 50 for earlier, later in itertools.pairwise(seen))


async def test_what_a_tick_can_not_do() -> None:
    stream, errors = Stream(topic="orders", group="g"), list[str]()

    @stream.every("1s", name="s", retry=ONCE)
    async def tick(tick: Tick, ctx: Context) -> None:
        for call in (lambda: ctx.timer("t", after_ms=1), lambda: ctx.cancel_timer("t")):
            with pytest.raises(ConfigurationError) as error:
                call()
            errors.append(str(error.value))

    async with StreamTester(stream, clock=ManualClock(START_MS)) as tester:
        await tester.advance("1s")
    assert len(errors) == 2
    assert "a schedule sets no timers" in errors[0]


async def test_a_tick_is_run_at_once_by_a_record_with_the_name_of_its_schedule() -> None:
    async with StreamTester(make_app(), clock=ManualClock(START_MS + 1), raises=False) as tester:
        await tester.send("g.ticks", {}, key="report")
        await tester.send("g.ticks", {"at_ms": START_MS + 5_000}, key="report")
        await tester.send("g.ticks", {}, key="another")
        assert await ticks(tester) == [0, 5]
        await tester.send("g.ticks", {"at_ms": "soon"}, key="report")
        assert [each.error_type.rpartition(".")[2] for each in await tester.dead_letters()] == ["EventRejected"]


async def test_several_workers_run_each_tick_once_while_they_come_and_go(kind: Kind, tmp_path: Path) -> None:
    """In real time: three workers at each moment, of which two are abandoned as killed ones are."""
    limits = Limits(synchronous="NORMAL", lease_ms=400, renew_ms=100)
    broker = kind.make(tmp_path, limits, None)

    def app() -> Stream:
        stream = make_app("50ms", catch_up="all")
        stream.bind(broker)
        return stream

    async with broker:
        workers = [app() for _ in range(3)]
        tasks = [asyncio.create_task(worker.run_forever()) for worker in workers]
        for round_number in range(3):
            before = len(await read_events(broker, "out"))

            async def has_gone_on(before: int = before) -> bool:
                return len(await read_events(broker, "out")) >= before + 4

            await wait_until(has_gone_on, within_ms=10_000)
            for place in (round_number % 3, (round_number + 1) % 3):
                workers[place].abandon()
                await asyncio.wait([tasks[place]])
                workers[place] = app()
                tasks[place] = asyncio.create_task(workers[place].run_forever())
        await until(lambda: all(worker.session_id for worker in workers))  # one that has not begun can't be stopped
        for worker in workers:
            await worker.stop()
        await asyncio.wait(tasks)
        events = await read_events(broker, "out")
    times = [each["at"] for each in events]
    assert times == list(range(times[0], times[0] + 50 * len(times), 50))
    assert [each["count"] for each in events] == list(range(1, len(events) + 1))


async def test_a_stream_without_schedules_has_no_ticker(backend: StreamingBackend) -> None:
    stream = Stream(backend)

    @stream.subscribe("numbers", name="h")
    async def handle(event: dict[str, Any]) -> None: ...

    async with running(stream):
        await asyncio.sleep(0)
    await backend.connect()
    assert [info.topic for info in await backend.broker.list_topics()] in ([], ["numbers"])
