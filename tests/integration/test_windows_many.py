"""Records that are in many windows, and states that are large: one commit holds what it can, and none ends a worker."""

from collections.abc import Callable
from typing import Any

import pytest

from pspf import BaseEvent, Collect, Count, SessionWindow, SlidingWindow, Stream, TumblingWindow
from pspf.connectors.contract.backend import StreamingBackend
from tests.integration.running import read_events, read_letters, run_until_drained

Setting = Callable[[str, object], None]


async def count(event: BaseEvent, state: int | None) -> int:
    return (state or 0) + 1


@pytest.mark.parametrize(("emit", "windows"), [("final", 7_000), ("updates", 3_500)])
async def test_records_in_many_windows_are_in_as_many_commits_as_their_states_need(
    backend: StreamingBackend, emit: Any, windows: int
) -> None:
    stream = Stream(backend)
    stream.window("ticks", SlidingWindow(windows, 1), emit=emit, to="out", name="w")(count)
    await stream.emit_many([{"timestamp": 1000, "key": f"k{n}"} for n in range(8)], "ticks")
    await run_until_drained(stream, within_ms=20_000)
    assert await read_letters(stream.broker) == []
    if emit == "updates":
        assert len(await read_events(stream.broker, "out")) == 8 * windows
    else:
        assert sum([len(kept.namespaces) for kept in await stream.broker.list_operators()]) == windows


@pytest.mark.parametrize(
    ("fold", "options"), [(count, {"emit": "final"}), (count, {"emit": "updates"}), (Count(), {"emit": "updates"})]
)
async def test_a_record_in_more_windows_than_a_commit_holds_is_a_dead_letter_and_its_neighbours_go_on(
    backend: StreamingBackend, setting: Setting, fold: Any, options: dict[str, Any]
) -> None:
    setting("PSPF_MAX_RECORD_OPERATIONS", 100)
    stream = Stream(backend)
    stream.window("ticks", SlidingWindow(200_000, 1_000), to="out", name="w", **options)(fold)
    stream.window("ticks", SlidingWindow(40_000, 1_000), to="out", name="fits", **options)(fold)
    await stream.emit({"timestamp": 1000, "key": "k"}, "ticks")
    await run_until_drained(stream)
    (letter,) = await read_letters(stream.broker)
    assert (letter.handler, letter.error_type, letter.attempts) == ("w", "TooManyEffects", 1)
    assert "200 windows" in letter.error


async def keep(event: BaseEvent, state: list[str] | None) -> list[str]:
    return [*(state or []), getattr(event, "text", "")]


@pytest.mark.parametrize(
    ("window", "fold"),
    [
        pytest.param(TumblingWindow(10_000), keep, id="tumbling-handler"),
        pytest.param(TumblingWindow(10_000), {"all": Collect("text")}, id="tumbling-named"),
        pytest.param(SlidingWindow(10_000, 5_000), Collect("text"), id="sliding-ready"),
        pytest.param(SessionWindow(10_000), keep, id="session-handler"),
        pytest.param(SessionWindow(10_000), Collect("text"), id="session-ready"),
    ],
)
async def test_large_states_are_in_as_many_commits_as_they_need(
    backend: StreamingBackend, setting: Setting, window: Any, fold: Any
) -> None:
    setting("PSPF_MAX_EFFECT_BYTES", 400_000)
    stream = Stream(backend)
    stream.window("ticks", window, name="w", emit="final", to="out", result=lambda r: {"n": len(str(r.value))})(fold)
    text = "x" * 90_000  # states of 1.8 MB, of which more than 20 are more than a commit takes
    for _ in range(5):
        ticks = [{"timestamp": 1000, "key": f"k{n % 6}", "text": text} for n in range(24)]
        await stream.emit_many(ticks, "ticks")
    await run_until_drained(stream, within_ms=20_000)
    assert await read_letters(stream.broker) == []


@pytest.mark.parametrize("fold", [keep, Collect("text")], ids=["handler", "ready"])
@pytest.mark.parametrize(
    "window", [TumblingWindow(10_000), SlidingWindow(10_000, 5_000), SessionWindow(10_000)], ids=str
)
async def test_a_record_that_makes_a_state_larger_than_a_commit_holds_is_a_dead_letter(
    backend: StreamingBackend, setting: Setting, window: Any, fold: Any
) -> None:
    setting("PSPF_MAX_EFFECT_BYTES", 10_000)
    setting("PSPF_MAX_RECORD_EFFECT_BYTES", 50_000)
    stream = Stream(backend)
    stream.window("ticks", window, name="w", emit="final", to="out")(fold)
    await stream.emit_many([{"timestamp": 1000, "key": "k", "text": "x" * 9_000} for n in range(8)], "ticks")
    await run_until_drained(stream)
    letters = await read_letters(stream.broker)
    assert {letter.error_type for letter in letters} == {"TooManyEffects"}
    assert 1 < len(letters) < 8


@pytest.mark.parametrize("partitions", [1, 2])
async def test_a_timestamp_far_ahead_makes_nothing_late_unless_that_is_wanted(
    backend: StreamingBackend, partitions: int
) -> None:
    await backend.connect()
    await backend.broker.create_topic("ticks", partitions=partitions)
    stream = Stream(backend)
    keyed: dict[str, Any] = {"key": "name"} if partitions > 1 else {}
    window = TumblingWindow(10_000)
    stream.window("ticks", window, name="w", emit="final", to="out", group="a", **keyed)(Count())
    stream.window("ticks", window, name="x", emit="final", to="all", group="b", max_future_ms=None, **keyed)(Count())
    ticks = [{"timestamp": at, "key": "k", "name": "k"} for at in (1, 19_000_000_000, 2, 11)]
    await stream.emit_many(ticks, "ticks")
    await run_until_drained(stream)
    (letter,) = await read_letters(stream.broker)
    assert (letter.handler, letter.attempts) == ("w", 1)
    assert "max_future_ms=" in letter.error
    if partitions == 1:
        assert [each["value"] for each in await read_events(stream.broker, "out")] == [2]
        assert len(await read_events(stream.broker, "ticks-late")) == 2
