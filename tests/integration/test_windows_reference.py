"""Windows against a plain fold over the input, written here: whatever the batches, failures and restarts."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pspf import BaseEvent, Collect, Count, RetryPolicy, SessionWindow, SlidingWindow, Stream, Sum, TumblingWindow
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.limits import Limits
from pspf.connectors.memory import MemoryBackend
from pspf.windowing.definitions import Window
from tests.integration.running import read_events, read_letters, run_until_drained
from tests.support.brokers import make_on_server

QUICK = RetryPolicy(max_attempts=6, initial_ms=1, max_ms=2)
FEW = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
FEWER = settings(FEW, max_examples=10)
DRAIN_MS = 30_000
_numbers = count()


class Tick(BaseEvent):
    """An event that is told apart by its number."""

    n: int


@dataclass(frozen=True)
class Input:
    """One record: its number, key, and event time in seconds."""

    n: int
    key: str
    at: int

    @property
    def ms(self) -> int:
        return self.at * 1_000


@dataclass
class Expected:
    """What windows come to: finals as (key, start, end, numbers in order), what is open at the end, late numbers."""

    finals: Counter[tuple[str, int, int, tuple[int, ...]]] = field(default_factory=Counter)
    still_open: Counter[tuple[str, int, int, tuple[int, ...]]] = field(default_factory=Counter)
    late: list[int] = field(default_factory=list)


def starts_of(window: TumblingWindow | SlidingWindow, time_ms: int) -> Iterator[int]:
    slide_ms = window.slide_ms if isinstance(window, SlidingWindow) else window.size_ms
    start = time_ms // slide_ms * slide_ms
    while start + window.size_ms > time_ms:
        yield start
        start -= slide_ms


def fold_spans(
    window: TumblingWindow | SlidingWindow, inputs: list[Input], delay_ms: int, lateness_ms: int
) -> Expected:
    expected = Expected()
    is_open: dict[tuple[str, int], list[int]] = {}
    watermark = None
    for each in inputs:
        watermark = each.ms - delay_ms if watermark is None else max(watermark, each.ms - delay_ms)
        for key, start in [place for place in is_open if place[1] + window.size_ms + lateness_ms <= watermark]:
            numbers = is_open.pop((key, start))
            expected.finals[key, start, start + window.size_ms, tuple(numbers)] += 1
        starts = list(starts_of(window, each.ms))
        on_time = [start for start in starts if start + window.size_ms + lateness_ms > watermark]
        for start in on_time:
            is_open.setdefault((each.key, start), []).append(each.n)
        if starts and not on_time:
            expected.late.append(each.n)
    expected.still_open.update(
        (key, start, start + window.size_ms, tuple(numbers)) for (key, start), numbers in is_open.items()
    )
    return expected


def fold_sessions(gap_ms: int, inputs: list[Input], delay_ms: int, lateness_ms: int) -> Expected:
    expected = Expected()
    is_open: list[tuple[str, int, int, list[int]]] = []
    watermark = None
    for each in inputs:
        watermark = each.ms - delay_ms if watermark is None else max(watermark, each.ms - delay_ms)
        for session in [one for one in is_open if one[2] + gap_ms + lateness_ms < watermark]:
            is_open.remove(session)
            key, first, last, numbers = session
            expected.finals[key, first, last + gap_ms, tuple(sorted(numbers))] += 1
        mine = [one for one in is_open if one[0] == each.key and one[1] - gap_ms <= each.ms <= one[2] + gap_ms]
        first, last = min([each.ms, *(one[1] for one in mine)]), max([each.ms, *(one[2] for one in mine)])
        if last + gap_ms + lateness_ms < watermark:
            expected.late.append(each.n)
            continue
        for one in mine:
            is_open.remove(one)
        is_open.append((each.key, first, last, [each.n, *(n for one in mine for n in one[3])]))
    expected.still_open.update((key, first, last + gap_ms, tuple(sorted(n))) for key, first, last, n in is_open)
    return expected


def inputs_of(disorder: int) -> st.SearchStrategy[list[Input]]:
    """Return streams whose time moves on, with each record up to `disorder` seconds behind."""
    step = st.tuples(st.sampled_from("ab"), st.integers(0, 4), st.integers(0, disorder))

    def build(steps: list[tuple[str, int, int]]) -> list[Input]:
        inputs, now = [], -10
        for n, (key, forward, behind) in enumerate(steps):
            now += forward
            inputs.append(Input(n, key, now - behind))
        return inputs

    return st.lists(step, min_size=1, max_size=40).map(build)


WINDOWS = st.sampled_from(
    [TumblingWindow(5_000), SlidingWindow(6_000, 2_000), SlidingWindow(5_000, 3_000), SessionWindow(3_000)]
)


def expect(window: Window, inputs: list[Input], delay_ms: int, lateness_ms: int) -> Expected:
    if isinstance(window, SessionWindow):
        return fold_sessions(window.gap_ms, inputs, delay_ms, lateness_ms)
    return fold_spans(window, inputs, delay_ms, lateness_ms)


def event_of(each: Input) -> dict[str, Any]:
    return {"n": each.n, "key": each.key, "timestamp": each.at}


def in_memory() -> Callable[[], StreamingBackend]:
    """Return what gives the backend of an empty broker, each time the same."""
    backend = MemoryBackend(stream_key="ticks", group_name="g")
    return lambda: backend


def on_server(name: str) -> Callable[[], StreamingBackend]:
    """Return what gives backends of one empty database, each time a new one, as another process has."""
    folder = Path(f"windows-{next(_numbers)}")
    make = make_on_server(name)
    return lambda: StreamingBackend(make(folder, Limits(), None), "ticks", "g")


async def find(broker: Broker) -> Expected:
    """Return what came out, in the reference's words."""
    found = Expected()
    for result in await read_events(broker, "out"):
        numbers = tuple(result["value"])
        found.finals[result["key"], result["window_start_ms"], result["window_end_ms"], numbers] += 1
    found.late = [event["n"] for event in await read_events(broker, "ticks-late")]
    return found


