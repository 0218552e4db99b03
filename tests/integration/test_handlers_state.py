"""`ctx.state`, and the bounds of what a batch may do."""

from pathlib import Path
from typing import Any

import pytest

from pspf import Context, RetryPolicy, Stream
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.sqlite import SQLiteBackend, SQLiteBroker, row_writing, session
from pspf.connectors.sqlite.entry_log import Pool, Size
from pspf.context import SyncContext
from pspf.errors import BackendUnavailable
from pspf.state.memory import MemoryStateStore
from tests.integration.running import QUICK, TOPIC, Number, numbers, read_events, read_letters, run_until_drained


@pytest.mark.parametrize("cache_entries", [0, 1, 100])
@pytest.mark.parametrize("batch_size", [1, 7, None])
async def test_state_counts_exactly_whatever_fails_and_however_little_is_cached(
    backend: StreamingBackend, setting: Any, cache_entries: int, batch_size: int | None
) -> None:
    setting("PSPF_STATE_CACHE_ENTRIES", cache_entries)
    stream = Stream(backend)
    failed: set[int] = set()

    @stream.subscribe(TOPIC, batch_size, ordering="key", retry=QUICK)
    async def handle(event: Number, ctx: Context) -> None:
        seen = await ctx.state.get("seen", [])
        seen.append(event.n)
        await ctx.state.put("seen", seen)
        if event.n % 5 == 0 and event.n not in failed:
            failed.add(event.n)
            raise ValueError("once")

    await stream.emit_many(numbers(30, keys="abc"))
    await run_until_drained(stream)
    async with stream:
        for place, key in enumerate("abc"):
            assert await stream.read_state(handle, key, "seen") == list(range(place, 30, 3))


