"""Durations wherever one is taken, results that are left out, and windows of other values than numbers."""

import pickle
from datetime import timedelta
from typing import Any

import pytest

from pspf import (
    SKIP,
    BaseEvent,
    Count,
    Max,
    Min,
    RetryPolicy,
    SessionWindow,
    SlidingWindow,
    Stream,
    TumblingWindow,
    WindowResult,
)
from pspf.errors import ConfigurationError
from pspf.settings.model import load_settings
from pspf.testing import StreamTester
from pspf.windowing.definitions import Windowing

FORMS = [(10_000, 2_000), ("10s", "2s"), (timedelta(seconds=10), timedelta(seconds=2))]


@pytest.mark.parametrize(("long", "short"), FORMS)
def test_windows_and_their_times_are_durations_of_each_form(long: Any, short: Any) -> None:
    assert TumblingWindow(long) == TumblingWindow(10_000)
    assert SlidingWindow(long, short) == SlidingWindow(10_000, 2_000)
    assert SessionWindow(gap_ms=long) == SessionWindow(10_000)
    stream = Stream(topic="t", group="g")
    stream.window(
        "t",
        TumblingWindow(long),
        watermark_delay_ms=short,
        allowed_lateness_ms=short,
        idle_timeout_ms=long,
        max_future_ms=long,
        retention_ms=short,
        name="w",
    )(Count())
    windowing = stream.subscriptions[0].operator
    assert isinstance(windowing, Windowing)
    found = windowing.watermark_delay_ms, windowing.allowed_lateness_ms, windowing.retention_ms
    assert found == (2_000, 2_000, 2_000)
    assert (windowing.idle_timeout_ms, windowing.max_future_ms) == (10_000, 10_000)


@pytest.mark.parametrize(("long", "short"), FORMS)
def test_retries_and_time_limits_are_durations_of_each_form(long: Any, short: Any) -> None:
    policy = RetryPolicy(3, initial_ms=short, max_ms=long)
    assert policy == RetryPolicy(3, 2_000, 10_000)
    stream = Stream(topic="t", group="g")

    @stream.subscribe("t", timeout_ms=long, retry=policy)
    async def handle(event: BaseEvent) -> None: ...

    assert stream.subscriptions[0].timeout_ms == 10_000


@pytest.mark.parametrize("wrong", ["10", "soon", 1.5, True, timedelta(microseconds=1), "-5s"])
def test_what_is_no_duration_is_refused_by_its_name(wrong: Any) -> None:
    stream = Stream(topic="t", group="g")
    for name, make in (
        ("size_ms", lambda: TumblingWindow(wrong)),
        ("slide_ms", lambda: SlidingWindow(10_000, wrong)),
        ("gap_ms", lambda: SessionWindow(wrong)),
        ("initial_ms", lambda: RetryPolicy(initial_ms=wrong)),
        ("timeout_ms", lambda: stream.subscribe("t", timeout_ms=wrong)(lambda event: None)),
        ("idle_timeout_ms", lambda: stream.window("t", TumblingWindow(1_000), idle_timeout_ms=wrong)(Count())),
    ):
        with pytest.raises(ConfigurationError, match=name):
            make()


def test_settings_take_durations_with_a_unit() -> None:
    found = load_settings({"PSPF_LEASE_MS": "20s", "PSPF_RENEW_MS": "2000", "PSPF_RETENTION_MS": "7d"})
    assert (found.LEASE_MS, found.RENEW_MS, found.RETENTION_MS) == (20_000, 2_000, 604_800_000)
    assert load_settings({"PSPF_RETENTION_MS": "forever"}).RETENTION_MS == -1
    with pytest.raises(ConfigurationError, match="PSPF_LEASE_MS='soon'"):
        load_settings({"PSPF_LEASE_MS": "soon"})


def test_a_bare_number_below_a_second_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    TumblingWindow("60ms")
    TumblingWindow(timedelta(milliseconds=60))
    SlidingWindow(1_000, 10)
    assert caplog.text == ""
    TumblingWindow(60)
    assert 'TumblingWindow(size_ms=60) is 60 milliseconds: write "60s"' in caplog.text
    SessionWindow(30)
    assert "SessionWindow(gap_ms=30)" in caplog.text


@pytest.mark.parametrize("emit", ["final", "updates"])
async def test_a_result_that_is_skipped_does_not_go_out(emit: Any) -> None:
    stream = Stream(topic="bids", group="g")

    def only_twos(result: WindowResult) -> Any:
        return {"key": result.key, "n": result.value} if result.value == 2 else SKIP

    stream.window("bids", TumblingWindow("10s"), emit=emit, to="out", result=only_twos, name="w")(Count())
    async with StreamTester(stream) as tester:
        for key in ("a", "b", "a", "c"):
            await tester.send("bids", {}, key=key, timestamp=1)
        await tester.finish()
        assert [(event["key"], event["n"]) for event in await tester.outputs("out")] == [("a", 2)]
        assert await tester.dead_letters() == []
    assert pickle.loads(pickle.dumps(SKIP)) is SKIP  # noqa: S301 (our own bytes)


@pytest.mark.parametrize("window", [TumblingWindow("10s"), SlidingWindow("10s", "5s"), SessionWindow("9s")], ids=str)
async def test_the_greatest_text_of_a_window_outlives_a_crash(window: Any) -> None:
    stream = Stream(topic="bids", group="g")
    stream.window("bids", window, emit="final", to="out", name="w")({"first": Min("word"), "last": Max("word")})
    async with StreamTester(stream) as tester:
        for word in ("pear", "apple", "zebra", "fig"):
            await tester.send("bids", {"word": word}, key="a", timestamp=6)
            await tester.crash()
        await tester.finish()
        assert {(e["value"]["first"], e["value"]["last"]) for e in await tester.outputs("out")} == {("apple", "zebra")}
