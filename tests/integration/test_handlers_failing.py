"""Handlers that fail: attempts, order per key, dead letters, and what they leave behind."""

import asyncio
import logging
from collections import Counter, defaultdict
from typing import Any

import pytest

from pspf import BatchError, Context, RetryPolicy, Stream
from pspf.connectors.contract.backend import StreamingBackend
from pspf.errors import EventRejected
from tests.integration.running import (
    QUICK,
    TOPIC,
    Number,
    drain,
    numbers,
    read_events,
    read_letters,
    run_until_drained,
    running,
    until,
    wait_until,
)

MODES = [("none", "async"), ("none", "plain"), ("none", "batch"), ("key", "async"), ("key", "plain"), ("key", "batch")]


class Failing:
    """A handler of any shape that fails for each number as often as `failures` says."""

    def __init__(self, failures: dict[int, int]) -> None:
        self.failures = Counter(failures)
        self.runs: list[int] = []

    def run(self, n: int) -> None:
        self.runs.append(n)
        if self.failures[n] > 0:
            self.failures[n] -= 1
            raise ValueError(f"{n} is not wanted")

    def subscribe(self, stream: Stream, shape: str, **options: Any) -> None:
        async def of_one(event: Number, ctx: Context) -> None:
            await asyncio.sleep(0)
            self.run(event.n)
            ctx.emit({"n": event.n, "k": event.key}, topic="out")

        def plain(event: Number, ctx: Context) -> None:
            self.run(event.n)
            ctx.emit({"n": event.n, "k": event.key}, topic="out")

        async def batch(events: list[Number], ctx: Context) -> None:
            for event in events:
                ctx.emit({"n": event.n, "k": event.key}, topic="out")
            bad = [event for event in events if self.failures[event.n] > 0]
            if len(events) > 1 and bad:
                raise ValueError("one of them")
            for event in events:
                self.run(event.n)

        handlers: dict[str, Any] = {"async": of_one, "plain": plain, "batch": batch}
        stream.subscribe(TOPIC, **{"retry": QUICK, "name": "failing", **options})(handlers[shape])


@pytest.mark.parametrize(("ordering", "shape"), MODES)
async def test_a_record_runs_as_often_as_its_policy_says_and_no_more(
    backend: StreamingBackend, ordering: Any, shape: str
) -> None:
    stream = Stream(backend)
    failing = Failing({0: 0, 1: 1, 2: 2, 3: 3, 4: 4})  # 3 attempts
    failing.subscribe(stream, shape, ordering=ordering)
    await stream.emit_many(numbers(5, keys="abcde"))
    await run_until_drained(stream)
    assert Counter(failing.runs) == {0: 1, 1: 2, 2: 3, 3: 3, 4: 3}
    letters = await read_letters(backend.broker)
    assert {(letter.record.key, letter.attempts, letter.error) for letter in letters} == {
        ("d", 3, "3 is not wanted"),
        ("e", 3, "4 is not wanted"),
    }
    assert all(f"ValueError: {letter.error}" in letter.traceback for letter in letters)
    assert sorted(event["n"] for event in await read_events(backend.broker, "out")) == [0, 1, 2]
    (counters,) = stream.telemetry.snapshot()
    assert (counters.processed, counters.failed, counters.retried, counters.dead) == (3, 9, 7, 2)


@pytest.mark.parametrize(("ordering", "shape"), MODES)
async def test_attempts_outlive_a_stop(backend: StreamingBackend, ordering: Any, shape: str) -> None:
    failing = Failing({0: 9})
    for after in (1, 2, 3):
        stream = Stream(backend)
        failing.subscribe(stream, shape, ordering=ordering, retry=RetryPolicy(3, initial_ms=30, max_ms=60))
        await (stream.emit_many(numbers(1)) if after == 1 else asyncio.sleep(0))
        async with running(stream):
            await until(lambda after=after: len(failing.runs) == after)  # type: ignore[misc]
    assert [letter.attempts for letter in await read_letters(backend.broker)] == [3]


