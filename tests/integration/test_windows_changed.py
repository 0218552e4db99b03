"""Windows of an app whose code has changed: what is open goes out once, and what can't be read is refused."""

import logging
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from pydantic import BaseModel

from pspf import (
    BaseEvent,
    Collect,
    Count,
    Distinct,
    Mean,
    RetryPolicy,
    SessionWindow,
    SlidingWindow,
    Stream,
    Sum,
    TopN,
    TumblingWindow,
)
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.contract.membership import Session
from pspf.errors import ConfigurationError
from pspf.records import Commit, Cursor
from pspf.windowing.definitions import Window
from tests.integration.running import drain, read_events, read_letters, run_until_drained, running, until, wait_until
from tests.support.brokers import leased
from tests.support.windows import with_windows

TICKS = [(1, 5), (2, 7), (12, 1), (25, 2), (46, 4)]
WINDOWS = [TumblingWindow(10_000), SlidingWindow(10_000, 5_000), SessionWindow(3_000)]
FINAL = {"emit": "final", "to": "out"}
MINUTE = {**FINAL, "allowed_lateness_ms": 60_000}
UPDATES = {"emit": "updates", "to": "out"}


async def total(event: BaseEvent, state: int | None) -> int:
    v: int = getattr(event, "v", 0)
    return (state or 0) + v


def make(backend: StreamingBackend, window: Window, fold: Any = None, **options: Any) -> Stream:
    stream = Stream(backend)
    stream.window("ticks", window, name="w", **options)(Sum("v") if fold is None else fold)
    return stream


async def run(stream: Stream, ticks: Sequence[tuple[float, int]], *, key: str = "k") -> None:
    await stream.emit_many([{"timestamp": at, "v": v, "key": key} for at, v in ticks], "ticks")
    await run_until_drained(stream)


async def finish(stream: Stream) -> None:
    async def is_finished() -> bool:
        kept = await stream.broker.list_operators()
        if all(orjson.loads(each.progress)["is_finished"] for each in kept):
            return True
        stream.finish()
        return False

    async with running(stream):
        await wait_until(is_finished)


async def results(stream: Stream) -> list[tuple[int, int]]:
    return [(each["window_start_ms"] // 1000, each["value"]) for each in await read_events(stream.broker, "out")]


async def late(stream: Stream) -> list[int]:
    return [each["v"] for each in await read_events(stream.broker, "ticks-late")]


EXPECTED: dict[type, list[tuple[int, int]]] = {
    TumblingWindow: [(0, 12), (10, 1), (20, 2), (40, 7)],
    SlidingWindow: [(-5, 12), (0, 12), (5, 1), (10, 1), (20, 2), (25, 2), (40, 7), (45, 7)],
    SessionWindow: [(1, 12), (12, 1), (25, 2), (46, 7)],
}


@pytest.mark.parametrize("fold", [None, total], ids=["ready", "handler"])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (MINUTE, FINAL),
        (MINUTE, {**FINAL, "allowed_lateness_ms": 30_000}),
        (FINAL, MINUTE),
        ({"emit": None}, FINAL),
    ],
    ids=["lateness taken away", "less lateness", "more lateness", "final at last"],
)
async def test_each_window_has_one_final_result_whatever_the_rules_were_before(
    backend: StreamingBackend, window: Window, before: dict[str, Any], after: dict[str, Any], fold: Any
) -> None:
    await run(make(backend, window, fold, **before), TICKS)
    stream = make(backend, window, fold, **after)
    await run(stream, [(3.5, 100), (47, 3)])
    await finish(stream)
    assert await results(stream) == EXPECTED[type(window)]
    assert await late(stream) == [100]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
async def test_windows_that_had_updates_before_have_one_final_result_each(
    backend: StreamingBackend, window: Window
) -> None:
    await run(make(backend, window, **UPDATES), TICKS)
    stream = make(backend, window, **FINAL)
    before = len(await results(stream))
    await run(stream, [(47, 3)])
    await finish(stream)
    assert (await results(stream))[before:] == EXPECTED[type(window)]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("after", [UPDATES, {**UPDATES, "watermark_delay_ms": 1}], ids=["open", "closing"])
async def test_what_is_open_is_told_once_when_updates_are_asked_for(
    backend: StreamingBackend, window: Window, after: dict[str, Any]
) -> None:
    await run(make(backend, window, **FINAL), TICKS)
    stream = make(backend, window, **after)
    before = len(await results(stream))
    await run_until_drained(stream)

    async def is_told() -> bool:
        return len(await results(stream)) > before

    async with running(stream):
        await wait_until(is_told)
    last = [place for place in EXPECTED[type(window)] if place[0] >= 40]
    assert (await results(stream))[before:] == [(start, 4) for start, _ in last]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
