"""`ctx.step`: what runs once, what is read back, and who fails, on every broker."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from pspf import Context, RetryPolicy, Stream
from pspf.cli.services.pending import read_steps
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.limits import Limits
from pspf.context import SyncContext
from pspf.events.step_places import STEPS, STEPS_BESIDE, StepPlaces
from pspf.records import Cursor
from tests.integration.running import (
    GROUP,
    QUICK,
    TOPIC,
    Number,
    drain,
    numbers,
    read_letters,
    run_until_drained,
    running,
    until,
    wait_until,
)
from tests.support.brokers import Kind

NAME = "steps"
CURSOR = Cursor(TOPIC, GROUP, NAME, 0)


class Receipt(BaseModel):
    amount: Decimal
    at: datetime


@dataclass
class Parcel:
    number: int
    tags: set[str]


async def stored(broker: Broker) -> list[str]:
    """Return the names of the steps that the cursor has."""
    await broker.connect()
    places = StepPlaces((TOPIC,))
    return [
        places.split(namespace, key)[2]
        for namespace in (STEPS, STEPS_BESIDE)
        for key, _ in await broker.scan_entries(CURSOR, namespace)
    ]


def subscribe(backend: StreamingBackend, handler: Callable[..., Any], **options: Any) -> Stream:
    stream = Stream(backend)
    stream.subscribe(TOPIC, ordering="key", name=NAME, **{"retry": QUICK, **options})(handler)
    return stream


@pytest.mark.parametrize("is_plain", [False, True], ids=["async", "plain"])
async def test_records_of_several_topics_have_steps_of_their_own(backend: StreamingBackend, is_plain: bool) -> None:
    """Offsets of two topics may be equal: none gets the other's result."""
    ran: Counter[str] = Counter()
    failed: set[str] = set()
    found: list[tuple[str, str]] = []

    def compute(name: str) -> str:
        ran[name] += 1
        return name

    def go_on(name: str, result: str) -> None:
        if name not in failed:
            failed.add(name)
            raise RuntimeError("after its step")
        found.append((name, result))

    async def handle(event: Number, ctx: Context) -> None:
        name = f"{ctx.record.topic} {event.n}"
        go_on(name, await ctx.step("n", compute, name))

    def handle_plainly(event: Number, ctx: SyncContext) -> None:
        name = f"{ctx.record.topic} {event.n}"
        go_on(name, ctx.step("n", compute, name))

    stream = Stream(backend)
    handler = handle_plainly if is_plain else handle
    stream.subscribe(topics=[TOPIC, "others"], ordering="key", name=NAME, retry=QUICK)(handler)
    for topic in (TOPIC, "others"):
        await stream.emit_many(numbers(3), topic)
    await run_until_drained(stream)
    names = [f"{topic} {n}" for topic in (TOPIC, "others") for n in range(3)]
    assert sorted(found) == [(name, name) for name in sorted(names)]
    assert ran == Counter(names)
    assert await read_letters(backend.broker) == []
    assert await stored(backend.broker) == []


async def test_steps_of_a_topic_outlive_a_worker_and_topics_in_another_order(backend: StreamingBackend) -> None:
    ran: list[str] = []
    found: list[tuple[str, str]] = []
    is_failing = True

    def compute(name: str) -> str:
        ran.append(name)
        return name

    async def handle(event: Number, ctx: Context) -> None:
        result = await ctx.step("n", compute, f"{ctx.record.topic} {event.n}")
        if is_failing:
            raise RuntimeError("not yet")
        found.append((f"{ctx.record.topic} {event.n}", result))

    stream = Stream(backend)
    slow = RetryPolicy(9, 3_600_000, 3_600_000)
    stream.subscribe(topics=[TOPIC, "others"], ordering="key", name=NAME, retry=slow)(handle)
    await stream.emit_many(numbers(2, keys="ab"), TOPIC)
    await stream.emit_many(numbers(2, keys="cd"), "others")
    async with running(stream):
        await until(lambda: len(ran) == 4)
        await wait_until(partial(_are_pending, backend.broker, 4))
    assert await stored(backend.broker) == ["n"] * 4
    pending = await backend.broker.operations.list_pending(GROUP)
    steps = await read_steps(backend.broker, pending)
    assert {(cursor.topic, offset): names for (cursor, offset), names in steps.items()} == {
        (record.cursor.topic, record.offset): ["n"] for record in pending
    }
    assert len(steps) == 4
    again = Stream(backend)
    again.subscribe(topics=[TOPIC, "third", "others"], ordering="key", name=NAME, retry=QUICK)(handle)
    is_failing = False
    dropped = next(record for record in pending if record.cursor.topic == "others")
    assert await backend.broker.operations.drop_pending([dropped]) == 1
    await backend.broker.operations.retry_pending(pending)
    await run_until_drained(again)
    assert sorted(found) == [(name, name) for name in sorted(ran) if name != "others 0"]
    assert (len(ran), len(found)) == (4, 3)
    assert await stored(backend.broker) == []