async def test_state_counts_exactly_while_a_full_log_becomes_rows_under_changing_owners(
    tmp_path: Path, setting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting("PSPF_STATE_CACHE_ENTRIES", 1)
    monkeypatch.setattr(session, "Pool", lambda: Pool(Size(commits=3, entries=6)))
    for name, least in (("_LEAST_ROWS", 4), ("_ROWS", 2), ("_SORTED_AT_ONCE", 3), ("_DELETED_BYTES", 50)):
        monkeypatch.setattr(row_writing, name, least)
    events, seen = numbers(400, keys="abcdefghijklmnopqrst"), 0
    for begin in range(0, 400, 100):
        stream = Stream(SQLiteBackend(tmp_path / "b.db", stream_key=TOPIC))

        @stream.subscribe(TOPIC, 5, ordering="key", name="count")
        async def count(event: Number, ctx: Context) -> None:
            nonlocal seen
            if event.n % 7 == 0:
                await ctx.state.delete("gone")
            else:
                await ctx.state.put("gone", event.n)
            await ctx.state.put("n", await ctx.state.get("n", 0) + 1)
            seen += 1

        await stream.emit_many(events[begin : begin + 100])
        await run_until_drained(stream, within_ms=20_000)
    assert seen == 400
    async with SQLiteBroker(tmp_path / "b.db") as broker:
        found = {(entry.key, entry.name): entry.value for entry in await broker.list_state()}
        logged = await broker._engine.read(lambda storage: storage.rows("SELECT count(*) FROM entry_log"))
    assert {value for (_, name), value in found.items() if name == "n"} == {b"20"}
    last = {event["key"]: event["n"] for event in events}
    expected = {(key.encode(), "gone"): str(n).encode() for key, n in last.items() if n % 7}
    assert {place: value for place, value in found.items() if place[1] == "gone"} == expected
    assert logged[0][0] < 40, "of 80 commits: the others have become rows"


async def test_a_call_sees_what_it_has_changed_and_a_failed_one_leaves_nothing(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    seen: list[Any] = []

    @stream.subscribe(TOPIC, ordering="key", retry=QUICK)
    async def handle(event: Number, ctx: Context) -> None:
        seen.append([await ctx.state.get("a"), await ctx.state.get("b", 0)])
        await ctx.state.put("a", {"n": event.n})
        await ctx.state.delete("b")
        seen.append([await ctx.state.get("a"), await ctx.state.get("b", 0)])
        if event.n == 1 and ctx.attempt == 1:
            raise ValueError("once")
        await ctx.state.put("b", 5)
        if event.n == 2:
            await ctx.state.delete("a")

    await stream.emit_many(numbers(3))
    await run_until_drained(stream)
    nothing, first, second = [None, 0], [{"n": 0}, 5], [{"n": 1}, 5]
    assert seen == [
        nothing,
        [{"n": 0}, 0],
        first,
        [{"n": 1}, 0],
        first,  # the failed call left nothing
        [{"n": 1}, 0],
        second,
        [{"n": 2}, 0],
    ]
    async with stream:
        assert await stream.read_state(handle, "a", "a") is None
        assert await stream.read_state(handle, "a", "b") == 5


async def test_what_a_handler_does_to_a_value_it_got_changes_nothing(backend: StreamingBackend) -> None:
    stream = Stream(backend)

    @stream.subscribe(TOPIC, ordering="key", retry=RetryPolicy(1))
    async def handle(event: Number, ctx: Context) -> None:
        mine = {"list": [event.n]}
        if event.n == 0:
            await ctx.state.put("value", mine)
            mine["list"].append(99)
        (await ctx.state.get("value"))["list"].append(98)
        assert await ctx.state.get("value") == {"list": [0]}

    await stream.emit_many(numbers(3))
    await run_until_drained(stream)
    assert await read_letters(backend.broker) == []


async def test_another_keys_state_can_be_read(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    seen: list[Any] = []

    @stream.subscribe(TOPIC, ordering="key")
    async def handle(event: Number, ctx: Context) -> None:
        seen.append([await ctx.state.read(other, "n", "none") for other in "ab"])
        await ctx.state.put("n", event.n)

    await stream.emit_many(numbers(3, keys="ab"))
    await run_until_drained(stream)
    assert seen == [["none", "none"], [0, "none"], [0, 1]]


async def test_plain_handlers_have_state_whose_calls_block(backend: StreamingBackend) -> None:
    stream = Stream(backend)

    @stream.subscribe(TOPIC, ordering="key")
    def handle(event: Number, ctx: SyncContext) -> None:
        ctx.state.put("sum", ctx.state.get("sum", 0) + event.n)
        ctx.state.put("other", ctx.state.read("b", "sum"))
        ctx.state.delete("never")

    await stream.emit_many(numbers(10, keys="ab"))
    await run_until_drained(stream)
    async with stream:
        assert await stream.read_state(handle, "a", "sum") == 20
        assert await stream.read_state(handle, "b", "sum") == 25
        assert await stream.read_state(handle, "a", "other") == 16


@pytest.mark.parametrize(
    ("options", "event", "reason"),
    [
        ({}, {"n": 0, "key": "a"}, "is not ordered, and state is"),
        ({"ordering": "key"}, {"n": 0}, "has no key, and state belongs to a key"),
    ],
)
async def test_state_where_there_is_none_is_an_error_that_says_why(
    backend: StreamingBackend, options: Any, event: Any, reason: str
) -> None:
    stream = Stream(backend)

    @stream.subscribe(TOPIC, retry=QUICK, **options)
    async def handle(event: Number, ctx: Context) -> None:
        await ctx.state.put("n", 1)

    await stream.emit(event)
    await run_until_drained(stream)
    (letter,) = await read_letters(backend.broker)
    assert letter.error_type == "StateUnavailable"
    assert reason in letter.error


@pytest.mark.parametrize("put", [("\ud800", 1), (5, 1), ("n", {1}), ("n", float("nan")), ("n", 1 << 70)])
async def test_state_that_can_not_be_stored_is_its_records_failure(backend: StreamingBackend, put: Any) -> None:
    stream = Stream(backend)

    @stream.subscribe(TOPIC, ordering="key", retry=QUICK)
    async def handle(event: Number, ctx: Context) -> None:
        if event.n == 1:
            await ctx.state.put(*put)
        await ctx.state.put("n", event.n)

    await stream.emit_many(numbers(3))
    await run_until_drained(stream)
    (letter,) = await read_letters(backend.broker)
    assert (letter.error_type, letter.attempts) == ("EventRejected", 1)
    async with stream:
        assert await stream.read_state(handle, "a", "n") == 2


@pytest.mark.parametrize("name", ["\ud800", 5, None], ids=["no UTF-8", "number", "none"])
@pytest.mark.parametrize("of", ["own", "other"])
@pytest.mark.parametrize("is_plain", [False, True], ids=["async", "plain"])
async def test_a_name_that_can_not_be_read_fails_its_own_record_and_no_other(
    backend: StreamingBackend, name: Any, of: str, is_plain: bool
) -> None:
    stream = Stream(backend)

    async def handle(event: Number, ctx: Context) -> None:
        if event.n == 1:
            await (ctx.state.get(name) if of == "own" else ctx.state.read("b", name))
        await ctx.state.put("sum", await ctx.state.get("sum", 0) + event.n)

    def handle_plain(event: Number, ctx: SyncContext) -> None:
        if event.n == 1:
            _ = ctx.state.get(name) if of == "own" else ctx.state.read("b", name)
        ctx.state.put("sum", ctx.state.get("sum", 0) + event.n)

    chosen = handle_plain if is_plain else handle
    stream.subscribe(TOPIC, ordering="key", retry=QUICK, name="handle")(chosen)
    await stream.emit_many(numbers(6))
    await run_until_drained(stream)
    (letter,) = await read_letters(backend.broker)
    assert (letter.error_type, letter.attempts) == ("EventRejected", 1)
    async with stream:
        assert await stream.read_state(chosen, "a", "sum") == 14


class Away(MemoryStateStore):
    """A store that is away for the first write."""

    writes = 0

    async def write_entries(self, changes: Any, *, now_ms: int) -> None:
        self.writes += 1
        if self.writes == 1:
            raise BackendUnavailable("away")
        await super().write_entries(changes, now_ms=now_ms)


async def test_a_users_store_holds_the_state_of_a_shared_handler(backend: StreamingBackend) -> None:
    store = Away()
    stream = Stream(backend, state_store=store)

    @stream.subscribe(TOPIC, name="counts", retry=QUICK)
    async def handle(event: Number, ctx: Context) -> None:
        await ctx.state.put("n", await ctx.state.get("n", 0) + 1)
        if ctx.attempt == 1 and event.n == 3:
            raise ValueError("once")
        if event.n == 4:
            await ctx.state.delete("n")

    await stream.emit_many(numbers(4, keys="a"))
    await stream.emit({"n": 4, "key": "b/%"})
    await stream.emit({"n": 5, "key": "b/%"})
    await run_until_drained(stream)
    async with store:
        assert await store.get("counts/a/n") == 4
        assert await store.get("counts/b%2F%25/n") == 1
    assert store.writes > 1


# What a batch may do


@pytest.mark.parametrize("shape", ["async", "side by side", "plain", "batch"])
@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_a_batch_is_closed_early_where_it_does_much_and_nothing_runs_twice(
    backend: StreamingBackend, setting: Any, shape: str, ordering: Any
) -> None:
    setting("PSPF_MAX_OPERATIONS", 20)
    stream = Stream(backend)
    runs: list[int] = []

    def note(n: int, ctx: Context) -> None:
        runs.append(n)
        for each in range(4):
            ctx.emit({"n": n, "each": each}, topic="out")

    async def of_one(event: Number, ctx: Context) -> None:
        note(event.n, ctx)

    def plain(event: Number, ctx: SyncContext) -> None:
        note(event.n, ctx)

    async def batch(events: list[Number], ctx: Context) -> None:
        if len(events) > 5:
            raise ValueError("too many at once")
        for event in events:
            note(event.n, ctx)

    handler: Any = {"async": of_one, "side by side": of_one, "plain": plain, "batch": batch}[shape]
    concurrency = 3 if shape == "side by side" else 1
    stream.subscribe(TOPIC, 50, ordering=ordering, concurrency=concurrency, name="much")(handler)
    await stream.emit_many(numbers(50, keys="abcdefg"))
    await run_until_drained(stream)
    assert sorted(runs) == list(range(50))
    emitted = [(event["n"], event["each"]) for event in await read_events(backend.broker, "out")]
    assert sorted(emitted) == [(n, each) for n in range(50) for each in range(4)]
    (counters,) = stream.telemetry.snapshot()
    assert counters.batches >= 6
    assert counters.processed == 50


@pytest.mark.parametrize("by", ["operations", "bytes"])
async def test_a_record_that_does_too_much_is_not_retried(backend: StreamingBackend, setting: Any, by: str) -> None:
    setting("PSPF_MAX_RECORD_OPERATIONS", 10)
    setting("PSPF_MAX_RECORD_EFFECT_BYTES", 10_000)
    stream = Stream(backend)
    runs: list[int] = []

    @stream.subscribe(TOPIC, ordering="key", retry=QUICK)
    async def handle(event: Number, ctx: Context) -> None:
        runs.append(event.n)
        for each in range(11 if event.n == 1 and by == "operations" else 1):
            ctx.emit({"n": event.n, "each": each}, topic="out")
        await ctx.state.put("n", "x" * (10_000 if event.n == 1 and by == "bytes" else 1))

    await stream.emit_many(numbers(3))
    await run_until_drained(stream)
    assert runs == [0, 1, 2]
    (letter,) = await read_letters(backend.broker)
    assert (letter.error_type, letter.attempts) == ("TooManyEffects", 1)
    assert [event["n"] for event in await read_events(backend.broker, "out")] == [0, 2]


@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_calls_side_by_side_that_outgrow_one_commit_run_again(
    backend: StreamingBackend, setting: Any, ordering: Any
) -> None:
    setting("PSPF_MAX_OPERATIONS", 5)
    setting("PSPF_MAX_RECORD_OPERATIONS", 20)
    stream = Stream(backend)

    @stream.subscribe(TOPIC, 50, ordering=ordering, concurrency=8)
    async def handle(event: Number, ctx: Context) -> None:
        for each in range(19):
            ctx.emit({"n": event.n, "each": each}, topic="out")

    await stream.emit_many(numbers(16, keys="abcdefghijklmnop"))
    await run_until_drained(stream)
    emitted = [(event["n"], event["each"]) for event in await read_events(backend.broker, "out")]
    assert sorted(emitted) == [(n, each) for n in range(16) for each in range(19)]
    assert await read_letters(backend.broker) == []
    assert max(counters.failed for counters in stream.telemetry.snapshot()) == 0