@pytest.mark.parametrize(
    ("shape", "concurrency"), [("async", 1), ("async", 8), ("plain", 1), ("plain", 8), ("batch", 1)]
)
async def test_order_per_key_is_kept_while_records_fail(
    backend: StreamingBackend, shape: str, concurrency: int
) -> None:
    stream = Stream(backend)
    failing = Failing({n: n % 3 for n in range(0, 60, 7)})
    failing.subscribe(stream, shape, ordering="key", concurrency=concurrency)
    await stream.emit_many(numbers(60, keys="abcd"))
    await run_until_drained(stream, within_ms=10_000)
    of_key = defaultdict(list)
    for event in await read_events(backend.broker, "out"):
        of_key[event["k"]].append(event["n"])
    assert of_key == {key: list(range(place, 60, 4)) for place, key in enumerate("abcd")}


@pytest.mark.parametrize("shape", ["async", "plain", "batch"])
async def test_a_record_that_is_held_back_is_not_counted_as_handled_before_it_runs(
    backend: StreamingBackend, shape: str
) -> None:
    stream = Stream(backend)
    Failing({0: 2, 9: 9}).subscribe(stream, shape, ordering="key")
    await stream.emit_many(numbers(20, keys="ab"))
    await run_until_drained(stream)
    (counters,) = stream.telemetry.snapshot()
    assert (counters.processed, counters.failed) == (19, 5)
    assert sum(counters.handler_us.counts) == counters.batch_events.total == 24


