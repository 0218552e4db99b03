"""Windowed handlers on a running Stream: what goes out, what is put aside, what is remembered."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from pspf import BaseEvent, Count, Last, Max, RetryPolicy, SessionWindow, SlidingWindow, Stream, TopN, TumblingWindow
from pspf.connectors.contract.backend import StreamingBackend
from pspf.errors import ConfigurationError
from pspf.windowing.definitions import WindowResult
from tests.integration.running import read_events, read_letters, run_until_drained, running, wait_until

TOPIC = "ticks"
QUICK = RetryPolicy(max_attempts=3, initial_ms=1, max_ms=2)


def tick(at: float, key: str | None = "a", **fields: Any) -> dict[str, Any]:
    """Return an event at a time in seconds."""
    return {"timestamp": at, **({} if key is None else {"key": key}), **fields}


async def run(stream: Stream, *events: dict[str, Any]) -> None:
    await stream.emit_many(list(events), TOPIC)
    await run_until_drained(stream)


async def results(stream: Stream, topic: str = "out") -> list[tuple[Any, Any, Any]]:
    """Return (key, start in seconds, value) of what went out."""
    return [
        (event["key"], event["window_start_ms"] / 1000, event["value"])
        for event in await read_events(stream.broker, topic)
    ]


async def test_the_end_of_the_input_closes_what_is_open(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    stream.window(TOPIC, TumblingWindow(10_000), emit="final", to="out", name="t")(Count())
    stream.window(TOPIC, SlidingWindow(10_000, 5_000), emit="final", to="slid", name="s")(Count())
    stream.window(TOPIC, SessionWindow(1_000), emit="final", to="sessions", name="w")(Count())
    await stream.emit_many([tick(1), tick(2), tick(7, "b")], TOPIC)
    async with running(stream):

        async def all_out() -> bool:
            return len(await read_events(stream.broker, "sessions")) == 2

        async def is_read() -> bool:
            return {info.lag for info in await stream.broker.list_cursors()} == {0}

        await wait_until(is_read)
        assert await read_events(stream.broker, "out") == []
        stream.finish()
        await wait_until(all_out)
    assert await results(stream) == [("a", 0, 2), ("b", 0, 1)]
    assert await results(stream, "slid") == [("a", -5, 2), ("a", 0, 2), ("b", 0, 1), ("b", 5, 1)]
    assert await results(stream, "sessions") == [("a", 1, 2), ("b", 7, 1)]
    await run(stream, tick(3), tick(12))
    assert await results(stream) == [("a", 0, 2), ("b", 0, 1)]
    late = await read_events(stream.broker, f"{TOPIC}-late")
    assert [event["timestamp"] for event in late] == [3, 3, 3]


async def test_a_result_can_be_a_model_or_a_function_of_the_users(backend: StreamingBackend) -> None:
    class Total(BaseModel):
        key: str | None
        window_start_ms: int
        value: int

    def named(result: WindowResult) -> dict[str, Any]:
        return {"who": result.key, "from": result.window_start_ms, "n": result.value}

    stream = Stream(backend)
    stream.window(TOPIC, TumblingWindow(1_000), emit="final", to="models", result=Total, name="m")(Count())
    stream.window(TOPIC, TumblingWindow(1_000), emit="final", to="dicts", result=named, name="d")(Count())
    await run(stream, tick(1), tick(2))
    assert await read_events(stream.broker, "models") == [
        {"event_type": "Total", "key": "a", "window_start_ms": 1_000, "value": 1}
    ]
    assert await read_events(stream.broker, "dicts") == [
        {"event_type": "GenericEvent", "who": "a", "from": 1_000, "n": 1}
    ]


async def test_a_result_that_cant_be_made_is_a_dead_letter_and_the_others_go_out(backend: StreamingBackend) -> None:
    def picky(result: WindowResult) -> dict[str, Any]:
        if result.key == "a":
            raise ValueError("not this one")
        return result._asdict()

    stream = Stream(backend)
    stream.window(TOPIC, TumblingWindow(1_000), emit="final", to="out", result=picky, name="p")(Count())
    await run(stream, tick(1), tick(1, "b"), tick(2))
    assert await results(stream) == [("b", 1, 1)]
    assert [(letter.error_type, letter.error) for letter in await read_letters(stream.broker)] == [
        ("ValueError", "not this one")
    ]


async def test_what_is_no_event_is_a_dead_letter_and_moves_no_watermark(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    stream.window(TOPIC, TumblingWindow(1_000), emit="final", to="out", name="t")({"top": Max("n")})
    events = [tick(1, n=3), tick(1, n=["many"]), {"timestamp": "soon", "key": "a"}, tick(1, n=None), tick(3, n=1)]
    await run(stream, *events)
    assert await results(stream) == [("a", 1, {"top": 3})]
    assert len(await read_letters(stream.broker)) == 2


async def test_a_window_waits_for_a_record_that_is_held_back(backend: StreamingBackend) -> None:
    attempts = 0
    may_succeed = asyncio.Event()

    async def count(event: BaseEvent, state: int | None) -> int:
        nonlocal attempts
        if event.event_id == "bad":
            attempts += 1
            if not may_succeed.is_set():
                raise RuntimeError("not yet")
        return (state or 0) + 1

    stream = Stream(backend)
    policy = RetryPolicy(max_attempts=10_000, initial_ms=5, max_ms=5)
    stream.window(TOPIC, TumblingWindow(1_000), emit="final", to="out", name="c", retry=policy)(count)
    await stream.emit_many([tick(1), tick(1.5, event_id="bad"), tick(1, "b"), tick(1.7), tick(9)], TOPIC)
    async with running(stream):

        async def others_are_out() -> bool:
            return await results(stream) == [("b", 1, 1)]

        async def all_are_out() -> bool:
            return len(await results(stream)) == 2

        await wait_until(others_are_out)
        may_succeed.set()
        await wait_until(all_are_out)
    assert await results(stream) == [("b", 1, 1), ("a", 1, 3)]
    assert await read_events(stream.broker, f"{TOPIC}-late") == []


async def test_windows_go_on_where_another_run_left_them(backend: StreamingBackend) -> None:
    for events in ([tick(1, n=5)], [tick(2, n=7)], [tick(11, n=1)]):
        stream = Stream(backend)
        parts = {"n": Count(), "last": Last("n"), "top": TopN("n", 1)}
        stream.window(TOPIC, TumblingWindow(10_000), emit="final", to="out", name="t")(parts)
        await run(stream, *events)
    assert await results(stream) == [("a", 0, {"n": 2, "last": 7, "top": [7]})]


async def test_other_windows_under_the_same_name_are_refused(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    stream.window(TOPIC, TumblingWindow(10_000), name="t")(Count())
    await run(stream, tick(1))
    stream = Stream(backend)
    stream.window(TOPIC, TumblingWindow(20_000), name="t")(Count())
    await stream.emit(tick(2), TOPIC)
    with pytest.raises(ConfigurationError, match="give the new ones another name="):
        await stream.run_forever()


async def test_records_without_a_key_share_one_window(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    stream.window(TOPIC, TumblingWindow(1_000), emit="final", to="out", name="t")(Count())
    stream.window(TOPIC, TumblingWindow(1_000), emit="final", to="by", name="k", key="kind")(Count())
    await run(stream, tick(1, None, kind=7), tick(1, None, kind=8), tick(1, None, kind=7), tick(2, None, kind=1))
    assert await results(stream) == [(None, 1, 3)]
    assert await results(stream, "by") == [("7", 1, 2), ("8", 1, 1)]


async def test_a_timestamp_far_ahead_closes_nothing_where_that_is_set(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    stream.window(TOPIC, TumblingWindow(1_000), emit="final", to="out", name="t", max_future_ms=60_000)(Count())
    await run(stream, tick(1), tick(2e9), tick(1))
    assert await results(stream) == []
    assert len(await read_letters(stream.broker)) == 1


async def test_events_of_a_batch_that_fail_for_a_while_count_once_and_so_do_their_neighbours(
    backend: StreamingBackend,
) -> None:
    runs: dict[int, int] = {}
    stream = Stream(backend)

    @stream.window(TOPIC, TumblingWindow(10_000), emit="final", to="out", name="t", batch_size=20, retry=QUICK)
    async def collect(event: BaseEvent, state: list[int] | None) -> list[int]:
        n = (event.model_extra or {})["n"]
        runs[n] = runs.get(n, 0) + 1
        if n in (3, 4, 17) and runs[n] < 3:
            raise RuntimeError("not yet")
        return [*(state or ()), n]

    await run(stream, *[tick(n % 10, "ab"[n % 2], n=n) for n in range(20)], tick(30, n=99))
    assert await results(stream) == [
        ("a", 0, [n for n in range(20) if n % 2 == 0]),
        ("b", 0, [n for n in range(20) if n % 2]),
    ]
    assert {n: count for n, count in runs.items() if count > 1} == {3: 3, 4: 3, 17: 3}
    assert await read_letters(stream.broker) == []


async def test_many_keys_of_which_few_are_hot_are_counted_where_few_states_stay_in_memory(
    backend: StreamingBackend, setting: Callable[[str, object], None]
) -> None:
    """Most states are read back from the broker, and windows close page by page."""
    setting("PSPF_WINDOW_CACHE_STATES", 100)
    rng = random.Random(7)
    keys = [f"key-{min(int(rng.paretovariate(0.5)), 3_000)}" for _ in range(6_000)]
    stream = Stream(backend)
    stream.window(TOPIC, TumblingWindow(10_000), emit="final", to="out", name="t", batch_size=500)(Count())
    await run(stream, *[tick(n % 9, key) for n, key in enumerate(keys)])
    await run(stream, tick(30))
    found = await results(stream)
    assert {key: value for key, _, value in found} == Counter(keys)
    assert len(found) == len(set(keys))
