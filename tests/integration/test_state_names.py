"""`ctx.state`: several names in one call, scans over the names of a key, and limits."""

from typing import Any

import pytest

from pspf import Context, Stream
from pspf.connectors.contract.backend import StreamingBackend
from pspf.context import SyncContext
from pspf.state.memory import MemoryStateStore
from tests.integration.running import QUICK, TOPIC, Number, numbers, read_letters, run_until_drained


async def test_several_names_are_read_in_one_call(backend: StreamingBackend) -> None:
    stream, seen = Stream(backend), list[Any]()

    @stream.subscribe(TOPIC, 1, ordering="key")
    async def handle(event: Number, ctx: Context) -> None:
        seen.append(await ctx.state.get_many("a", "b", "gone", "a"))
        await ctx.state.put("a", event.n)
        await ctx.state.put("b", None)
        seen.append(await ctx.state.get_many("b", "a"))
        await ctx.state.delete("b")

    await stream.emit_many(numbers(2))
    await run_until_drained(stream)
    assert seen == [{}, {"b": None, "a": 0}, {"a": 0}, {"b": None, "a": 1}]


NAMES = ["a", "it", "item", "item/", "item/1", "item/2", "item/\0", "item/ü", "item/\U0010ffff", "iten", "item0", ""]


@pytest.mark.parametrize("prefix", ["", "item/", "item", "item/\0", "nothing", "item/ü"])
@pytest.mark.parametrize("page", [1, 2, 100])
@pytest.mark.parametrize("is_plain", [False, True], ids=["async", "plain"])
async def test_a_scan_gives_the_names_of_its_key_with_what_is_not_committed(
    backend: StreamingBackend, monkeypatch: pytest.MonkeyPatch, prefix: str, page: int, is_plain: bool
) -> None:
    monkeypatch.setattr("pspf.context.state._FIRST_PAGE", page)
    stream, found = Stream(backend), list[Any]()

    async def handle(event: Number, ctx: Context) -> None:
        for name in NAMES[event.n :: 3]:
            await ctx.state.put(name, [event.n, name])
        if event.n == 2:
            await ctx.state.delete("item/1")
            found.append([each async for each in ctx.state.scan(prefix)])

    def handle_plain(event: Number, ctx: SyncContext) -> None:
        for name in NAMES[event.n :: 3]:
            ctx.state.put(name, [event.n, name])
        if event.n == 2:
            ctx.state.delete("item/1")
            found.append(list(ctx.state.scan(prefix)))

    chosen: Any = handle_plain if is_plain else handle
    # The first record of each key is committed before, the second is in the batch of the third.
    stream.subscribe(TOPIC, ordering="key", name="names", retry=QUICK)(chosen)
    await stream.emit_many([{"n": 0, "key": key} for key in ("a", "a\0", "", "b", "\0")])
    await run_until_drained(stream)
    await stream.emit_many([{"n": n, "key": key} for n in (1, 2) for key in ("a", "b", "a\0")])
    await run_until_drained(stream)
    expected = [
        (name, [at % 3, name])
        for name, at in sorted((name, at) for at, name in enumerate(NAMES))
        if name.startswith(prefix) and name != "item/1"
    ]
    assert found == [expected] * 3
    assert await read_letters(backend.broker) == []


async def test_a_scan_sees_what_is_changed_during_it(
    backend: StreamingBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pspf.context.state._FIRST_PAGE", 2)
    stream, found = Stream(backend), list[Any]()

    @stream.subscribe(TOPIC, 1, ordering="key", name="names", retry=QUICK)
    async def handle(event: Number, ctx: Context) -> None:
        if event.n == 0:
            for n in range(10):
                await ctx.state.put(str(n), n)
            return
        async for name, value in ctx.state.scan():
            found.append((name, value))
            await ctx.state.delete(name)
            if name == "3":
                await ctx.state.delete("4")
                await ctx.state.put("5", "new")
                await ctx.state.put("77", "behind")
                await ctx.state.put("00", "before")
        found.append([name async for name, _ in ctx.state.scan()])

    await stream.emit_many(numbers(2))
    await run_until_drained(stream)
    expected: list[Any] = [(str(n), "new" if n == 5 else n) for n in range(10) if n != 4]
    expected.insert(-2, ("77", "behind"))
    assert found == [*expected, ["00"]]


async def test_a_large_scan_reads_bounded_pages(backend: StreamingBackend) -> None:
    stream, found = Stream(backend), list[tuple[str, int]]()

    @stream.subscribe(TOPIC, 1, ordering="key", name="names")
    async def handle(event: Number, ctx: Context) -> None:
        if event.n < 3:
            for each in range(1_000):
                await ctx.state.put(f"{event.n}/{each:04}", "x" * 1_000)
            return
        async for name, value in ctx.state.scan():
            found.append((name, len(value)))

    await stream.emit_many(numbers(4))
    await run_until_drained(stream, within_ms=20_000)
    assert found == [(f"{n}/{each:04}", 1_000) for n in range(3) for each in range(1_000)]


async def test_a_store_of_the_users_reads_several_names_and_lists_none(backend: StreamingBackend) -> None:
    stream, seen = Stream(backend, state_store=MemoryStateStore()), list[Any]()

    @stream.subscribe(TOPIC, 1, name="counts", retry=QUICK)
    async def handle(event: Number, ctx: Context) -> None:
        seen.append(await ctx.state.get_many("a", "b"))
        await ctx.state.put("a", event.n)
        if event.n == 1:
            [each async for each in ctx.state.scan()]

    await stream.emit_many(numbers(3))
    await run_until_drained(stream)
    assert seen == [{}, {"a": 0}, {"a": 0}]
    (letter,) = await read_letters(backend.broker)
    assert (letter.error_type, letter.attempts) == ("NotAvailable", 1)
    assert 'ordering="key"' in letter.error


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [("n" * 1_025, 1, "1,025 bytes"), ("ü" * 513, 1, "at most 1,024"), ("n", 3_000, "'n' of 3,002 bytes")],
)
@pytest.mark.parametrize("is_plain", [False, True], ids=["async", "plain"])
async def test_what_is_too_large_is_its_records_failure_and_says_what_and_how_large(
    backend: StreamingBackend, setting: Any, name: str, size: int, words: str, is_plain: bool
) -> None:
    setting("PSPF_MAX_RECORD_EFFECT_BYTES", 3_000)
    stream = Stream(backend)

    async def handle(event: Number, ctx: Context) -> None:
        if event.n == 1:
            await ctx.state.put(name, "x" * size)
        await ctx.state.put("n", event.n)

    def handle_plain(event: Number, ctx: SyncContext) -> None:
        if event.n == 1:
            ctx.state.put(name, "x" * size)
        ctx.state.put("n", event.n)

    chosen: Any = handle_plain if is_plain else handle
    stream.subscribe(TOPIC, ordering="key", retry=QUICK, name="large")(chosen)
    await stream.emit_many(numbers(3))
    await run_until_drained(stream)
    (letter,) = await read_letters(backend.broker)
    assert letter.attempts == 1
    assert words in letter.error
    async with stream:
        assert await stream.read_state(chosen, "a", "n") == 2