async def test_a_window_that_had_its_final_result_takes_no_more_where_none_closes_any_longer(
    backend: StreamingBackend, window: Window
) -> None:
    await run(make(backend, window, **FINAL), TICKS)
    stream = make(backend, window, emit=None)
    await run(stream, [(3.5, 100)])
    assert await late(stream) == [100]


async def test_a_record_that_waits_is_judged_by_the_lateness_of_when_it_was_read(backend: StreamingBackend) -> None:
    fails = True

    async def once(event: BaseEvent, state: int | None) -> int:
        if fails and getattr(event, "v", 0) == 7:
            raise RuntimeError("not now")
        return await total(event, state)

    retry = RetryPolicy(initial_ms=1, max_ms=1, max_attempts=10**6)
    stream = make(backend, TumblingWindow(10_000), once, retry=retry, **MINUTE)
    await stream.emit_many([{"timestamp": at, "v": v, "key": "k"} for at, v in TICKS], "ticks")

    async def is_read() -> bool:
        return any(info.unread == 0 and info.retries for info in await stream.broker.list_cursors())

    async with running(stream):
        await wait_until(is_read)
    fails = False
    stream = make(backend, TumblingWindow(10_000), once, retry=retry, **FINAL)
    await run_until_drained(stream)
    await finish(stream)
    assert sorted(await results(stream)) == [(0, 12), (10, 1), (20, 2), (40, 4)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"x": Sum("v")}, {"x": Count()}),
        ({"x": Sum("v")}, {"x": Mean("v")}),
        ({"x": Collect("v")}, {"x": Count()}),
        ({"x": Count()}, {"x": Distinct("v")}),
        ({"a-b": Sum("v")}, {"a": Sum("v"), "b": Count()}),
        (TopN("v", 2), TopN("v", 2, keep="key")),
    ],
)
async def test_another_aggregation_under_the_same_name_is_refused_at_the_start(
    backend: StreamingBackend, before: Any, after: Any
) -> None:
    await run(make(backend, TumblingWindow(10_000), before, **FINAL), TICKS)
    with pytest.raises(ConfigurationError, match=r"aggregation is .* give the new ones another name="):
        await make(backend, TumblingWindow(10_000), after, **FINAL).run_forever()


async def test_sessions_that_were_merged_are_not_joined_without_their_records(backend: StreamingBackend) -> None:
    options: dict[str, Any] = {**FINAL, "merge": lambda one, other: one + other}
    await run(make(backend, SessionWindow(3_000), total, **options), TICKS)
    stream = make(backend, SessionWindow(3_000), total, **FINAL)
    stream.processor.ends_on_refusal = True
    with pytest.raises(Exception, match="give merge= again"):
        await stream.run_forever()


@pytest.mark.parametrize("had_key", [True, False])
async def test_a_key_that_sends_records_on_is_not_added_or_taken_away_under_the_same_name(
    backend: StreamingBackend, had_key: bool
) -> None:
    await backend.connect()
    await backend.broker.create_topic("ticks", partitions=2)
    first, then = ({"key": "key"}, {}) if had_key else ({}, {"key": "key"})
    await run(make(backend, TumblingWindow(10_000), **FINAL, **first), TICKS)
    with pytest.raises(ConfigurationError, match=r"handler w .*another name="):
        await make(backend, TumblingWindow(10_000), **FINAL, **then).run_forever()


# Updates, and slices, of a key that has a record held back


