"""Windows that begin behind the epoch's multiples: published cases, and a plain reference with crashes."""

import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pspf import Count, SlidingWindow, Stream, TumblingWindow
from pspf.errors import ConfigurationError
from pspf.testing import StreamTester
from tests.support.brokers import Kind
from tests.support.servers import hall

HOUR_S = 3_600


@given(st.integers(-(10**12), 10**12), st.integers(1, 10**6), st.integers(1, 10**6), st.integers(-(10**7), 10**7))
def test_the_windows_of_a_time_are_those_that_hold_it(time_ms: int, size_ms: int, slide_ms: int, offset: int) -> None:
    slide_ms = max(slide_ms, size_ms // 100, 1)
    tumbling, sliding = TumblingWindow(size_ms, offset=offset), SlidingWindow(size_ms, slide_ms, offset=offset)
    (start,) = tumbling.starts_of(time_ms)
    assert start <= time_ms < start + size_ms
    assert (start - offset) % size_ms == 0
    near = range(time_ms - size_ms - slide_ms, time_ms + slide_ms + 1)
    first = near.start + (offset - near.start) % slide_ms
    expected = [at for at in range(first, near.stop, slide_ms) if at <= time_ms < at + size_ms]
    assert list(sliding.starts_of(time_ms)) == expected


def test_the_published_windows_of_an_hour_at_a_quarter_past_and_of_a_day_in_china() -> None:
    at = datetime(2026, 1, 1, 1, 20, tzinfo=UTC).timestamp()
    ((start, end),) = TumblingWindow("1h", offset="15m").assign_windows(at)
    assert (start % (24 * HOUR_S) / 60, end % (24 * HOUR_S) / 60) == (75, 135)  # 1:15 to 2:15
    ((start, _),) = TumblingWindow("1d", offset=timedelta(hours=-8)).assign_windows(at)
    assert datetime.fromtimestamp(start, UTC) == datetime(2025, 12, 31, 16, tzinfo=UTC)  # midnight of UTC+8
    assert TumblingWindow("1d", offset=timedelta(hours=-8)) == TumblingWindow("1d", offset="16h")
    assert str(TumblingWindow("1h", offset="15m")) == "tumbling 1h at 15m"
    assert str(SlidingWindow("1h", "30m", offset="5m")) == "sliding 1h by 30m at 5m"
    assert TumblingWindow("1h").sizes == {"size_ms": 3_600_000}, "what is stored without an offset is as it was"


def count(event: Any, state: int | None) -> int:
    return (state or 0) + 1


@pytest.mark.parametrize("fold", [Count(), count], ids=["ready", "handler"])
@pytest.mark.parametrize(
    "window",
    [
        TumblingWindow("10s", offset="3s"),
        SlidingWindow("10s", "4s", offset="3s"),
        SlidingWindow("9s", "3s", offset="1s"),
        SlidingWindow("2s", "5s", offset="4s"),
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", range(3))
async def test_windows_with_an_offset_count_as_a_plain_reference_does(window: Any, fold: Any, seed: int) -> None:
    await check(window, fold, seed, None)


async def test_windows_with_an_offset_count_alike_on_each_broker(kind: Kind, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'broker.db'}"
    if kind.name in ("valkey", "redis"):
        shared = hall(kind.name)
        url = f"valkey://127.0.0.1:{shared.server.port}/{shared.database_of(tmp_path)}"
    await check(SlidingWindow("10s", "4s", offset="3s"), Count(), 7, url)


async def check(window: Any, fold: Any, seed: int, url: str | None) -> None:
    """Count events out of order, with crashes, and compare the results, and what is open, with a plain reference."""
    rng = random.Random(seed)
    stream = Stream(topic="in", group="g")
    stream.window("in", window, watermark_delay_ms="6s", emit="final", to="out", name="w", schema=dict)(fold)
    now = 0.0
    expected: Counter[tuple[str, int]] = Counter()
    async with StreamTester(stream, url) as tester:
        for number in range(60):
            now += rng.choice((0, 0.5, 1, 2))
            at, key = now - rng.choice((0, 0, 1, 5)), rng.choice("ab")
            for start_ms in range(-20_000, 120_000, 1_000):
                is_start = (start_ms - window.offset_ms) % window.slide_ms == 0
                if is_start and start_ms <= at * 1_000 < start_ms + window.size_ms:
                    expected[key, start_ms] += 1
            await tester.send("in", {}, key=key, timestamp=at)
            if number % 20 == 7:
                await tester.crash()
        listed = {(each.key, each.window_start_ms): each.value for each in await tester.windows("w")}
        assert listed.items() <= expected.items()
        assert listed
        await tester.finish()
        found = {(e["key"], e["window_start_ms"]): e["value"] for e in await tester.outputs("out")}
        assert found == expected
        assert len(await tester.outputs("out")) == len(expected)
        assert await tester.late("in") == []


@pytest.mark.parametrize(("before", "now"), [("0s", "3s"), ("3s", "0s"), ("3s", "4s")])
async def test_another_offset_is_another_window(before: str, now: str, tmp_path: Any) -> None:
    def make(offset: str) -> Stream:
        stream = Stream(topic="in", group="g")
        stream.window("in", TumblingWindow("10s", offset=offset), name="w")(Count())
        return stream

    url = f"sqlite:///{tmp_path / 'broker.db'}"
    async with StreamTester(make(before), url) as tester:
        await tester.send("in", {}, key="a", timestamp=5)
    with pytest.raises(ConfigurationError, match="give the new ones another name"):
        async with StreamTester(make(now), url):
            pass


@pytest.mark.parametrize("offset", ["soon", 1.5, True, timedelta(microseconds=1)])
def test_an_offset_is_a_duration(offset: Any) -> None:
    for make in (lambda: TumblingWindow("1h", offset=offset), lambda: SlidingWindow("1h", "1m", offset=offset)):
        with pytest.raises(ConfigurationError, match="offset"):
            make()
