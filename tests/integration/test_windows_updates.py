"""Updates of a window that closes: one per change of a batch, however many the batch changed."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from pspf import BaseEvent, Count, RetryPolicy, SlidingWindow, Stream, TumblingWindow
from pspf.connectors.contract.backend import StreamingBackend
from pspf.windowing.definitions import Window
from tests.integration.running import read_events, read_letters, run_until_drained


async def read_counts(stream: Stream) -> Counter[tuple[str, int, int]]:
    found = await read_events(stream.broker, "out")
    return Counter((event["key"], event["window_start_ms"] // 1_000, event["value"]) for event in found)


@pytest.mark.parametrize("cached", [4, 1_000])
@pytest.mark.parametrize(
    ("window", "starts"), [(TumblingWindow(10_000), [10]), (SlidingWindow(10_000, 5_000), [5, 10])]
)
async def test_a_window_that_closes_updates_each_key_once_where_they_are_more_than_a_commit_should_hold(
    backend: StreamingBackend, setting: Callable[[str, object], None], window: Window, starts: list[int], cached: int
) -> None:
    setting("PSPF_MAX_OPERATIONS", 25)
    setting("PSPF_WINDOW_CACHE_STATES", cached)
    keys = [f"k{number:03}" for number in range(60)]
    stream = Stream(backend)
    options: dict[str, Any] = {"emit": "updates", "to": "out", "name": "t"}
    stream.window("ticks", window, 500, 1_000, **options)(Count())
    ticks = [{"timestamp": 10, "key": key} for key in keys]
    await stream.emit_many([*ticks, {"timestamp": 60, "key": "then"}], "ticks")
    await run_until_drained(stream)
    found = await read_counts(stream)
    assert {place: n for place, n in found.items() if place[0] != "then"} == {
        (key, start, 1): 1 for key in keys for start in starts
    }


@pytest.mark.parametrize("is_healed", [True, False])
async def test_a_window_that_closes_updates_a_key_that_has_a_record_held_back(
    backend: StreamingBackend, is_healed: bool
) -> None:
    runs: Counter[int | None] = Counter()

    async def count(event: BaseEvent, state: int | None) -> int:
        runs[state] += 1
        if state == 1 and (not is_healed or runs[state] < 3):
            raise RuntimeError("not now")
        return (state or 0) + 1

    stream = Stream(backend)
    retry = RetryPolicy(max_attempts=3, initial_ms=30, max_ms=30)
    options: dict[str, Any] = {"emit": "updates", "to": "out", "name": "t", "retry": retry}
    stream.window("ticks", TumblingWindow(10_000), 500, 1_000, **options)(count)
    ticks = [{"timestamp": at, "key": key} for at, key in ((10, "a"), (11, "a"), (60, "then"))]
    await stream.emit_many(ticks, "ticks")
    await run_until_drained(stream)
    expected = {("a", 10, 1): 1, ("then", 60, 1): 1}
    assert await read_counts(stream) == (expected | {("a", 10, 2): 1} if is_healed else expected)
    assert len(await read_letters(stream.broker)) == (not is_healed)