async def check(
    open_backend: Callable[[], StreamingBackend],
    window: Window,
    inputs: list[Input],
    *,
    delay_ms: int,
    lateness_ms: int,
    batch: int,
    shape: str,
    fails: frozenset[int] = frozenset(),
    cut: int | None = None,
    merges: bool = False,
) -> None:
    runs: Counter[int] = Counter()

    def collect(event: Tick, state: list[int] | None) -> list[int]:
        runs[event.n] += 1
        if event.n in fails and runs[event.n] < 3:
            raise RuntimeError("not yet")
        return [*(state or []), event.n]

    async def collect_async(event: Tick, state: list[int] | None) -> list[int]:
        return collect(event, state)

    def make() -> Stream:
        stream = Stream(open_backend())
        merge = (lambda one, other: sorted(one + other)) if merges and isinstance(window, SessionWindow) else None
        handler: Any = {"plain": collect, "async": collect_async, "ready": Collect("n")}[shape]
        stream.window(
            "ticks",
            window,
            batch,
            delay_ms,
            allowed_lateness_ms=lateness_ms,
            emit="final",
            to="out",
            name="collect",
            retry=QUICK,
            schema=Tick,
            merge=merge if shape != "ready" else None,
        )(handler)
        return stream

    for part in (inputs[:cut], inputs[cut:]) if cut is not None else (inputs,):
        if part:
            first = make()
            await first.emit_many([event_of(each) for each in part], "ticks")
            await run_until_drained(first, within_ms=DRAIN_MS)
            await first.stop()
    broker = open_backend().broker
    found, expected = await find(broker), expect(window, inputs, delay_ms, lateness_ms)
    if isinstance(window, SessionWindow):
        found.finals = Counter({(*place[:3], tuple(sorted(place[3]))): n for place, n in found.finals.items()})
    assert await read_letters(broker) == []
    assert found.finals == expected.finals
    assert sorted(found.late) == expected.late
    await broker.close()


FINALS = given(
    window=WINDOWS,
    inputs=inputs_of(12),
    delay=st.sampled_from([0, 3_000]),
    lateness=st.sampled_from([0, 4_000]),
    batch=st.sampled_from([1, 3, 100]),
    shape=st.sampled_from(["plain", "async", "ready"]),
    merges=st.booleans(),
)
RESTARTS = given(
    window=WINDOWS,
    inputs=inputs_of(8),
    batch=st.sampled_from([1, 4, 100]),
    shape=st.sampled_from(["plain", "async"]),
    fails=st.frozensets(st.integers(0, 39), max_size=6),
    cut=st.integers(1, 30),
)


