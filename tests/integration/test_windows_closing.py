"""Windows with more keys than a commit or the memory holds."""

from collections.abc import Callable

import pytest

from pspf import Collect, Sum, TumblingWindow
from pspf.connectors.contract.backend import StreamingBackend
from pspf.stream import Stream
from pspf.windowing.definitions import SlidingWindow
from tests.integration.running import read_events, read_letters, run_until_drained

Setting = Callable[[str, object], None]


def open_stream(backend: StreamingBackend, slide_ms: int | None) -> Stream:
    stream = Stream(backend)
    window = TumblingWindow(10_000) if slide_ms is None else SlidingWindow(10_000, slide_ms)
    stream.window("ticks", window, emit="final", to="out", name="t")(Sum("n"))
    return stream


@pytest.mark.parametrize("slide_ms", [None, 5_000])
@pytest.mark.parametrize("cached", [4, 1_000])
@pytest.mark.parametrize(("count", "operations"), [(23, 5), (230, 100)])
async def test_a_window_that_closes_over_several_commits_emits_each_key_once_in_order(
    backend: StreamingBackend, setting: Setting, cached: int, slide_ms: int | None, count: int, operations: int
) -> None:
    setting("PSPF_MAX_OPERATIONS", operations)
    setting("PSPF_WINDOW_CACHE_STATES", cached)
    keys = [f"k{number:03}" for number in range(count)]
    ticks = [{"timestamp": 10 + at, "key": key, "n": 1} for at in (1, 6, 7) for key in reversed(keys)]
    stream = open_stream(backend, slide_ms)
    await stream.emit_many(ticks, "ticks")
    await run_until_drained(stream)
    stream = open_stream(backend, slide_ms)  # its slots are read page by page
    await stream.emit_many([{"timestamp": 16, "key": keys[3], "n": 1}, {"timestamp": 20, "key": "k", "n": 1}], "ticks")
    await run_until_drained(stream)
    found = [
        (event["window_start_ms"] // 1000, event["key"], event["value"])
        for event in await read_events(stream.broker, "out")
    ]
    whole = [(10, key, 3 + (key == keys[3])) for key in keys]
    assert found == ([] if slide_ms is None else [(5, key, 1) for key in keys]) + whole


async def test_a_record_behind_a_window_that_closed_counts_in_those_that_are_open(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    stream.window("ticks", SlidingWindow(6_000, 2_000), emit="final", to="out", name="t")(Sum("n"))
    await stream.emit_many([{"timestamp": at, "key": "a", "n": 1} for at in (1, 3, 5, 6, 8, 5, 10)], "ticks")
    await run_until_drained(stream)
    found = [(event["window_start_ms"] // 1000, event["value"]) for event in await read_events(stream.broker, "out")]
    assert found == [(-4, 1), (-2, 2), (0, 3), (2, 3), (4, 4)]


async def test_a_result_that_is_too_large_is_a_dead_letter_and_its_neighbours_go_out(backend: StreamingBackend) -> None:
    keys = [f"k{number:03}" for number in range(100)]
    stream = Stream(backend)
    stream.window("ticks", TumblingWindow(10_000), emit="final", to="out", name="t")(Collect("text"))
    ticks = [{"timestamp": 10, "key": key, "text": "short"} for key in keys]
    long = {"timestamp": 11, "key": keys[40], "text": "x" * (stream.broker.limits.max_record_bytes * 2 // 3)}
    await stream.emit_many([*ticks, long, long, {"timestamp": 20, "key": "k", "text": ""}], "ticks")
    await run_until_drained(stream)
    found = [event["key"] for event in await read_events(stream.broker, "out")]
    assert found == keys[:40] + keys[41:]
    assert [letter.error_type for letter in await read_letters(stream.broker)] == ["EventRejected"]