async def _are_pending(broker: Broker, count: int) -> bool:
    return len(await broker.operations.list_pending(GROUP)) == count


@pytest.mark.parametrize("is_plain", [False, True], ids=["async", "plain"])
async def test_finished_steps_do_not_run_again_when_their_record_does(
    backend: StreamingBackend, is_plain: bool
) -> None:
    ran: list[Any] = []
    found: list[Any] = []

    def charge(n: int, key: str) -> Receipt:
        ran.append(("charge", n, key))
        return Receipt(amount=Decimal("1.10"), at=datetime(2026, 1, n + 1, tzinfo=UTC))

    async def reserve(n: int) -> Parcel:
        ran.append(("reserve", n))
        return Parcel(n, {"a"})

    def mail(n: int) -> Any:
        ran.append(("mail", n))
        return {"sent": (n, None)}

    async def handle(event: Number, ctx: Context) -> None:
        receipt = await ctx.step("charge", charge, event.n, ctx.idempotency_key("charge"))
        if ctx.attempt == 1:
            raise ValueError("once")
        parcel = await ctx.step("reserve", reserve, event.n)
        if ctx.attempt == 2:
            raise ValueError("twice")
        found.append((receipt, parcel, await ctx.step("mail", partial(mail, n=event.n))))

    def handle_plain(event: Number, ctx: SyncContext) -> None:
        receipt = ctx.step("charge", charge, event.n, ctx.idempotency_key("charge"))
        if ctx.attempt == 1:
            raise ValueError("once")
        parcel = ctx.step("reserve", reserve, event.n)
        if ctx.attempt == 2:
            raise ValueError("twice")
        found.append((receipt, parcel, ctx.step("mail", partial(mail, n=event.n))))

    stream = subscribe(backend, handle_plain if is_plain else handle)
    ids = await stream.emit_many(numbers(2, keys="ab"))
    await run_until_drained(stream)
    assert sorted(ran) == sorted(
        step
        for n, record_id in enumerate(ids)
        for step in (("charge", n, f"{TOPIC}/{record_id}/{NAME}/charge"), ("reserve", n), ("mail", n))
    )
    receipts = [Receipt(amount=Decimal("1.10"), at=datetime(2026, 1, n + 1, tzinfo=UTC)) for n in range(2)]
    assert sorted(found, key=str) == sorted(
        [(receipts[n], Parcel(n, {"a"}), {"sent": [n, None]}) for n in range(2)], key=str
    )
    assert await stored(backend.broker) == []


async def test_a_result_is_returned_as_it_will_be_read(backend: StreamingBackend) -> None:
    found: list[Any] = []

    async def handle(event: Number, ctx: Context) -> None:
        results = [
            await ctx.step("tuple", lambda: (1, {"at": datetime(2026, 1, 31, tzinfo=UTC)})),
            await ctx.step("none", nothing),
        ]
        found.append(results)
        if ctx.attempt == 1:
            raise ValueError("once")

    stream = subscribe(backend, handle)
    await stream.emit_many(numbers(1))
    await run_until_drained(stream)
    assert found == [[[1, {"at": "2026-01-31T00:00:00+00:00"}], None]] * 2


async def test_steps_of_a_dead_record_are_gone_and_a_replay_runs_them_again_with_the_same_key(
    backend: StreamingBackend,
) -> None:
    keys: list[str] = []

    async def handle(event: Number, ctx: Context) -> None:
        await ctx.step("charge", keys.append, ctx.idempotency_key("charge"))
        if len(keys) == 1:
            raise ValueError("until it is dead")

    stream = subscribe(backend, handle)
    await stream.emit_many(numbers(1))
    await run_until_drained(stream)
    assert len(keys) == 1
    assert await stored(backend.broker) == []
    letters = await read_letters(backend.broker)
    await backend.broker.replay_dead_letters(letters)
    await run_until_drained(stream)
    assert keys == [keys[0]] * 2
    assert await stored(backend.broker) == []
    assert await read_letters(backend.broker) == []


