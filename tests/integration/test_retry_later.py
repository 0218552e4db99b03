"""`RetryLater`: a failed record that runs again when its handler says so, in every mode and shape."""

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from pspf import BatchError, RetryLater, RetryPolicy, Stream, TumblingWindow
from pspf.connectors.contract.backend import StreamingBackend
from pspf.testing import StreamTester
from tests.integration.running import QUICK, TOPIC, Number, numbers, read_letters, run_until_drained

MODES = [("none", "async"), ("none", "plain"), ("none", "batch"), ("key", "async"), ("key", "plain"), ("key", "batch")]
SLOW = RetryPolicy(max_attempts=3, initial_ms=100_000, max_ms=100_000, jitter=0.5)
"""A policy whose own waits are longer than a test."""


class Waiting:
    """A handler of any shape that asks for a later run of each number, as often as `times` says."""

    def __init__(self, times: dict[int, int], seconds: float | timedelta) -> None:
        self.times = Counter(times)
        self.seconds = seconds
        self.runs: list[list[int]] = []

    def run(self, *events: Number) -> None:
        self.runs.append([event.n for event in events])
        waiting = [event.n for event in events if self.times[event.n] > 0]
        self.times.subtract(waiting)
        if waiting:
            raise RetryLater(self.seconds, "the other side is busy")

    def subscribe(self, stream: Stream, shape: str, **options: Any) -> None:
        async def of_one(event: Number) -> None:
            self.run(event)

        def plain(event: Number) -> None:
            self.run(event)

        async def batch(events: list[Number]) -> None:
            self.run(*events)

        handlers: dict[str, Any] = {"async": of_one, "plain": plain, "batch": batch}
        stream.subscribe(TOPIC, **{"retry": SLOW, "name": "waiting", **options})(handlers[shape])


@pytest.mark.parametrize(("ordering", "shape"), MODES)
async def test_a_record_runs_again_after_the_time_that_its_handler_named_and_no_sooner(
    ordering: Any, shape: str
) -> None:
    stream = Stream(topic=TOPIC, group="g")
    waiting = Waiting({1: 1}, 7_200.5)
    waiting.subscribe(stream, shape, ordering=ordering)
    async with StreamTester(stream) as tester:
        await tester.send(TOPIC, {"n": 1}, key="a")
        await tester.advance(7_200_499)
        assert waiting.runs == [[1]]
        await tester.advance(1)
        assert waiting.runs == [[1], [1]]
        assert await tester.pending() == []


@pytest.mark.parametrize(("ordering", "shape"), MODES)
async def test_it_is_an_attempt_and_the_last_one_makes_a_dead_letter(
    backend: StreamingBackend, ordering: Any, shape: str
) -> None:
    stream = Stream(backend)
    waiting = Waiting({0: 2, 1: 9}, 0.02)
    waiting.subscribe(stream, shape, ordering=ordering)
    await stream.emit_many(numbers(2, keys="ab"))
    await run_until_drained(stream)
    (letter,) = await read_letters(backend.broker)
    assert (letter.record.key, letter.attempts, letter.error_type) == ("b", 3, "RetryLater")
    assert letter.error == "the other side is busy"
    assert all(1 in run for run in waiting.runs if 0 not in run)
    assert Counter(n for run in waiting.runs for n in run)[0] in ((3, 4) if shape == "batch" else (3,))


async def test_a_whole_list_runs_later_and_its_last_attempt_finds_the_one_that_never_can() -> None:
    stream = Stream(topic=TOPIC, group="g")
    waiting = Waiting({2: 9}, timedelta(minutes=1))
    waiting.subscribe(stream, "batch", ordering="key", batch_size=10)
    async with StreamTester(stream) as tester:
        await tester.send_many(TOPIC, numbers(4, keys="abcd"))
        assert waiting.runs == [[0, 1, 2, 3]]
        await tester.advance(60_000)
        assert waiting.runs[1:] == [[0, 1, 2, 3]]
        await tester.advance(60_000)
        (letter,) = await tester.dead_letters()
        assert letter.attempts == 3
        assert b'"n":2' in letter.record.value
        assert waiting.runs[2:] == [[0, 1, 2, 3], [0, 1], [2, 3], [2], [3]]


async def test_a_batch_error_gives_each_record_a_countdown_of_its_own() -> None:
    stream = Stream(topic=TOPIC, group="g")
    runs: list[list[int]] = []

    @stream.subscribe(TOPIC, 10, ordering="key", retry=SLOW)
    async def handle(events: list[Number]) -> None:
        runs.append([event.n for event in events])
        if len(runs) == 1:
            raise BatchError({event.offset: RetryLater(event.n) for event in events if event.n})

    async with StreamTester(stream) as tester:
        await tester.send_many(TOPIC, numbers(3, keys="abc"))
        await tester.advance(1_000)
        await tester.advance(1_000)
        assert runs == [[0, 1, 2], [0], [1], [2]]


async def test_later_records_of_its_key_wait_with_it_and_others_do_not() -> None:
    stream = Stream(topic=TOPIC, group="g")
    waiting = Waiting({0: 1}, 30)
    waiting.subscribe(stream, "async", ordering="key")
    async with StreamTester(stream) as tester:
        await tester.send_many(TOPIC, numbers(4, keys="ab"))
        assert waiting.runs == [[0], [1], [3]]
        await tester.advance(30_000)
        assert waiting.runs[3:] == [[0], [2]]


async def test_a_windowed_handler_folds_its_record_later() -> None:
    stream = Stream(topic=TOPIC, group="g")
    later = [RetryLater(45)]

    @stream.window(TOPIC, TumblingWindow(1_000), emit="final", to="sums", retry=SLOW)
    async def total(event: Number, state: int | None) -> int:
        if event.n == 1 and later:
            raise later.pop()
        return (state or 0) + event.n

    async with StreamTester(stream) as tester:
        await tester.send_many(TOPIC, numbers(3), timestamp=1)
        await tester.advance(45_000)
        await tester.finish()
        assert [event["value"] for event in await tester.outputs("sums")] == [3]


@pytest.mark.parametrize("backwards", [0, -5, -1e300, timedelta(seconds=-1)])
async def test_a_time_that_has_passed_means_at_once(backend: StreamingBackend, backwards: float | timedelta) -> None:
    stream = Stream(backend)
    waiting = Waiting({0: 1}, backwards)
    waiting.subscribe(stream, "async")
    await stream.emit_many(numbers(1))
    await run_until_drained(stream)
    assert waiting.runs == [[0], [0]]


@pytest.mark.parametrize("wrong", ["10s", None, True, float("nan"), float("inf"), 10**300, timedelta(days=400)])
async def test_a_time_that_is_none_is_a_dead_letter_that_says_so(backend: StreamingBackend, wrong: Any) -> None:
    stream = Stream(backend)
    Waiting({0: 1}, wrong).subscribe(stream, "async", retry=QUICK)
    await stream.emit_many(numbers(1))
    await run_until_drained(stream)
    (letter,) = await read_letters(backend.broker)
    assert (letter.attempts, letter.error_type) == (1, "ConfigurationError")
    assert "RetryLater(" in letter.error
