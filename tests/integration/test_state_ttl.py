"""`ctx.state` with a time to live: when a value is gone, what frees its storage, what it survives, on every broker."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from pspf import Context, Stream, faults
from pspf.clock import ManualClock
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.limits import Limits
from pspf.context import SyncContext
from pspf.engine import state_expiry
from pspf.errors import PSPFError
from pspf.events.expiring_values import EXPIRY, due_of, expiry_key, pack
from pspf.records import STATE, Cursor, EntryChanges, state_key
from pspf.state.memory import MemoryStateStore
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
    wait_until,
)
from tests.integration.test_state_damaged import overwrite
from tests.support.brokers import KINDS, Kind

LIMITS = Limits(synchronous="NORMAL")
NAME = "ttl"
CURSOR = Cursor(TOPIC, GROUP, NAME, 0)


@pytest_asyncio.fixture
async def clock() -> ManualClock:
    return ManualClock()


@pytest_asyncio.fixture
async def timed(kind: Kind, tmp_path: Path, clock: ManualClock) -> AsyncIterator[StreamingBackend]:
    """A backend whose clock the test moves."""
    made = StreamingBackend(kind.make(tmp_path, LIMITS, clock), TOPIC, GROUP)
    yield made
    await made.close()


def make(backend: StreamingBackend, clock: ManualClock, handler: Any, **options: Any) -> Stream:
    stream = Stream(backend)
    stream.processor.clock = clock
    stream.subscribe(TOPIC, ordering="key", name=NAME, retry=QUICK, **options)(handler)
    return stream


def acting(seen: list[Any]) -> Any:
    """Return a handler that does what its event says: `do` is a list of [operation, name, value, ttl]."""

    async def handle(event: dict[str, Any], ctx: Context) -> None:
        for operation, name, *rest in event["do"]:
            if operation == "put":
                await ctx.state.put(name, rest[0], *rest[1:])
            elif operation == "delete":
                await ctx.state.delete(name)
            elif operation == "read":
                seen.append(await ctx.state.read(rest[0], name))
            elif operation == "scan":
                seen.append([each async for each in ctx.state.scan(name)])
            else:
                seen.append(await ctx.state.get(name))

    return handle


def do(*steps: list[Any], key: str = "a") -> dict[str, Any]:
    return {"key": key, "do": steps}


async def stored(broker: Broker) -> tuple[dict[bytes, bytes], list[bytes]]:
    """Return what the cursor has of values, and of their index."""
    await broker.connect()
    values = await broker.scan_entries(CURSOR, STATE, max_entries=100_000)
    index = await broker.scan_entries(CURSOR, EXPIRY, max_entries=100_000)
    return dict(values), [key for key, _ in index]


async def check_index(broker: Broker) -> int:
    """Check that each value that expires has its entry in the index, and that there is no other; return how many."""
    values, index = await stored(broker)
    expected = [expiry_key(due_ms, key) for key, value in values.items() if (due_ms := due_of(value)) is not None]
    assert index == sorted(expected)
    return len(index)


@pytest.mark.parametrize("ttl", ["10s", 10, 10.0, timedelta(seconds=10)], ids=repr)
async def test_a_value_reads_as_none_from_its_time_on(timed: StreamingBackend, clock: ManualClock, ttl: Any) -> None:
    seen: list[Any] = []

    async def handle(event: Number, ctx: Context) -> None:
        if event.n == 0:
            await ctx.state.put("gone", {"n": 0}, ttl=ttl)
            await ctx.state.put("kept", 1, ttl=ttl)
            await ctx.state.put("kept", 1)
            await ctx.state.put("longer", 2, ttl)
        if event.n == 1:
            await ctx.state.put("longer", 3, ttl="1h")
        names = await ctx.state.get_many("gone", "kept", "longer")
        assert names == {name: value async for name, value in ctx.state.scan()}
        seen.append(names)

    stream = make(timed, clock, handle)
    async with running(stream):
        for n, advance_ms in enumerate((9_999, 1, 3_590_000, 10_000)):
            await stream.emit_many(numbers(1, start=n))
            await drain(stream)
            entries = await stream.broker.list_state()
            assert {entry.name: json.loads(entry.value) for entry in entries} == seen[-1]
            clock.advance(advance_ms)
            left = {entry.name for entry in await stream.broker.list_state()}
            assert left == {
                name for name in seen[-1] if not (n == 1 and name == "gone") and not (n == 3 and name == "longer")
            }
    both = {"gone": {"n": 0}, "kept": 1}
    assert seen == [{**both, "longer": 2}, {**both, "longer": 3}, {"kept": 1, "longer": 3}, {"kept": 1, "longer": 3}]
    assert await read_letters(stream.broker) == []


@pytest.mark.parametrize("ttl", [0, -1, "soon", "7", True, float("nan"), float("inf"), 1e30, b"7d", "0s"], ids=repr)
async def test_what_is_no_time_to_live_is_its_records_failure(backend: StreamingBackend, ttl: Any) -> None:
    stream = Stream(backend)

    @stream.subscribe(TOPIC, ordering="key", retry=QUICK)
    async def handle(event: Number, ctx: Context) -> None:
        await ctx.state.put("n", 1, ttl=ttl)

    await stream.emit_many(numbers(1))
    await run_until_drained(stream)
    (letter,) = await read_letters(backend.broker)
    assert (letter.error_type, letter.attempts) == ("ConfigurationError", 1)
    assert "state 'n': ttl=" in letter.error
    assert await backend.broker.list_state() == []


async def test_storage_is_freed_in_bounded_steps_while_nothing_comes(
    timed: StreamingBackend, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_expiry, "_FREED_AT_ONCE", 7)
    stream = make(timed, clock, acting([]))
    async with running(stream):
        for key in "abc":
            await stream.emit_many([do(*[["put", str(n), n, n + 1] for n in range(20)], key=key)])
        await stream.emit_many([do(["put", "kept", 1])])
        await drain(stream)
        assert await check_index(stream.broker) == 60
        for left in (30, 0):
            clock.advance(10_000)

            async def is_freed(left: int = left) -> bool:
                return len((await stored(stream.broker))[1]) == left

            await wait_until(is_freed)
            await check_index(stream.broker)
    values, _ = await stored(stream.broker)
    assert values == {state_key(b"a", "kept"): b"1"}


async def test_a_new_owner_frees_what_expired_before(timed: StreamingBackend, clock: ManualClock) -> None:
    stream = make(timed, clock, acting([]))
    await stream.emit_many([do(["put", "n", 1, 10], ["put", "kept", 1])])
    await run_until_drained(stream)
    clock.advance(20_000)
    second = make(timed, clock, acting([]))
    async with running(second):

        async def is_freed() -> bool:
            return await stored(second.broker) == ({state_key(b"a", "kept"): b"1"}, [])

        await wait_until(is_freed)


async def test_a_value_has_one_entry_in_the_index_however_often_it_is_put(
    timed: StreamingBackend, clock: ManualClock, setting: Any
) -> None:
    setting("PSPF_STATE_CACHE_ENTRIES", 0)
    stream = make(timed, clock, acting([]), batch_size=1)
    async with running(stream):
        for n in range(5):
            await stream.emit_many([do(["put", "n", n, 100], ["put", "m", n, 100 + n])])
            await stream.emit_many([do(["put", "n", n, 50], ["delete", "m"])])
            await drain(stream)
            clock.advance(1)
        assert await check_index(stream.broker) == 1
        await stream.emit_many([do(["put", "n", 7])])
        await drain(stream)
        assert await check_index(stream.broker) == 0
        clock.advance(1_000_000)
        await stream.emit_many([do(["put", "x", 7])])
        await drain(stream)
        assert {entry.name for entry in await stream.broker.list_state()} == {"n", "x"}


@pytest.mark.parametrize("how", ["get", "read", "scan"])
async def test_a_clock_that_steps_back_does_not_bring_back_what_was_seen_as_expired(
    timed: StreamingBackend, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    async def free_nothing(*arguments: Any) -> None:
        """Nothing but what handlers see is to be forgotten here."""

    monkeypatch.setattr(state_expiry.StateExpiry, "_free", free_nothing)
    seen: list[Any] = []
    own = ManualClock(clock.now_ms())
    look = {"get": do(["get", "n"]), "read": do(["read", "n", "a"], key="b"), "scan": do(["scan", ""])}[how]
    stream = make(timed, own, acting(seen), batch_size=1)
    await stream.emit_many([do(["put", "n", 1, 10])])
    await run_until_drained(stream)
    own.set_wall(own.now_ms() + 10_000)
    for _ in range(2):
        later = make(timed, own, acting(seen))
        await later.emit_many([look])
        await run_until_drained(later)
        own.set_wall(clock.now_ms())
    nothing: Any = [] if how == "scan" else None
    assert seen == [nothing, nothing]
    assert await stored(stream.broker) == ({}, [])


async def test_a_clock_that_steps_back_does_not_bring_back_what_was_freed(
    timed: StreamingBackend, clock: ManualClock
) -> None:
    seen: list[Any] = []
    own = ManualClock(clock.now_ms())
    stream = make(timed, own, acting(seen), batch_size=1)
    async with running(stream):
        await stream.emit_many([do(["put", "n", 1, 10], ["get", "n"])])
        await drain(stream)
        own.advance(10_000)

        async def is_freed() -> bool:
            return await stored(stream.broker) == ({}, [])

        await wait_until(is_freed)
        own.set_wall(clock.now_ms())
        await stream.emit_many([do(["get", "n"])])
        await drain(stream)
    assert seen == [1, None]


async def test_a_commit_that_frees_the_last_value_knows_of_those_that_it_puts(
    timed: StreamingBackend, clock: ManualClock
) -> None:
    stream = make(timed, clock, acting([]), batch_size=1)
    await stream.emit_many([do(["put", "n", 1, 10])])
    await run_until_drained(stream)
    await stream.emit_many([do(["put", "m", 1, 5]), do(["put", "m", 2])])
    clock.advance(20_000)
    await run_until_drained(stream)
    assert await stored(stream.broker) == ({state_key(b"a", "m"): b"2"}, [])


async def test_a_call_that_fails_leaves_no_time_to_live(timed: StreamingBackend, clock: ManualClock) -> None:
    async def handle(event: Number, ctx: Context) -> None:
        await ctx.state.put("n", event.n)
        if event.n == 1:
            await ctx.state.put("n", 5, ttl=10)
            await ctx.state.put("m", 5, ttl=10)
            raise ValueError("never")

    stream = make(timed, clock, handle)
    async with running(stream):
        await stream.emit_many(numbers(1))
        await drain(stream)
        await stream.emit_many(numbers(1, start=1))

        async def is_dead() -> bool:
            clock.advance(100)
            await stream.broker.ping()
            return bool(await read_letters(stream.broker))

        await wait_until(is_dead)
        assert await stored(stream.broker) == ({state_key(b"a", "n"): b"0"}, [])


async def test_plain_handlers_and_typed_values_have_it_too(timed: StreamingBackend, clock: ManualClock) -> None:
    seen: list[Any] = []

    def handle(event: Number, ctx: SyncContext) -> None:
        typed = ctx.state.model(int, name="typed")
        if event.n == 0:
            ctx.state.put("n", 1, ttl="10s")
            typed.put(2, "10s")
        seen.append([ctx.state.get("n"), typed.get(), typed.read("a"), list(ctx.state.scan())])

    stream = make(timed, clock, handle, batch_size=1)
    for n in range(2):
        await stream.emit_many(numbers(1, start=n))
        await run_until_drained(stream)
        clock.advance(10_000)
    assert seen == [[1, 2, None, [("n", 1), ("typed", 2)]], [None, None, None, []]]


async def test_an_entry_of_the_index_whose_value_was_replaced_by_an_older_version_frees_nothing(
    timed: StreamingBackend, clock: ManualClock
) -> None:
    stream = make(timed, clock, acting([]))
    await stream.emit_many([do(["put", "n", 1, 10], ["put", "m", 1, 10])])
    await run_until_drained(stream)
    later_ms = clock.now_ms() + 60_000
    replaced = {state_key(b"a", "n"): b"2", state_key(b"a", "m"): pack(later_ms, b"3")}
    changes = EntryChanges((), {STATE: replaced, EXPIRY: {expiry_key(later_ms, state_key(b"a", "m")): b""}})
    await overwrite(timed, TOPIC, NAME, changes=changes)
    clock.advance(20_000)
    await stream.emit_many([do(["get", "other"])])
    await run_until_drained(stream)
    assert {entry.name: entry.value for entry in await stream.broker.list_state()} == {"n": b"2", "m": b"3"}
    assert await check_index(stream.broker) == 1


async def test_a_damaged_due_time_is_a_damaged_value(timed: StreamingBackend, clock: ManualClock) -> None:
    stream = make(timed, clock, acting([]))
    await stream.emit_many([do(["put", "n", 1, 10])])
    await run_until_drained(stream)
    await overwrite(timed, TOPIC, NAME, changes=EntryChanges((), {STATE: {state_key(b"a", "n"): b"\0\1"}}))
    await stream.emit_many([do(["get", "n"]), do(["put", "n", 5])])
    await run_until_drained(stream)
    assert [letter.error_type for letter in await read_letters(stream.broker)] == ["StateUnreadable"]
    assert {entry.name: entry.value for entry in await stream.broker.list_state()} == {"n": b"5"}


async def test_a_store_of_the_users_is_told_the_time_to_live(backend: StreamingBackend) -> None:
    clock = ManualClock()
    store, seen = MemoryStateStore(clock=clock), list[Any]()
    stream = Stream(backend, state_store=store)
    stream.processor.clock = clock

    @stream.subscribe(TOPIC, 1, name="counts", retry=QUICK)
    async def handle(event: Number, ctx: Context) -> None:
        if event.n == 0:
            await ctx.state.put("n", 1, ttl="10s")
            await ctx.state.put("kept", 2)
        seen.append(await ctx.state.get_many("n", "kept"))

    for n in range(2):
        await stream.emit_many(numbers(1, start=n))
        await run_until_drained(stream)
        clock.advance(10_000)
    assert seen == [{"n": 1, "kept": 2}, {"kept": 2}]


async def test_nothing_is_stored_for_values_without_one(timed: StreamingBackend, clock: ManualClock) -> None:
    stream = make(timed, clock, acting([]))
    await stream.emit_many([do(["put", "n", 1])])
    await run_until_drained(stream)
    assert await stored(stream.broker) == ({state_key(b"a", "n"): b"1"}, [])


# Against a reference


class Crash(PSPFError):
    """The end of a worker that leaves everything as it is."""


def draw(dice: random.Random, n: int) -> dict[str, Any]:
    """Return an event that does something at random."""
    steps: list[list[Any]] = []
    for _ in range(dice.randrange(1, 4)):
        name = dice.choice("xyz")
        kind = dice.choice(["put", "ttl", "ttl", "delete", "get"])
        if kind == "ttl":
            steps.append(["put", name, n, dice.choice([1, 5, 20])])
        elif kind == "put":
            steps.append(["put", name, n])
        else:
            steps.append([kind, name])
    return do(*steps, key=dice.choice("abcd"))


def apply(model: dict[tuple[str, str], tuple[int, float]], event: dict[str, Any], now_ms: int) -> None:
    """Do to a plain dict what the handler does."""
    for operation, name, *rest in event["do"]:
        place = (event["key"], name)
        if operation == "put":
            model[place] = (rest[0], now_ms + rest[1] * 1_000 if len(rest) > 1 else float("inf"))
        elif operation == "delete":
            model.pop(place, None)


EMBEDDED = pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind.name in ("memory", "sqlite")], ids=lambda kind: kind.name, indirect=True
)


@pytest.mark.parametrize("seed", range(3))
async def test_random_values_equal_a_plain_dict_whoever_owns_them(
    timed: StreamingBackend, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, setting: Any, seed: int
) -> None:
    setting("PSPF_STATE_CACHE_ENTRIES", 3)
    monkeypatch.setattr(state_expiry, "_FREED_AT_ONCE", 2)
    dice, model = random.Random(seed), dict[tuple[str, str], tuple[int, float]]()
    n = 0
    for _ in range(12):
        stream = make(timed, clock, acting([]), batch_size=dice.choice([1, 3, 50]))
        async with running(stream):
            for _ in range(3):
                events = [draw(dice, n := n + 1) for _ in range(dice.randrange(1, 20))]
                await stream.emit_many(events)
                await drain(stream)
                for event in events:
                    apply(model, event, clock.now_ms())
                clock.advance(dice.choice([0, 500, 4_000, 15_000]))
                live = {place: value for place, (value, due_ms) in model.items() if due_ms > clock.now_ms()}
                entries = await stream.broker.list_state()
                found = {(entry.key.decode(), entry.name): json.loads(entry.value) for entry in entries}
                assert found == live, f"seed {seed}"
        await check_index(stream.broker)


@EMBEDDED
@pytest.mark.parametrize("point", ["read.reply", "commit.built"])
async def test_a_crash_between_any_two_steps_leaves_values_and_index_as_one(
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
    stream = make(backend, clock, acting([]), batch_size=2)
    events = [do(["put", "n", n, 10], ["put", str(n), n, 100], ["put", "m", n], ["delete", "0"]) for n in range(6)]
    events += [do(["put", "n", 7], ["delete", "1"], ["put", "2", 5, 10])]
    await stream.emit_many(events)

    def crash() -> None:
        stream.processor.is_abandoned = True
        raise Crash

    monkeypatch.setitem(faults._ACTIONS, "raise", crash)
    faults.arm(f"{point}:{number}:raise")
    task = asyncio.create_task(stream.run_forever())

    async def is_over() -> bool:
        infos = [info for info in await stream.broker.list_cursors() if info.cursor == CURSOR]
        return stream.processor.is_abandoned or (bool(infos) and infos[0].lag == 0)

    try:
        await wait_until(is_over, within_ms=20_000)
    finally:
        faults.arm(None)
    if has_crashed := stream.processor.is_abandoned:
        task.cancel()
        await asyncio.wait([task], timeout=10)
        assert task.done()
        assert task.cancelled() or isinstance(task.exception(), Crash | None)
        later = make(backend, clock, acting([]), batch_size=2)
        await later.broker.ping()
        clock.advance(1)
        await run_until_drained(later, within_ms=20_000)
    else:
        await stream.stop()
        await task
    found = {entry.name: json.loads(entry.value) for entry in await backend.broker.list_state()}
    assert found == {"n": 7, "m": 5, "2": 5, "3": 3, "4": 4, "5": 5}
    assert await check_index(backend.broker) == 4
    return has_crashed
