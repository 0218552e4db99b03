"""A window of many keys is closed beside the records that come: what comes out is the same, and they do not wait."""

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pspf import BaseEvent, Collect, Count, RetryPolicy, SlidingWindow, Stream, TumblingWindow
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.memory import MemoryBackend
from pspf.engine.batch_outcome import BatchRun
from pspf.records import Commit
from pspf.settings import settings as tuning
from pspf.windowing.progress import read_standing
from tests.integration.running import read_events, read_letters, run_until_drained, running, wait_until
from tests.integration.test_windows_reference import Input, Tick, event_of, fold_spans

QUICK = RetryPolicy(max_attempts=9, initial_ms=1, max_ms=2)
KEYS = "abcdefghijklmnopqrstuvwxyz"

steps = st.tuples(st.sampled_from(KEYS), st.sampled_from([0, 0, 0, 0, 1, 3]), st.integers(0, 3))


def build(drawn: list[tuple[str, int, int]]) -> list[Input]:
    inputs, now = [], 0
    for n, (key, forward, behind) in enumerate(drawn):
        now += forward
        inputs.append(Input(n, key, now - behind))
    return inputs


async def is_done(stream: Stream) -> bool:
    """Return whether no record is left, and no result of a window that is due."""
    lags = [info.lag for info in await stream.broker.list_cursors()]
    standings = [read_standing(kept.progress) for kept in await stream.broker.list_operators()]
    return bool(lags) and not any(lags) and not any(standing.has_more for standing in standings)


async def is_over(stream: Stream, runner: asyncio.Task[None]) -> bool:
    return runner.done() or await is_done(stream)