@pytest.mark.parametrize("emit", ["final", "updates"])
@pytest.mark.parametrize("is_ready", [True, False], ids=["ready", "handler"])
@pytest.mark.parametrize("window", [TumblingWindow(10_000), SlidingWindow(10_000, 5_000)], ids=str)
async def test_records_that_waited_count_in_the_windows_that_were_due_meanwhile(
    backend: StreamingBackend, window: Window, emit: Any, is_ready: bool
) -> None:
    fails = True

    def value(event: BaseEvent) -> int:
        v: int = getattr(event, "v", 0)
        if fails and v == 7:
            raise RuntimeError("not now")
        return v

    async def add(event: BaseEvent, state: int | None) -> int:
        return (state or 0) + value(event)

    retry = RetryPolicy(initial_ms=1, max_ms=1, max_attempts=10**6)
    options: dict[str, Any] = {"emit": emit, "to": "out", "watermark_delay_ms": 1, "retry": retry}
    stream = make(backend, window, Sum(value) if is_ready else add, **options)
    ticks = [(0.5, 1, "a"), (1, 7, "a"), (12, 8, "a"), (40, 1, "b"), (2, 100, "a")]
    await stream.emit_many([{"timestamp": at, "v": v, "key": key} for at, v, key in ticks], "ticks")

    async def is_read() -> bool:
        return any(info.unread == 0 and info.retries for info in await stream.broker.list_cursors())

    async with running(stream):
        await wait_until(is_read)
        fails = False
        await drain(stream)
    found: dict[tuple[str, int], int] = {}
    for each in await read_events(stream.broker, "out"):
        found[each["key"], each["window_start_ms"] // 1000] = each["value"]
    overlap = isinstance(window, SlidingWindow)
    expected = {("a", 0): 8, ("a", 10): 8} | ({("a", -5): 8, ("a", 5): 8} if overlap else {})
    assert {place: n for place, n in found.items() if place[0] == "a"} == expected
    assert await late(stream) == [100]


# What is stored and can't be read


class Two(BaseModel):
    n: int
    needed: str


async def grow(event: BaseEvent, state: dict[str, int] | None) -> dict[str, int]:
    return {"n": (state or {"n": 0})["n"] + 1}


async def grow_two(event: BaseEvent, state: Two | None) -> Two:
    return Two(n=(state.n if state else 0) + 1, needed="yes")


async def refused(stream: Stream, caplog: pytest.LogCaptureFixture) -> str:
    """Return why the window's handler stands still, while another one of its group goes on."""
    seen: list[int] = []

    @stream.subscribe("beside", ordering="key")
    async def beside(event: BaseEvent) -> None:
        seen.append(1)

    def told() -> list[str]:
        return [text for text in caplog.messages if "stands still" in text]

    with caplog.at_level(logging.ERROR):
        async with running(stream):
            await until(lambda: bool(told()))
            await stream.emit({"v": 1}, "beside", key="k")
            await until(lambda: bool(seen))
    assert await read_letters(stream.broker) == []
    return told()[0]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
async def test_a_state_that_does_not_fit_its_model_stops_its_handler_alone(
    backend: StreamingBackend, window: Window, caplog: pytest.LogCaptureFixture
) -> None:
    await run(make(backend, window, grow, **FINAL), TICKS)
    stream = make(backend, window, grow_two, **FINAL)
    await stream.emit({"timestamp": 47, "v": 1, "key": "k"}, "ticks")
    told = await refused(stream, caplog)
    assert "needed" in told
    assert "upcast=" in told
    assert "--reset-state" in told


async def test_a_state_of_an_older_model_is_read_by_upcast(backend: StreamingBackend) -> None:
    await run(make(backend, TumblingWindow(10_000), grow, **FINAL), TICKS)
    options: dict[str, Any] = {**FINAL, "upcast": lambda old: {**old, "needed": "no"}}
    stream = make(backend, TumblingWindow(10_000), grow_two, **options)
    await run(stream, [(47, 3), (50, 1)])
    assert (await read_events(stream.broker, "out"))[-1]["value"] == {"n": 2, "needed": "yes"}
    assert await read_letters(stream.broker) == []


async def write(backend: StreamingBackend, progress: bytes, states: dict[int, dict[bytes, bytes | None]]) -> None:
    """Put something else in the place of what the handler has stored."""
    session: Session = await backend.broker.open_session()
    try:
        consumer = None
        while consumer is None:
            consumer = await leased(session).acquire(Cursor("ticks", backend.group_name, "w", 0))
        assert consumer.lease is not None
        commit = Commit(b"0" * 12, position=consumer.lease.position)
        await consumer.commit(with_windows(commit, 46_000, progress, (), states))
        await consumer.release()
    finally:
        await session.close()


@pytest.mark.parametrize("damage", [b"{", b"[]", {"held": [1]}, {"withheld": 7}, {"watermark_ms": "soon"}])
async def test_progress_that_is_damaged_stops_its_handler_alone(
    backend: StreamingBackend, damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await run(make(backend, TumblingWindow(10_000), **FINAL), TICKS)
    good = orjson.loads((await backend.broker.list_operators())[0].progress)
    await write(backend, damage if isinstance(damage, bytes) else orjson.dumps(good | damage), {})
    assert "--reset-state" in await refused(make(backend, TumblingWindow(10_000), **FINAL), caplog)


@pytest.mark.parametrize(
    ("window", "fold", "slot"),
    [
        (TumblingWindow(10_000), total, 40_000),
        (TumblingWindow(10_000), {"x": Sum("v")}, 40_000),
        (SessionWindow(3_000), total, 0),
    ],
)
async def test_a_state_that_is_damaged_stops_its_handler_alone(
    backend: StreamingBackend, window: Window, fold: Any, slot: int, caplog: pytest.LogCaptureFixture
) -> None:
    await run(make(backend, window, fold, **FINAL), TICKS)
    good = (await backend.broker.list_operators())[0].progress
    await write(backend, good, {slot: {b"=k": b"{"}})
    stream = make(backend, window, fold, **FINAL)
    await stream.emit({"timestamp": 47, "v": 1, "key": "k"}, "ticks")
    assert "--reset-state" in await refused(stream, caplog)
