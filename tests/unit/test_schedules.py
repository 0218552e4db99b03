"""Times of schedules, missed ticks, clocks that are set; and which functions may have a schedule."""

import itertools
import random
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from pspf import Context, Stream, SyncContext, Tick
from pspf.errors import ConfigurationError
from pspf.windowing.schedules.schedule import CatchUp, Schedule
from pspf.windowing.schedules.times import Cron, Every, make_cron, make_every

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS


def at(text: str, zone: str = "UTC") -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1_000)


def texts(cron: Cron, begin_ms: int, count: int) -> list[str]:
    """Return the next times of an expression, in its zone."""
    found = []
    for _ in range(count):
        begin_ms = cron.after(begin_ms)
        found.append(datetime.fromtimestamp(begin_ms / 1_000, UTC).astimezone(cron.tz).isoformat())
    return found


def test_an_interval_ticks_at_its_multiples_whoever_counts() -> None:
    every = make_every("here", 10_000)
    assert [every.after(at_ms) for at_ms in (0, 1, 9_999, 10_000, -1)] == [10_000, 10_000, 10_000, 20_000, 0]
    assert [every.latest(at_ms) for at_ms in (0, 9_999, 10_000)] == [0, 0, 10_000]
    assert str(every) == "every 10s"


def test_a_time_of_day_that_does_not_exist_ticks_at_the_first_minute_that_does() -> None:
    cron = make_cron("here", "30 2 * * *", "Europe/Berlin")
    assert texts(cron, at("2026-03-28T00:00:00", "Europe/Berlin"), 3) == [
        "2026-03-28T02:30:00+01:00",
        "2026-03-29T03:00:00+02:00",
        "2026-03-30T02:30:00+02:00",
    ]


def test_a_time_of_day_that_is_there_twice_ticks_the_first_time() -> None:
    cron = make_cron("here", "30 2 * * *", "Europe/Berlin")
    begin_ms = at("2026-10-25T00:00:00", "Europe/Berlin")
    assert texts(cron, begin_ms, 2) == ["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"]
    for minutes in range(0, 26 * 60, 7):  # from wherever it is counted
        later_ms = begin_ms + minutes * MINUTE_MS
        assert cron.after(later_ms) > later_ms


def test_hours_that_are_all_named_tick_by_what_has_passed() -> None:
    cron = make_cron("here", "0 * * * *", "Europe/Berlin")
    for day in ("2026-03-29T00:00:00", "2026-10-25T00:00:00"):
        begin_ms = at(day, "Europe/Berlin")
        times = []
        for _ in range(5):
            begin_ms = cron.after(begin_ms)
            times.append(begin_ms)
        assert {later - earlier for earlier, later in itertools.pairwise(times)} == {HOUR_MS}


@pytest.mark.parametrize(
    "expression",
    ["* * * * *", "*/7 3 * * *", "0 6 * * MON-FRI", "30 2 * * *", "0 0 1 * *", "0 0 29 2 *", "*/5 * * * * *"],
)
def test_the_latest_time_is_the_one_before_the_next(expression: str) -> None:
    cron, rng = make_cron("here", expression, "Europe/Berlin"), random.Random(expression)
    for _ in range(30):
        at_ms = at("2024-01-01T00:00:00") + rng.randrange(3 * 366 * DAY_MS)
        latest_ms = cron.latest(at_ms)
        assert latest_ms <= at_ms < cron.after(latest_ms)
        assert cron.latest(latest_ms) == latest_ms


@pytest.mark.parametrize(
    ("catch_up", "late_ms", "expected"),
    [
        ("all", 35_000, (10_000, 20_000)),
        ("last", 35_000, (40_000, 50_000)),
        ("none", 35_000, (40_000, 50_000)),
        ("all", 0, (10_000, 20_000)),
        ("last", 0, (10_000, 20_000)),
        ("none", 0, (10_000, 20_000)),
    ],
)
def test_missed_ticks(catch_up: CatchUp, late_ms: int, expected: tuple[int, int]) -> None:
    assert Schedule(Every(10_000), catch_up).choose(10_000, 10_000 + late_ms) == expected


