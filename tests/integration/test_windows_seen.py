"""Windows as they are seen from outside: what is open, with its result, in bounded pages, on every broker."""

import asyncio
from typing import Any

import pytest

from pspf import (
    Collect,
    Count,
    Distinct,
    Last,
    Max,
    Mean,
    Min,
    SessionWindow,
    SlidingWindow,
    Stream,
    Sum,
    TopN,
    TumblingWindow,
)
from pspf.cli.services.stored_values import each_entry
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.contract.broker import Broker
from pspf.connectors.memory import MemoryBackend
from pspf.engine.open_windows import each_window, find_windows
from pspf.windowing.aggregation import Aggregation
from tests.integration.running import drain, run_until_drained, running

TOPIC = "ticks"


def tick(at: float, key: str | None = "a", n: int = 1) -> dict[str, Any]:
    """Return an event at a time in seconds."""
    return {"timestamp": at, "n": n, **({} if key is None else {"key": key})}


async def seen(
    broker: Broker, handler: str, *, key: str | None = None, also_closed: bool = False
) -> list[tuple[str | None, float, float, Any]]:
    """Return (key, start, end in seconds, value) of the windows of a handler."""
    return [
        (entry["key"], entry["start_ms"] / 1000, entry["end_ms"] / 1000, entry["value"])
        for found in await find_windows(broker, handler=handler)
        async for window in each_window(broker, found, key=key, also_closed=also_closed)
        for entry in [found.as_json_window(window)]
    ]