async def test_a_step_is_durable_before_the_handler_goes_on_and_has_nothing_else_in_it(
    kind: Kind, tmp_path: Path
) -> None:
    limits = Limits(lease_ms=1_000, renew_ms=200, synchronous="NORMAL")
    backend = StreamingBackend(kind.make(tmp_path, limits, None), TOPIC, GROUP)
    ran: list[int] = []
    reached = asyncio.Event()
    go_on = asyncio.Event()

    async def handle(event: Number, ctx: Context) -> None:
        await ctx.state.put("n", await ctx.state.get("n", 0) + 1)
        ctx.emit({"n": event.n}, topic="out")
        if event.n == 1:
            await ctx.step("charge", ran.append, event.n)
            reached.set()
            await go_on.wait()

    first = subscribe(backend, handle, batch_size=10)
    await first.emit_many(numbers(2, keys="a"))
    task = asyncio.create_task(first.run_forever())
    await asyncio.wait_for(reached.wait(), 10)
    assert await stored(backend.broker) == ["charge"]
    assert await backend.broker.list_state() == [], "what the handlers of the batch did is not committed"
    assert "out" not in {info.topic for info in await backend.broker.list_topics()}
    (info,) = [each for each in await backend.broker.list_cursors() if each.cursor == CURSOR]
    assert info.lag == 2
    first.abandon()
    await asyncio.wait([task], timeout=10)
    go_on.set()
    second = subscribe(backend, handle)
    await run_until_drained(second, within_ms=30_000)
    assert ran == [1]
    async with second:
        assert await second.read_state(NAME, "a", "n") == 2
    assert await stored(backend.broker) == []
    await backend.close()


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("swallows", [False, True], ids=["raises", "swallows"])
async def test_a_step_that_can_not_be_kept_as_the_cursor_is_anothers_charges_nobody(
    backend: StreamingBackend, concurrency: int, swallows: bool
) -> None:
    ran: list[int] = []
    attempts: list[int] = []
    moved = False

    async def move() -> None:
        """Take the cursor away from its owner in the midst of a step."""
        nonlocal moved
        ran.append(1)
        if not moved:
            moved = True
            (info,) = [each for each in await backend.broker.list_cursors() if each.cursor == CURSOR]
            await backend.broker.operations.seek(CURSOR, info.committed or 0, keep_state=True, force=True)

    async def handle(event: Number, ctx: Context) -> None:
        attempts.append(ctx.attempt)
        with suppress(Exception if swallows else ZeroDivisionError):
            await ctx.step("move", move)
        await ctx.state.put("n", await ctx.state.get("n", 0) + 1)

    stream = subscribe(backend, handle, concurrency=concurrency)
    await stream.emit_many(numbers(1))
    await run_until_drained(stream, within_ms=30_000)
    assert attempts == [1, 1]
    assert len(ran) == 2
    async with stream:
        assert await stream.read_state(NAME, "a", "n") == 1
    assert await read_letters(backend.broker) == []


async def test_a_step_has_its_own_retries_and_time(backend: StreamingBackend) -> None:
    tries: list[str] = []
    policy = RetryPolicy(max_attempts=3, initial_ms=1, max_ms=1)

    async def flaky() -> int:
        tries.append("flaky")
        if len(tries) < 3:
            raise ValueError("not yet")
        return len(tries)

    async def slow() -> None:
        tries.append("slow")
        await asyncio.sleep(60)

    async def handle(event: Number, ctx: Context) -> None:
        assert await ctx.step("flaky", flaky, retry=policy) == 3
        await ctx.step("slow", slow, retry=RetryPolicy(2, 1, 1), timeout_ms=20)

    stream = subscribe(backend, handle, retry=RetryPolicy(1))
    await stream.emit_many(numbers(1))
    await run_until_drained(stream)
    (letter,) = await read_letters(backend.broker)
    assert tries == ["flaky"] * 3 + ["slow"] * 2
    assert (letter.error_type, letter.attempts) == ("HandlerTimeout", 1)
    assert "step 'slow' took longer than 20 ms" in letter.error