def test_a_tick_that_is_more_than_a_minute_late_runs_unless_none_are_caught_up() -> None:
    for catch_up, expected in (("none", (None, 2 * DAY_MS)), ("last", (DAY_MS, 2 * DAY_MS))):
        schedule = Schedule(Every(DAY_MS), catch_up)  # type: ignore[arg-type]  # of the three
        assert schedule.choose(DAY_MS, DAY_MS + 60_001) == expected
        assert schedule.choose(DAY_MS, DAY_MS + 60_000) == (DAY_MS, 2 * DAY_MS)


def test_a_clock_that_is_set_back_a_little_repeats_no_tick_and_one_that_was_wrong_is_followed() -> None:
    schedule = Schedule(Every(10_000), "last")
    assert schedule.correct(30_000, 20_000, 19_000) == 30_000
    assert schedule.correct(30_000, 20_000, 25_000) == 30_000
    assert schedule.correct(DAY_MS + 30_000, DAY_MS + 20_000, 25_000) == 30_000
    assert schedule.correct(DAY_MS + 30_000, None, 25_000) == 30_000
    cron = Schedule(make_cron("here", "0 6 * * *", "UTC"), "last")
    six_ms = at("2026-01-02T06:00:00")
    assert cron.correct(six_ms + DAY_MS, six_ms, six_ms - 2 * HOUR_MS) == six_ms + DAY_MS
    assert cron.correct(six_ms + DAY_MS, six_ms, six_ms - 4 * HOUR_MS) == six_ms


@pytest.mark.parametrize("expression", ["", "* * * *", "61 * * * *", "0 0 30 2 *", "every day", "* * * * * * *", 5])
def test_what_is_no_expression_is_refused(expression: Any) -> None:
    with pytest.raises(ConfigurationError, match="cron"):
        Stream(topic="t", group="g").cron(expression)


def test_what_is_no_time_zone_interval_or_choice_is_refused() -> None:
    stream = Stream(topic="t", group="g")
    for zone in ("Europe/Atlantis", "", "../etc", 3):
        with pytest.raises(ConfigurationError, match="tz="):
            stream.cron("0 6 * * *", tz=zone)  # type: ignore[arg-type]  # as a user might
    for interval in (0, -1, "soon", 1.5, 9):
        with pytest.raises(ConfigurationError, match="every"):
            stream.every(interval)  # type: ignore[arg-type]  # as a user might
    with pytest.raises(ConfigurationError, match="catch_up='some'"):
        stream.every("10s", catch_up="some")  # type: ignore[arg-type]  # as a user might


def test_functions_of_other_shapes_are_refused() -> None:
    stream = Stream(topic="t", group="g")

    async def blocking(tick: Tick, ctx: SyncContext) -> None: ...
    async def alone(ctx: Context) -> None: ...
    async def three(a: Tick, b: Context, c: int) -> None: ...
    async def of_text(tick: str) -> None: ...
    async def second(tick: Tick, ctx: int) -> None: ...
    async def keyword(tick: Tick, *, ctx: Context) -> None: ...
    async def yields(tick: Tick) -> Any:
        yield 1

    for function in (blocking, alone, three, of_text, second, keyword, yields, 3):
        with pytest.raises(ConfigurationError):
            stream.every("10s", name="a")(function)  # type: ignore[type-var]  # as a user might
    assert stream.subscriptions == []


def test_the_function_is_returned_and_two_of_one_name_are_refused() -> None:
    stream = Stream(topic="t", group="g")

    def tick() -> None: ...

    assert stream.every(timedelta(seconds=1))(tick) is tick
    stream.cron("0 0 * * *")(tick)
    with pytest.raises(ConfigurationError, match="pass name="):
        stream.check()


def test_a_tick_tells_its_time_in_the_zone_of_its_schedule() -> None:
    tick = Tick("report", at("2026-07-01T06:00:00", "Europe/Berlin"), None, 2, ZoneInfo("Europe/Berlin"))
    assert tick.at.isoformat() == "2026-07-01T06:00:00+02:00"
    assert tick.id == "report@2026-07-01T04:00:00Z"
    assert tick.previous_at is None
    assert Tick("r", 1_500).id == "r@1970-01-01T00:00:01.500Z"
