"""Time under a StreamTester: rounded as that of events, and moved by whole milliseconds only."""

from datetime import timedelta
from typing import Any

import pytest

from pspf import Count, RetryPolicy, SlidingWindow, Stream, TumblingWindow
from pspf.errors import ConfigurationError
from pspf.testing import StreamTester


def make(window: Any = None, fold: Any = None) -> Stream:
    stream = Stream(topic="in", group="g")
    stream.window("in", window or TumblingWindow(10_000), emit="final", to="out", name="w", schema=dict)(
        fold or Count()
    )
    return stream


async def test_a_float_of_whole_milliseconds_moves_the_clock_and_failures_are_seen() -> None:
    stream = Stream(topic="in", group="g")

    @stream.subscribe("in", retry=RetryPolicy(max_attempts=1))
    async def fail(event: dict[str, Any]) -> None:
        raise RuntimeError("no")

    async with StreamTester(stream, raises=False) as tester:
        before = tester.now_ms
        await tester.advance(timedelta(minutes=1).total_seconds() * 1000)
        assert (tester.now_ms - before, type(tester.now_ms)) == (60_000, int)
        await tester.send("in", {"n": 1})
        assert len(await tester.dead_letters()) == 1


@pytest.mark.parametrize(
    "by_ms", [1.5, -5, float("nan"), "7", "-1s", timedelta(seconds=-1), timedelta(microseconds=1), None, True]
)
async def test_the_clock_is_not_moved_by_anything_else(by_ms: Any) -> None:
    async with StreamTester(make()) as tester:
        before = tester.now_ms
        with pytest.raises(ConfigurationError, match="advance"):
            await tester.advance(by_ms)
        assert tester.now_ms == before


async def test_a_timestamp_of_a_record_is_rounded_as_that_of_an_event() -> None:
    async with StreamTester(make()) as tester:
        await tester.send("in", {}, key="a", timestamp=9.9999)
        await tester.send("in", {"timestamp": 9.9999}, key="a")
        await tester.send("in", {}, key="a", timestamp="1970-01-01T00:00:09.999900Z")
        await tester.finish()
        assert [(each["window_start_ms"], each["value"]) for each in await tester.outputs("out")] == [(0, 3)]


@pytest.mark.parametrize("fold", [Count(), lambda event, state: (state or 0) + 1], ids=["ready", "handler"])
async def test_an_event_in_a_gap_between_windows_is_late_for_nothing(fold: Any) -> None:
    async with StreamTester(make(SlidingWindow(3_000, 10_000), fold)) as tester:
        for at in (1, 5, 12):
            await tester.send("in", {"timestamp": at}, key="k")
        await tester.finish()
        assert [(each["window_start_ms"], each["value"]) for each in await tester.outputs("out")] == [
            (0, 1),
            (10_000, 1),
        ]
        assert await tester.late("in") == []