@FEW
@FINALS
def test_finals_and_late_records_are_those_of_a_plain_fold(
    window: Window, inputs: list[Input], delay: int, lateness: int, batch: int, shape: str, merges: bool
) -> None:
    options: dict[str, Any] = {"batch": batch, "shape": shape, "merges": merges}
    asyncio.run(check(in_memory(), window, inputs, delay_ms=delay, lateness_ms=lateness, **options))


@FEWER
@FINALS
def test_on_a_server_finals_and_late_records_are_those_of_a_plain_fold(
    window: Window, inputs: list[Input], delay: int, lateness: int, batch: int, shape: str, merges: bool
) -> None:
    options: dict[str, Any] = {"batch": batch, "shape": shape, "merges": merges}
    asyncio.run(check(on_server("valkey"), window, inputs, delay_ms=delay, lateness_ms=lateness, **options))


@FEW
@RESTARTS
def test_failing_handlers_and_restarts_change_no_result(
    window: Window, inputs: list[Input], batch: int, shape: str, fails: frozenset[int], cut: int
) -> None:
    options: dict[str, Any] = {"batch": batch, "shape": shape, "fails": fails, "cut": cut}
    asyncio.run(check(in_memory(), window, inputs, delay_ms=2_000, lateness_ms=1_000, **options))


@FEWER
@RESTARTS
def test_on_a_server_failing_handlers_and_restarts_change_no_result(
    window: Window, inputs: list[Input], batch: int, shape: str, fails: frozenset[int], cut: int
) -> None:
    options: dict[str, Any] = {"batch": batch, "shape": shape, "fails": fails, "cut": cut}
    asyncio.run(check(on_server("redis"), window, inputs, delay_ms=2_000, lateness_ms=1_000, **options))


def last_updates(events: list[dict[str, Any]]) -> dict[tuple[str, int], Any]:
    return {(event["key"], event["window_start_ms"]): event["value"] for event in events}


@FEW
@given(inputs=inputs_of(12), batch=st.sampled_from([1, 3, 100]), ready=st.booleans())
def test_the_last_update_of_a_window_is_its_plain_fold(inputs: list[Input], batch: int, ready: bool) -> None:
    async def work() -> None:
        backend = MemoryBackend(stream_key="ticks", group_name="g")
        stream = Stream(backend)
        window = SlidingWindow(6_000, 2_000)

        def total(event: Tick, state: dict[str, int] | None) -> dict[str, int]:
            state = state or {"n": 0, "sum": 0}
            return {"n": state["n"] + 1, "sum": state["sum"] + event.n}

        handler: Any = {"n": Count(), "sum": Sum("n")} if ready else total
        stream.window("ticks", window, batch, emit="updates", to="out", name="t", schema=Tick)(handler)
        await stream.emit_many([event_of(each) for each in inputs], "ticks")
        await run_until_drained(stream)
        expected: dict[tuple[str, int], Any] = {}
        for each in inputs:
            for start in starts_of(window, each.ms):
                known = expected.setdefault((each.key, start), {"n": 0, "sum": 0})
                known["n"] += 1
                known["sum"] += each.n
        assert last_updates(await read_events(backend.broker, "out")) == expected
        assert await read_events(backend.broker, "ticks-late") == []
        await backend.close()

    asyncio.run(work())


def test_the_payload_of_a_result_is_what_the_docs_say() -> None:
    async def work() -> None:
        backend = MemoryBackend(stream_key="ticks", group_name="g")
        stream = Stream(backend)
        stream.window("ticks", TumblingWindow(1_000), emit="final", to="out")(Count())
        await stream.emit_many([{"key": "a", "timestamp": 1}, {"key": "a", "timestamp": 2}], "ticks")
        await run_until_drained(stream)
        records = await backend.broker.read("out", 0, offset=0, max_records=9)
        assert [(record.raw_key, orjson.loads(record.value)) for record in records] == [
            (
                b"a",
                {
                    "event_type": "WindowResult",
                    "timestamp": "1970-01-01T00:00:01.999Z",
                    "window_start_ms": 1_000,
                    "window_end_ms": 2_000,
                    "key": "a",
                    "value": 1,
                },
            )
        ]
        await backend.close()

    asyncio.run(work())