async def test_a_plain_call_that_has_ended_does_not_wait_for_its_steps_next_try(backend: StreamingBackend) -> None:
    """Its thread keeps the record's key busy until then."""

    def handle(event: Number, ctx: SyncContext) -> None:
        ctx.step("charge", fail, retry=RetryPolicy(max_attempts=2, initial_ms=60_000, jitter=0))

    def fail() -> None:
        raise ValueError("away")

    stream = Stream(backend)
    stream.subscribe(TOPIC, ordering="key", name=NAME, timeout_ms=200, retry=QUICK)(handle)
    await stream.emit_many(numbers(1))
    await run_until_drained(stream, within_ms=20_000)
    (letter,) = await read_letters(backend.broker)
    assert letter.error_type == "HandlerTimeout"


async def test_a_plain_handlers_step_has_its_own_retries(backend: StreamingBackend) -> None:
    tries: list[int] = []

    def flaky() -> int:
        tries.append(threading.get_ident())
        if len(tries) < 3:
            raise ValueError("not yet")
        return len(tries)

    def handle(event: Number, ctx: SyncContext) -> None:
        assert ctx.step("flaky", flaky, retry=RetryPolicy(3, 1, 1)) == 3

    stream = subscribe(backend, handle)
    await stream.emit_many(numbers(1))
    await run_until_drained(stream)
    assert await read_letters(backend.broker) == []
    assert len(tries) == 3
    assert threading.get_ident() not in tries


def nothing() -> Any:
    return None


def returns_a_set() -> Any:
    return object()


def returns_no_receipt() -> Receipt:
    wrong: Receipt = Receipt.model_construct(amount="x")
    return wrong


async def wait_a_bit() -> None:
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("name", "function", "options", "error", "words"),
    [
        ("twice", lambda: 1, {}, "ConfigurationError", "ran in this call before"),
        ("", lambda: 1, {}, "EventRejected", "empty"),
        ("n" * 1_025, lambda: 1, {}, "EventRejected", "1,025 bytes"),
        (5, lambda: 1, {}, "EventRejected", "named by text"),
        ("n", wait_a_bit, {"timeout_ms": 0}, "ConfigurationError", "timeout_ms=0"),
        ("n", lambda: 1, {"timeout_ms": 5}, "ConfigurationError", "async function"),
        ("n", "charge", {}, "ConfigurationError", "a function and its arguments"),
        ("n", returns_a_set, {}, "EventRejected", "step 'n' has run, and what it returned can't be kept"),
        ("n", returns_no_receipt, {}, "EventRejected", "can't be kept"),
    ],
)
@pytest.mark.parametrize("is_plain", [False, True], ids=["async", "plain"])
async def test_what_is_no_step_is_its_records_failure_at_once(
    backend: StreamingBackend, name: Any, function: Any, options: Any, error: str, words: str, is_plain: bool
) -> None:
    async def handle(event: Number, ctx: Context) -> None:
        if name == "twice":
            await ctx.step(name, function)
        await ctx.step(name, function, **options)

    def handle_plain(event: Number, ctx: SyncContext) -> None:
        if name == "twice":
            ctx.step(name, function)
        ctx.step(name, function, **options)

    stream = subscribe(backend, handle_plain if is_plain else handle)
    await stream.emit_many(numbers(1))
    await run_until_drained(stream)
    (letter,) = await read_letters(backend.broker)
    assert (letter.error_type, letter.attempts) == (error, 1)
    assert words in letter.error
    assert await stored(backend.broker) == []


@pytest.mark.parametrize("how", ["shared", "batch"])
async def test_a_handler_that_can_have_no_steps_says_why(backend: StreamingBackend, how: str) -> None:
    stream = Stream(backend)

    async def handle(event: Number, ctx: Context) -> None:
        await ctx.step("n", lambda: 1)

    async def handle_batch(events: list[Number], ctx: Context) -> None:
        await ctx.step("n", lambda: 1)

    chosen: Any = handle if how == "shared" else handle_batch
    stream.subscribe(TOPIC, ordering="none" if how == "shared" else "key", name=NAME, retry=QUICK)(chosen)
    await stream.emit_many(numbers(1))
    await run_until_drained(stream)
    (letter,) = await read_letters(backend.broker)
    assert (letter.error_type, letter.attempts) == ("StateUnavailable", 1)
    assert ('ordering="key"' if how == "shared" else "whole batches") in letter.error


