"""A toy operator by the wall clock, built from outside of the product: its timers through backlogs, failures, crashes
and moves, on every broker."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from pspf import RetryPolicy, Stream, faults
from pspf.clock import ManualClock
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.contract.limits import Limits
from pspf.engine.open_windows import find_windows
from pspf.errors import PSPFError
from tests.integration.running import drain, read_events, read_letters, running, wait_until
from tests.support.brokers import KINDS, Kind
from tests.support.debouncing import GROUP, TOPIC, add_debounce, number_of, read_settled

QUIET_MS = 1_000
LIMITS = Limits(synchronous="NORMAL")


@pytest_asyncio.fixture
async def clock() -> ManualClock:
    return ManualClock()


@pytest_asyncio.fixture
async def timed(kind: Kind, tmp_path: Path, clock: ManualClock) -> AsyncIterator[StreamingBackend]:
    """A backend whose clock the test moves."""
    made = StreamingBackend(kind.make(tmp_path, LIMITS, clock), TOPIC, GROUP)
    yield made
    await made.close()


def make(backend: StreamingBackend, clock: ManualClock, **options: Any) -> Stream:
    stream = Stream(backend)
    stream.processor.clock = clock
    add_debounce(stream, quiet_ms=QUIET_MS, **options)
    return stream


def tick(n: int, key: str = "a") -> dict[str, Any]:
    return {"n": n, "key": key}


async def expect(stream: Stream, expected: list[tuple[str, Any, int]]) -> None:
    async def is_out() -> bool:
        return sorted(await read_settled(stream.broker)) == sorted(expected)

    await wait_until(is_out, within_ms=20_000)


async def test_the_last_event_goes_out_when_none_has_come_for_so_long(
    timed: StreamingBackend, clock: ManualClock
) -> None:
    stream = make(timed, clock)
    async with running(stream):
        await stream.emit_many([tick(1), tick(2), tick(3, "b")], TOPIC)
        await drain(stream, within_ms=20_000)
        clock.advance(QUIET_MS - 1)
        await stream.emit_many([tick(4)], TOPIC)
        await drain(stream, within_ms=20_000)
        assert await read_settled(stream.broker) == []
        clock.advance(1)
        await expect(stream, [("b", 3, 1)])
        clock.advance(QUIET_MS)
        await expect(stream, [("b", 3, 1), ("a", 4, 3)])


async def test_a_timer_is_due_while_there_is_a_backlog(timed: StreamingBackend, clock: ManualClock) -> None:
    def slow(event: dict[str, Any]) -> Any:
        clock.advance(QUIET_MS // 10)
        return number_of(event)

    stream = make(timed, clock, function=slow, batch_size=1)
    await stream.emit_many([tick(0), *(tick(n, "b") for n in range(1, 40))], TOPIC)
    begun_ms = clock.now_ms()
    async with running(stream):

        async def is_out() -> bool:
            return bool(await read_settled(stream.broker))

        await wait_until(is_out, within_ms=20_000)
        await drain(stream, within_ms=20_000)
    first = (await read_events(stream.broker, "settled"))[0]
    assert (first["key"], first["value"], first["count"]) == ("a", 0, 1)
    assert first["at_ms"] - begun_ms <= QUIET_MS + 3 * QUIET_MS // 10, "it was due long before the backlog's end"


async def test_a_record_that_fails_is_retried_and_holds_back_its_key_alone(
    timed: StreamingBackend, clock: ManualClock
) -> None:
    failures = 0

    def flaky(event: dict[str, Any]) -> Any:
        nonlocal failures
        if event["n"] == 1 and failures < 2:
            failures += 1
            raise RuntimeError("not yet")
        if event["n"] == 5:
            raise ValueError("never")
        return number_of(event)

    policy = RetryPolicy(max_attempts=3, initial_ms=100, max_ms=100, jitter=0)
    stream = make(timed, clock, function=flaky, retry=policy)
    async with running(stream):
        await stream.emit_many([tick(1), tick(2), tick(3, "b"), tick(5, "c")], TOPIC)

        async def all_out() -> bool:
            clock.advance(100)
            await stream.broker.ping()
            return sorted(await read_settled(stream.broker)) == [("a", 2, 2), ("b", 3, 1)]

        await wait_until(all_out, within_ms=20_000)
    assert failures == 2
    assert [letter.error for letter in await read_letters(stream.broker)] == ["never"]


async def test_timers_survive_when_another_worker_takes_the_cursor_over(
    timed: StreamingBackend, clock: ManualClock
) -> None:
    first = make(timed, clock)
    await first.emit_many([tick(1), tick(2), tick(3, "b")], TOPIC)
    async with running(first):
        await drain(first, within_ms=20_000)
    clock.advance(QUIET_MS // 2)
    second = make(timed, clock)
    async with running(second):
        await second.emit_many([tick(4, "b")], TOPIC)
        await drain(second, within_ms=20_000)
        assert await read_settled(second.broker) == []
        assert await find_windows(second.broker) == [], "it has no windows"
        clock.advance(QUIET_MS // 2)
        await expect(second, [("a", 2, 2)])
        clock.advance(QUIET_MS // 2)
        await expect(second, [("a", 2, 2), ("b", 4, 2)])


EMBEDDED = pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind.name in ("memory", "sqlite")], ids=lambda kind: kind.name, indirect=True
)


class Crash(PSPFError):
    """The end of a worker that leaves everything as it is."""


@EMBEDDED
@pytest.mark.parametrize("point", ["read.reply", "commit.built"])
async def test_a_crash_between_any_two_steps_changes_nothing(
    kind: Kind, tmp_path: Path, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker ends at the n-th passing of a point; the next one does what is left. For each n, until none ends."""
    for number in range(1, 100):
        (folder := tmp_path / str(number)).mkdir()
        clock = ManualClock()
        backend = StreamingBackend(kind.make(folder, LIMITS, clock), TOPIC, GROUP)
        has_crashed = await _crash_at(point, number, backend, clock, monkeypatch)
        await backend.close()
        if not has_crashed:
            assert number > 3
            return
    raise AssertionError("it never came through")


async def _crash_at(
    point: str, number: int, backend: StreamingBackend, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> bool:
    """Run into a crash, and again without one; return whether there was one."""
    stream = make(backend, clock, batch_size=2)
    await stream.emit_many([tick(1), tick(2), tick(3, "b"), tick(4), tick(5, "b")], TOPIC)

    def crash() -> None:
        stream.processor.is_abandoned = True
        raise Crash

    monkeypatch.setitem(faults._ACTIONS, "raise", crash)
    faults.arm(f"{point}:{number}:raise")
    task = asyncio.create_task(stream.run_forever())
    expected = [("a", 4, 3), ("b", 5, 2)]

    async def is_over() -> bool:
        clock.advance(QUIET_MS // 4)
        await stream.broker.ping()
        return task.done() or sorted(await read_settled(stream.broker)) == expected

    try:
        await wait_until(is_over, within_ms=20_000)
    finally:
        faults.arm(None)
    if not task.done():
        await stream.stop()
        await task
        return False
    with pytest.raises(Crash):
        await task
    later = make(backend, clock, batch_size=2)

    async def all_out() -> bool:
        clock.advance(QUIET_MS)
        await later.broker.ping()
        return sum(count for _, _, count in await read_settled(later.broker)) >= 5

    async with running(later):
        await wait_until(all_out, within_ms=20_000)
        clock.advance(QUIET_MS)
    settled = await read_settled(later.broker)
    assert sum(count for _, _, count in settled) == 5, settled
    assert {key: value for key, value, _ in settled} == {"a": 4, "b": 5}
    return True