class Commits:
    """Notes what commits do, and calls someone at one of them."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.sizes: list[tuple[int, int]] = []
        """(records done, results)."""
        self.stop_at: frozenset[int] = frozenset()
        self.stops_beside = False
        self.stream: Stream | None = None
        as_commit = BatchRun.as_commit

        def noting(run: BatchRun, *args: Any, **options: Any) -> Commit:
            commit = as_commit(run, *args, **options)
            self.sizes.append((len(commit.done), len(commit.emits)))
            is_beside = bool(commit.done and commit.emits)
            if self.stream is not None and (len(self.sizes) in self.stop_at or (self.stops_beside and is_beside)):
                self.stopping = asyncio.get_running_loop().create_task(self.stream.stop())
            return commit

        patch.setattr(BatchRun, "as_commit", noting)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    window=st.sampled_from([TumblingWindow(5_000), SlidingWindow(6_000, 3_000)]),
    inputs=st.lists(steps, min_size=40, max_size=120).map(build),
    operations=st.sampled_from([2, 3, 4]),
    batch=st.sampled_from([1, 3, 100]),
    fails=st.frozensets(st.integers(0, 119), max_size=12),
    stops=st.frozensets(st.integers(1, 30), max_size=3),
    cached=st.sampled_from([3, 1_000]),
    is_ready=st.booleans(),
)
def test_results_are_those_of_a_plain_fold(
    window: TumblingWindow | SlidingWindow,
    inputs: list[Input],
    operations: int,
    batch: int,
    fails: frozenset[int],
    stops: frozenset[int],
    cached: int,
    is_ready: bool,
) -> None:
    runs: Counter[int] = Counter()

    async def collect(event: Tick, state: list[int] | None) -> list[int]:
        runs[event.n] += 1
        if event.n in fails and runs[event.n] < 3:
            raise RuntimeError("not yet")
        return [*(state or []), event.n]

    async def work(commits: Commits) -> None:
        backend = MemoryBackend(stream_key="ticks", group_name="g")
        is_sent = False
        for _ in range(len(stops) + 1):
            stream = commits.stream = Stream(backend)
            options: dict[str, Any] = {"emit": "final", "to": "out", "name": "c", "retry": QUICK, "schema": Tick}
            stream.window("ticks", window, batch, 2_000, **options)(Collect("n") if is_ready else collect)
            if not is_sent:
                await stream.emit_many([event_of(each) for each in inputs], "ticks")
                is_sent = True
            async with running(stream) as runner:
                await wait_until(partial(is_over, stream, runner))
        expected = fold_spans(window, inputs, 2_000, 0)
        found: Counter[Any] = Counter()
        for result in await read_events(backend.broker, "out"):
            place = result["key"], result["window_start_ms"], result["window_end_ms"]
            found[*place, tuple(result["value"])] += 1
        assert await read_letters(backend.broker) == []
        assert found == expected.finals
        late = [event["n"] for event in await read_events(backend.broker, "ticks-late")]
        assert sorted(late) == expected.late
        await backend.close()

    with pytest.MonkeyPatch.context() as patch:
        commits = Commits(patch)
        commits.stop_at = stops
        patch.setenv("PSPF_MAX_OPERATIONS", str(operations))
        patch.setenv("PSPF_WINDOW_CACHE_STATES", str(cached))
        tuning.reload()
        try:
            asyncio.run(work(commits))
        finally:
            patch.undo()
            tuning.reload()


def make(backend: StreamingBackend) -> Stream:
    stream = Stream(backend)
    stream.window("ticks", TumblingWindow(10_000), 100, emit="final", to="out", name="t")(Count())
    return stream


async def test_records_are_aggregated_while_a_window_is_closed(
    backend: StreamingBackend, monkeypatch: pytest.MonkeyPatch, setting: Callable[[str, object], None]
) -> None:
    setting("PSPF_MAX_OPERATIONS", 100)
    monkeypatch.setattr("pspf.engine.operators.host.BESIDE_RECORDS", 50)
    keys = [f"k{number:03}" for number in range(300)]
    commits = Commits(monkeypatch)
    first = [{"timestamp": 10, "key": key} for key in keys]
    then = [{"timestamp": 20, "key": key} for key in keys]
    stream = make(backend)
    await stream.emit_many([*first, *then], "ticks")
    await run_until_drained(stream)
    beside = [(done, results) for done, results in commits.sizes if done and results]
    assert beside  # how often depends on how fast a batch is read
    assert all(50 <= results < 100 for _, results in beside)  # half of what a commit may hold
    assert all(done <= 64 for done, _ in beside[1:])  # a section, and not all that was read: the window is waited for
    found = await read_events(stream.broker, "out")
    assert [(event["key"], event["window_start_ms"], event["value"]) for event in found] == [
        (key, 10_000, 1) for key in keys
    ]


async def test_what_a_stop_leaves_of_a_window_is_emitted_by_the_next_owner(
    backend: StreamingBackend, monkeypatch: pytest.MonkeyPatch, setting: Callable[[str, object], None]
) -> None:
    setting("PSPF_MAX_OPERATIONS", 20)
    monkeypatch.setattr("pspf.engine.handlers.executor._BREATH_SECONDS", 0)
    keys = [f"k{number:03}" for number in range(100)]
    commits = Commits(monkeypatch)
    commits.stops_beside = True
    events = [{"timestamp": at, "key": key} for at in (10, 20) for key in keys]
    commits.stream = stream = make(backend)
    await stream.emit_many(events, "ticks")
    await stream.run_forever()  # until it stops itself, in the commit that has both
    commits.stops_beside = False
    emitted = await read_events(stream.broker, "out")
    assert 0 < len(emitted) < len(keys)
    stream = make(backend)
    await run_until_drained(stream)
    assert [event["key"] for event in await read_events(stream.broker, "out")] == keys


async def test_late_records_change_no_sliding_window_whose_slices_are_shared(
    backend: StreamingBackend, monkeypatch: pytest.MonkeyPatch, setting: Callable[[str, object], None]
) -> None:
    """A record can be late for the window that closes, and belong to the one behind it, by the same slice."""
    setting("PSPF_MAX_OPERATIONS", 20)
    keys = [f"k{number:03}" for number in range(100)]
    commits = Commits(monkeypatch)
    commits.stop_at = frozenset({6})  # and go on from what is stored

    def open_one() -> Stream:
        stream = Stream(backend)
        options: dict[str, Any] = {"emit": "final", "to": "out", "name": "t"}
        stream.window("ticks", SlidingWindow(10_000, 5_000), 500, **options)(Count())
        return stream

    first = [{"timestamp": 6, "key": key} for key in keys]
    late = [{"timestamp": 6, "key": key} for key in keys]  # for [0, 10), not for [5, 15)
    commits.stream = stream = open_one()
    await stream.emit_many([*first, {"timestamp": 10, "key": "then"}, *late], "ticks")
    async with running(stream) as runner:
        await wait_until(partial(is_over, stream, runner))
    commits.stop_at = frozenset()
    stream = open_one()
    await stream.emit_many([{"timestamp": 20, "key": "then"}], "ticks")
    await run_until_drained(stream)
    events = await read_events(stream.broker, "out")
    found = [(e["window_start_ms"], e["key"], e["value"]) for e in events if e["key"] != "then"]
    assert found == [*((0, key, 1) for key in keys), *((5_000, key, 2) for key in keys)]


async def test_a_key_that_is_held_back_when_its_window_begins_to_close_is_emitted_once(
    backend: StreamingBackend, monkeypatch: pytest.MonkeyPatch, setting: Callable[[str, object], None]
) -> None:
    setting("PSPF_MAX_OPERATIONS", 2)
    keys = [f"k{number:02}" for number in range(30)]
    commits = Commits(monkeypatch)

    async def count_last(event: BaseEvent, state: int | None) -> int:
        is_closing = any(results for _, results in commits.sizes)
        if event.key == keys[-1] and state == 1 and not is_closing:
            raise RuntimeError("not yet")
        return (state or 0) + 1

    stream = Stream(backend)
    retry = RetryPolicy(max_attempts=1_000, initial_ms=3, max_ms=3, jitter=0)
    options: dict[str, Any] = {"emit": "final", "to": "out", "name": "t", "retry": retry}
    stream.window("ticks", TumblingWindow(10_000), 500, **options)(count_last)
    first = [{"timestamp": at, "key": key} for at in (10, 11) for key in keys]
    await stream.emit_many([*first, *({"timestamp": 20, "key": f"then-{n}"} for n in range(30))], "ticks")
    await run_until_drained(stream, within_ms=20_000)
    found = Counter((event["key"], event["value"]) for event in await read_events(stream.broker, "out"))
    assert found == Counter((key, 2) for key in keys)