async def test_open_windows_of_all_kinds_are_seen_with_their_values(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    stream.window(TOPIC, TumblingWindow(10_000), emit="final", to="out", name="t")({"n": Count(), "mean": Mean("n")})
    stream.window(TOPIC, SlidingWindow(10_000, 5_000), emit="final", to="out", name="sliced")(Sum("n"))
    stream.window(TOPIC, SessionWindow(3_000), emit="final", to="out", name="ready-sessions")(Collect("n"))

    @stream.window(TOPIC, SessionWindow(3_000), emit="final", to="out", name="sessions")
    async def last(event: dict[str, Any], state: dict[str, int] | None) -> dict[str, int]:
        return {"last": event["n"], "before": (state or {}).get("last", 0)}

    @stream.window(TOPIC, SlidingWindow(10_000, 5_000), emit="final", to="out", name="each")
    async def count(event: dict[str, Any], state: int | None) -> int:
        return (state or 0) + 1

    events = [tick(1), tick(11, n=2), tick(12, n=3), tick(13, "b", 5), tick(14, None, 7)]
    await stream.emit_many(events, TOPIC)
    async with running(stream):
        await drain(stream)
        broker = stream.broker
        whole = [(None, 10, 20), ("a", 10, 20), ("b", 10, 20)]
        assert await seen(broker, "t") == [
            (*whole[0], {"n": 1, "mean": 7.0}),
            (*whole[1], {"n": 2, "mean": 2.5}),
            (*whole[2], {"n": 1, "mean": 5.0}),
        ]
        slid = [(key, start, start + 10) for start in (5, 10) for key in (None, "a", "b")]
        assert await seen(broker, "sliced") == [(*place, n) for place, n in zip(slid, [7, 5, 5] * 2, strict=True)]
        assert await seen(broker, "each") == [(*place, n) for place, n in zip(slid, [1, 2, 1] * 2, strict=True)]
        assert await seen(broker, "each", key="b") == [("b", 5, 15, 1), ("b", 10, 20, 1)]
        assert await seen(broker, "sliced", key="b") == [("b", 5, 15, 5), ("b", 10, 20, 5)]
        sessions = [(None, 14, 17), ("a", 11, 15), ("b", 13, 16)]
        assert await seen(broker, "ready-sessions") == [
            (*place, numbers) for place, numbers in zip(sessions, ([7], [2, 3], [5]), strict=True)
        ]
        assert await seen(broker, "sessions", key="a") == [("a", 11, 15, {"last": 3, "before": 2})]
        entries = [entry async for entry in each_entry(broker, handler="t", group=None, key="b")]
        assert [(entry.name, entry.value) for entry in entries] == [
            ("1970-01-01T00:00:10.000Z/1970-01-01T00:00:20.000Z", b'{"n":1,"mean":5.0}')
        ]
        start = "1970-01-01T00:00:10.000Z"
        assert len([entry async for entry in each_entry(broker, handler="t", group=None, name=start)]) == 3
        assert [cursor.stored.watermark_ms for cursor in await find_windows(broker)] == [14_000] * 5


async def test_a_closed_window_that_is_kept_is_not_open(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    stream.window(TOPIC, TumblingWindow(10_000), emit="final", to="out", name="t", retention_ms=60_000)(Count())
    stream.window(TOPIC, TumblingWindow(10_000), name="never-closes")(Count())
    await stream.emit_many([tick(1), tick(11)], TOPIC)
    await run_until_drained(stream)
    await stream.broker.connect()
    assert await seen(stream.broker, "t") == [("a", 10, 20, 1)]
    assert await seen(stream.broker, "t", also_closed=True) == [("a", 0, 10, 1), ("a", 10, 20, 1)]
    assert await seen(stream.broker, "never-closes") == [("a", 0, 10, 1), ("a", 10, 20, 1)]


async def test_many_keys_of_windows_that_share_slices_come_page_by_page(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    stream.window(TOPIC, SlidingWindow(20_000, 10_000), emit="final", to="out", name="sliced")(Sum("n"))
    keys = [f"k{n:04}" for n in range(1_300)]
    first = [tick(1, key, 1) for key in keys]
    second = [tick(11, key, 10) for key in keys if int(key[1:]) % 3]
    await stream.emit_many([*first, *second], TOPIC)
    await run_until_drained(stream, within_ms=20_000)
    await stream.broker.connect()
    found = await seen(stream.broker, "sliced")
    assert [one for one in found if one[1] == 0] == [(key, 0, 20, 11 if int(key[1:]) % 3 else 1) for key in keys]
    assert len([one for one in found if one[1] == -10]) == 0, "it closed when the second slice began"
    assert len([one for one in found if one[1] == 10]) == len(second)


READY = [
    (Count(), 3),
    (Count("n"), 3),
    (Sum("n"), 6),
    (Min("n"), 1),
    (Max("n"), 3),
    (Mean("n"), 2.0),
    (Last("n"), 3),
    (Distinct("n"), 3),
    (Collect("n"), [1, 2, 3]),
    (TopN("n", 2), [3, 2]),
    (TopN("n", 2, keep="timestamp"), [[3, 3], [2, 2]]),
]


@pytest.mark.parametrize(("aggregation", "value"), READY, ids=lambda part: getattr(part, "name", None))
def test_every_ready_aggregation_is_seen_as_its_result(aggregation: Aggregation, value: object) -> None:
    async def work() -> None:
        stream = Stream(MemoryBackend(stream_key=TOPIC, group_name="g"))
        stream.window(TOPIC, SlidingWindow(10_000, 5_000), emit="final", to="out", name="w", schema=dict)(aggregation)
        await stream.emit_many([tick(1, n=1), tick(2, n=2), tick(3, n=3)], TOPIC)
        await run_until_drained(stream)
        await stream.broker.connect()
        assert [found[3] for found in await seen(stream.broker, "w")] == [value, value]

    asyncio.run(work())


class Product(Count):
    """An aggregation of a user's own."""


async def test_the_state_of_an_aggregation_of_ones_own_is_seen_as_it_is_stored(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    stream.window(TOPIC, TumblingWindow(10_000), emit="final", to="out", name="t")(Product())
    stream.window(TOPIC, SlidingWindow(10_000, 5_000), emit="final", to="out", name="sliced")(Product())
    await stream.emit_many([tick(6), tick(7)], TOPIC)
    await run_until_drained(stream)
    await stream.broker.connect()
    assert await seen(stream.broker, "t") == [("a", 0, 10, 2)]
    assert await seen(stream.broker, "sliced") == [("a", 0, 10, None), ("a", 5, 15, None)]