async def test_other_keys_go_on_while_one_waits(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    done: list[int] = []
    is_open = False

    @stream.subscribe(TOPIC, 5, ordering="key", retry=RetryPolicy(1_000, initial_ms=30, max_ms=30))
    async def handle(event: Number) -> None:
        if event.key == "a" and not is_open:
            raise ValueError("not yet")
        done.append(event.n)

    await stream.emit_many(numbers(20, keys="ab"))
    async with running(stream):
        await until(lambda: done == list(range(1, 20, 2)))
        is_open = True
        await drain(stream)
    assert done[10:] == list(range(0, 20, 2))


@pytest.mark.parametrize("shape", ["async", "plain", "batch"])
async def test_a_failed_record_holds_back_its_own_key_and_no_other(backend: StreamingBackend, shape: str) -> None:
    """A record without a key has no order to keep: it neither waits nor is waited for."""
    stream = Stream(backend)
    failing = Failing({0: 10**9, 2: 10**9})
    policy = RetryPolicy(10**6, initial_ms=20, max_ms=20)
    failing.subscribe(stream, shape, ordering="key", retry=policy, batch_size=5)
    keys = ["a", "b", None]
    await stream.emit_many([{"n": n, **({"key": keys[n % 3]} if keys[n % 3] else {})} for n in range(18)])
    others = {n for n in range(18) if n % 3} - {2}
    async with running(stream):
        await until(lambda: others <= set(failing.runs))
        await until(lambda: failing.runs.count(0) >= 3)
        assert not {3, 6, 9, 12, 15} & set(failing.runs), "they are behind 0, of their key"
        failing.failures.clear()
        await drain(stream)
    done = [n for n in failing.runs if not n % 3]
    assert done[-6:] == [0, 3, 6, 9, 12, 15]
    assert sorted(event["n"] for event in await read_events(backend.broker, "out")) == list(range(18))


async def test_after_a_dead_letter_the_later_records_of_its_key_go_on(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    failing = Failing({0: 9})
    failing.subscribe(stream, "async", ordering="key")
    await stream.emit_many(numbers(5))
    await run_until_drained(stream)
    assert failing.runs == [0, 0, 0, 1, 2, 3, 4]


async def test_an_error_that_retrying_can_not_help_is_not_retried(backend: StreamingBackend) -> None:
    stream = Stream(backend)

    @stream.subscribe(TOPIC, retry=RetryPolicy(5, give_up_on=(KeyError,)))
    async def handle(event: Number) -> None:
        if event.n == 0:
            raise KeyError("card")
        raise EventRejected("bad")

    await stream.emit_many(numbers(2))
    await run_until_drained(stream)
    assert sorted((letter.error_type, letter.attempts) for letter in await read_letters(backend.broker)) == [
        ("EventRejected", 1),
        ("KeyError", 1),
    ]


class Mute(Exception):
    """An error that can't say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize("ordering", ["none", "key"])
@pytest.mark.parametrize(
    "error",
    [Mute(), ValueError("\ud800\x00"), SystemExit(3), asyncio.CancelledError(), ExceptionGroup("two", [ValueError()])],
    ids=["mute", "surrogate", "exit", "cancelled", "group"],
)
async def test_whatever_a_handler_raises_is_its_records_failure(
    backend: StreamingBackend, error: BaseException, ordering: Any
) -> None:
    stream = Stream(backend)
    seen: list[int] = []

    @stream.subscribe(TOPIC, retry=QUICK, ordering=ordering)
    async def handle(event: Number) -> None:
        seen.append(event.n)
        if event.n == 1:
            raise error

    await stream.emit_many(numbers(3, keys="abc"))
    await run_until_drained(stream)
    assert Counter(seen) == {0: 1, 1: 3, 2: 1}
    (letter,) = await read_letters(backend.broker)
    assert letter.error_type == type(error).__name__


class Ending(BaseException):
    """What no handler should raise."""


async def test_what_a_plain_handler_raises_stops_at_its_record(backend: StreamingBackend) -> None:
    stream = Stream(backend)

    @stream.subscribe(TOPIC, retry=QUICK)
    def handle(event: Number) -> None:
        if event.n == 1:
            raise Ending

    await stream.emit_many(numbers(3))
    await run_until_drained(stream)
    assert [letter.error_type for letter in await read_letters(backend.broker)] == ["Ending"]


@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_the_culprits_that_a_batch_error_names_are_charged_at_once(
    backend: StreamingBackend, ordering: Any
) -> None:
    stream = Stream(backend)
    calls: list[list[int]] = []

    @stream.subscribe(TOPIC, 10, ordering=ordering, retry=RetryPolicy(1))
    async def handle(events: list[Number], ctx: Context) -> None:
        calls.append([event.n for event in events])
        for event in events:
            ctx.emit({"n": event.n}, topic="out")
        bad = {str(event.offset): ValueError(f"{event.n}") for event in events if event.n in (2, 5)}
        if bad:
            raise BatchError(bad)

    await stream.emit_many(numbers(10, keys="abcdefghij"))
    await run_until_drained(stream)
    assert calls == [list(range(10)), [0, 1, 3, 4, 6, 7, 8, 9]]
    assert [event["n"] for event in await read_events(backend.broker, "out")] == [0, 1, 3, 4, 6, 7, 8, 9]
    assert sorted(letter.error for letter in await read_letters(backend.broker)) == ["2", "5"]


async def test_a_batch_error_may_name_each_record_of_a_large_batch_in_turn(backend: StreamingBackend) -> None:
    stream = Stream(backend)

    @stream.subscribe(TOPIC, 1_000, retry=RetryPolicy(1))
    async def handle(events: list[Number]) -> None:
        raise BatchError({str(events[0].offset): ValueError("the next one")})

    await stream.emit_many(numbers(600))
    await run_until_drained(stream, within_ms=20_000)
    assert len(await read_letters(backend.broker)) == 600


async def test_a_batch_error_that_holds_text_is_told_as_such(backend: StreamingBackend) -> None:
    stream = Stream(backend)

    @stream.subscribe(TOPIC, retry=RetryPolicy(1))
    async def handle(events: list[Number]) -> None:
        raise BatchError({str(events[0].offset): "too dear"})  # type: ignore[arg-type]  # text is no error

    await stream.emit_many(numbers(1))
    await run_until_drained(stream)
    assert [letter.error for letter in await read_letters(backend.broker)] == ["too dear"]


async def test_a_batch_that_fails_is_halved_down_to_its_culprit(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    calls: list[list[int]] = []

    @stream.subscribe(TOPIC, 8, ordering="key", retry=RetryPolicy(1))
    async def handle(events: list[Number]) -> None:
        calls.append([event.n for event in events])
        if any(event.n == 5 for event in events):
            raise ValueError("five")

    await stream.emit_many(numbers(8, keys="abcdefgh"))
    await run_until_drained(stream)
    assert calls == [list(range(8)), [0, 1, 2, 3], [4, 5, 6, 7], [4, 5], [4], [5], [6, 7]]
    assert [letter.record.key for letter in await read_letters(backend.broker)] == ["f"]


@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_a_replayed_dead_letter_runs_again_at_once_while_its_handler_is_idle(
    backend: StreamingBackend, ordering: Any
) -> None:
    stream = Stream(backend)
    failing = Failing({1: 3})
    failing.subscribe(stream, "async", ordering=ordering)
    async with running(stream):
        await stream.emit_many(numbers(3))
        await drain(stream)
        letters = await read_letters(backend.broker)
        assert await backend.broker.replay_dead_letters(letters) == 1
        await until(lambda: failing.runs.count(1) == 4, within_ms=3_000)
        await drain(stream)
    assert await read_letters(backend.broker) == []
    assert sorted(event["n"] for event in await read_events(backend.broker, "out")) == [0, 1, 2]


async def test_a_dead_letter_replayed_behind_a_failing_record_of_its_key_waits_for_it(
    backend: StreamingBackend,
) -> None:
    """And the loop does not spin meanwhile: each turn would be a commit."""
    stream = Stream(backend)
    failing = Failing({0: 4, 1: 3})
    failing.subscribe(stream, "async", ordering="key", retry=RetryPolicy(3, initial_ms=200, max_ms=200, jitter=0))
    async with running(stream):
        await stream.emit_many(numbers(2))
        await until(lambda: len(failing.runs) == 6, within_ms=8_000)
        await drain(stream)
        first, second = sorted(await read_letters(backend.broker), key=lambda letter: letter.error)
        before = stream.telemetry.snapshot()[0].batches
        await backend.broker.replay_dead_letters([first])
        await until(lambda: len(failing.runs) == 7)  # fails, and waits for 200 ms
        await until(lambda: stream.telemetry.snapshot()[0].batches > before)
        await backend.broker.replay_dead_letters([second])
        await drain(stream)
    assert failing.runs[:6] == [0, 0, 0, 1, 1, 1]
    *first_runs, second_run = failing.runs[6:]  # a run whose commit the second replay overtook comes again
    assert set(first_runs) == {0}
    assert second_run == 1
    assert stream.telemetry.snapshot()[0].batches - before < 10


async def test_a_dead_letter_replayed_while_its_handler_is_busy_takes_effect_once(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    failing = Failing({0: 3})
    failing.subscribe(stream, "async", batch_size=1, ordering="key")
    async with running(stream):
        await stream.emit_many(numbers(1))
        await drain(stream)
        await stream.emit_many(numbers(200, start=1))
        await backend.broker.replay_dead_letters(await read_letters(backend.broker))
        await drain(stream, within_ms=10_000)
    assert sorted(event["n"] for event in await read_events(backend.broker, "out")) == list(range(201))


async def test_a_cursor_with_too_much_held_back_reads_nothing_new(
    backend: StreamingBackend, setting: Any, caplog: pytest.LogCaptureFixture
) -> None:
    setting("PSPF_MAX_HELD_BACK", 10)
    stream = Stream(backend)
    done: list[int] = []
    is_open = False

    @stream.subscribe(TOPIC, 5, ordering="key", retry=RetryPolicy(1_000, initial_ms=30, max_ms=30))
    async def handle(event: Number) -> None:
        if event.key == "a" and not is_open:
            raise ValueError("not yet")
        done.append(event.n)

    await stream.emit_many([*numbers(30), *numbers(1, keys="b", start=30)])
    async with running(stream):

        async def is_full() -> bool:
            return any("nothing new is read" in record.getMessage() for record in caplog.records)

        await wait_until(is_full)

        async def is_stored() -> bool:  # the warning comes with the read, which may overtake the commit
            (cursor,) = await backend.broker.list_cursors()
            assert cursor.held_back + cursor.retries <= 15
            return cursor.held_back + cursor.retries >= 10

        await wait_until(is_stored)
        assert done == []
        is_open = True
        await drain(stream)
    assert [n for n in done if n != 30] == list(range(30))
    assert 30 in done
    assert sum(record.levelno == logging.WARNING and "nothing new" in record.getMessage() for record in caplog.records)


async def test_a_failure_tells_the_users_frames_once_and_then_a_line_each(
    backend: StreamingBackend, caplog: pytest.LogCaptureFixture
) -> None:
    stream = Stream(backend)
    failing = Failing({0: 3})
    failing.subscribe(stream, "async")
    (record_id,) = await stream.emit_many(numbers(1))
    await run_until_drained(stream)
    lines = [record.getMessage() for record in caplog.records if record.name == "pspf.handlers"]
    assert len(lines) == 4
    assert "in run" in lines[0]
    assert "pspf/engine" not in lines[0]
    assert "attempt 1/3 failed, next in" in lines[1]
    assert "dead after attempt 3/3: ValueError: 0 is not wanted; see: pspf dlq inspect numbers/" in lines[3]
    assert record_id in lines[3]