@pytest.mark.parametrize("is_plain", [False, True], ids=["async", "plain"])
async def test_steps_of_several_keys_side_by_side_are_all_kept(backend: StreamingBackend, is_plain: bool) -> None:
    ran: list[str] = []
    failed: set[int] = set()

    async def handle(event: Number, ctx: Context) -> None:
        await ctx.state.put("n", await ctx.state.get("n", 0) + 1)
        for name in ("a", "b", "c"):
            await ctx.step(name, ran.append, f"{event.n}/{name}")
            if event.n % 3 == 0 and name == "b" and event.n not in failed:
                failed.add(event.n)
                raise ValueError("once")

    def handle_plain(event: Number, ctx: SyncContext) -> None:
        ctx.state.put("n", ctx.state.get("n", 0) + 1)
        for name in ("a", "b", "c"):
            ctx.step(name, ran.append, f"{event.n}/{name}")
            if event.n % 3 == 0 and name == "b" and event.n not in failed:
                failed.add(event.n)
                raise ValueError("once")

    stream = subscribe(backend, handle_plain if is_plain else handle, concurrency=4)
    await stream.emit_many(numbers(24, keys="abcdef"))
    await run_until_drained(stream, within_ms=20_000)
    assert sorted(ran) == sorted(f"{n}/{name}" for n in range(24) for name in "abc")
    assert await stored(backend.broker) == []
    assert await read_letters(backend.broker) == []
    async with stream:
        assert [await stream.read_state(NAME, key, "n") for key in "abcdef"] == [4] * 6


@pytest.mark.parametrize("partitions", [1, 2])
async def test_a_handler_that_groups_by_another_key_has_steps_of_the_records_that_were_emitted(
    backend: StreamingBackend, partitions: int
) -> None:
    keys: list[str] = []

    async def handle(event: Number, ctx: Context) -> None:
        await ctx.step("charge", keys.append, ctx.idempotency_key("charge"))
        if ctx.attempt == 1:
            raise ValueError("once")

    await backend.broker.connect()
    await backend.broker.create_topic(TOPIC, partitions=partitions)
    stream = subscribe(backend, handle, key="n")
    ids = await stream.emit_many(numbers(4, keys="abcd"))
    async with running(stream):
        await until(lambda: len(keys) >= 4, within_ms=20_000)
    assert sorted(keys) == sorted(f"{TOPIC}/{record_id}/{NAME}/charge" for record_id in ids)
    assert await read_letters(backend.broker) == []


async def test_steps_of_a_record_that_was_dropped_from_outside_go_with_the_next_commit(
    backend: StreamingBackend,
) -> None:
    async def handle(event: Number, ctx: Context) -> None:
        await ctx.step("charge", lambda: 1)
        if event.n == 0:
            raise ValueError("never")

    stream = subscribe(backend, handle, retry=RetryPolicy(5, 60_000, 60_000))
    await stream.emit_many(numbers(1))
    async with running(stream):

        async def has_failed() -> bool:
            infos = [each for each in await backend.broker.list_cursors() if each.cursor == CURSOR]
            return bool(infos) and infos[0].retries == 1

        await wait_until(has_failed)
        assert await stored(backend.broker) == ["charge"]
        pending = await backend.broker.operations.list_pending(GROUP, topic=TOPIC)
        assert await backend.broker.operations.drop_pending(pending) == 1
        await stream.emit_many(numbers(1, start=1))
        await drain(stream, within_ms=20_000)
        assert await stored(backend.broker) == []


async def test_a_call_that_took_too_long_keeps_no_step_that_begins_later(backend: StreamingBackend) -> None:
    release, ended = threading.Event(), threading.Event()
    errors: list[str] = []

    def handle(event: Number, ctx: SyncContext) -> None:
        release.wait(20)
        try:
            ctx.step("late", lambda: 1)
        except Exception as error:
            errors.append(type(error).__name__)
        ended.set()

    stream = subscribe(backend, handle, timeout_ms=50, retry=RetryPolicy(1))
    await stream.emit_many(numbers(1))
    async with running(stream):

        async def is_dead() -> bool:
            return bool(await read_letters(backend.broker))

        await wait_until(is_dead)
        release.set()
        await until(ended.is_set)
        assert errors == ["ContextClosed"]
        assert await stored(backend.broker) == []
