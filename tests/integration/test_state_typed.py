"""`ctx.state.model`: typed values, models that changed, and whose records fail of it."""

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, field_validator

from pspf import Context, Stream
from pspf.connectors.contract.backend import StreamingBackend
from pspf.context import SyncContext
from tests.integration.running import QUICK, TOPIC, Number, numbers, read_letters, run_until_drained
from tests.integration.test_state_damaged import overwrite
from tests.support.workers import state_changes


class Stats(BaseModel):
    total: Decimal = Decimal(0)
    last: datetime | None = None


@dataclass
class Seen:
    names: set[str]


async def test_a_typed_value_is_read_as_its_type_in_the_batch_and_after_it(backend: StreamingBackend) -> None:
    stream, found = Stream(backend), list[Any]()

    @stream.subscribe(TOPIC, ordering="key", name="typed", retry=QUICK)
    async def handle(event: Number, ctx: Context) -> None:
        stats = await ctx.state.model(Stats).get() or Stats()
        stats.total += Decimal("0.1")
        stats.last = datetime(2026, 1, event.n + 1, tzinfo=UTC)
        await ctx.state.model(Stats).put(stats)
        seen = ctx.state.model(Seen, name="seen")
        before = await seen.get()
        await seen.put(Seen({str(event.n)} | (before.names if before else set())))
        last = ctx.state.model(datetime, name="last")
        assert await last.read("nobody") is None
        await last.put(stats.last)
        if event.n == 1:
            await ctx.state.model(Decimal, name="gone").put(Decimal(1))
            await ctx.state.model(Decimal, name="gone").delete()
        found.append((await ctx.state.model(Stats).get(), await seen.get(), await last.read("a")))

    await stream.emit_many(numbers(2))
    await run_until_drained(stream)
    await stream.emit_many(numbers(1, start=2))
    await run_until_drained(stream)
    assert await read_letters(backend.broker) == []
    at = datetime(2026, 1, 3, tzinfo=UTC)
    assert found[2] == (Stats(total=Decimal("0.3"), last=at), Seen({"0", "1", "2"}), datetime(2026, 1, 2, tzinfo=UTC))
    async with stream:
        assert await stream.read_state(handle, "a", "Stats") == {"total": "0.3", "last": "2026-01-03T00:00:00Z"}
        assert await stream.read_state(handle, "a", "gone") is None


async def test_plain_handlers_have_typed_values_whose_calls_block(backend: StreamingBackend) -> None:
    stream, found = Stream(backend), list[Any]()

    @stream.subscribe(TOPIC, ordering="key", name="typed", retry=QUICK)
    def handle(event: Number, ctx: SyncContext) -> None:
        stats = ctx.state.model(Stats)
        now = stats.get() or Stats()
        now.total += 1
        stats.put(now)
        ctx.state.model(Seen).put(Seen(set()))
        ctx.state.model(Seen).delete()
        found.append((stats.get(), stats.read("b"), ctx.state.model(Seen).get()))

    await stream.emit_many(numbers(2))
    await run_until_drained(stream)
    assert await read_letters(backend.broker) == []
    assert found == [(Stats(total=Decimal(n)), None, None) for n in (1, 2)]


async def test_a_value_of_another_type_is_its_records_failure(backend: StreamingBackend) -> None:
    stream = Stream(backend)

    @stream.subscribe(TOPIC, ordering="key", name="typed", retry=QUICK)
    async def handle(event: Number, ctx: Context) -> None:
        wrong: Any = {"total": event.n}
        if event.n == 1:
            await ctx.state.model(Stats).put(wrong)
        if event.n == 2:
            await ctx.state.model(Decimal).put(Decimal(1))
        await ctx.state.put("n", event.n)

    await stream.emit_many(numbers(4))
    await run_until_drained(stream)
    letters = await read_letters(backend.broker)
    assert [(letter.error_type, letter.attempts) for letter in letters] == [
        ("EventRejected", 1),
        ("ConfigurationError", 1),
    ]
    assert "give it name=" in letters[1].error
    async with stream:
        assert await stream.read_state(handle, "a", "n") == 3


class Changed(BaseModel):
    """What `Stats` was changed to."""

    cents: int

    @field_validator("cents")
    @classmethod
    def check(cls, cents: int) -> int:
        if cents == 666:
            raise RuntimeError("a validator of the user's")
        return cents


def changing(backend: StreamingBackend, seen: list[Any], **options: Any) -> Stream:
    stream = Stream(backend)

    @stream.subscribe("orders", name="typed", ordering="key", retry=QUICK)
    async def handle(event: Number, ctx: Context) -> None:
        stats = ctx.state.model(Changed, name="Stats", **options)
        changed = await stats.get()
        seen.append((event.key, changed and changed.cents))
        await stats.put(changed or Changed(cents=0))

    return stream


async def store_old_values(backend: StreamingBackend, **values: bytes) -> None:
    stream = changing(backend, [])
    await stream.emit_many([{"n": 0, "key": key} for key in values], "orders")
    await run_until_drained(stream)
    changes = state_changes({(key.encode(), "Stats"): value for key, value in values.items()})
    await overwrite(backend, "orders", "typed", changes=changes)


async def test_an_old_value_makes_dead_letters_of_its_key_alone_at_once_with_the_way_out(
    backend: StreamingBackend,
) -> None:
    await store_old_values(backend, a=b'{"total":"1.5"}', b=b'{"cents":5}', c=b'{"cents":666}', d=b'{"cen')
    seen: list[Any] = []
    stream = changing(backend, seen)
    await stream.emit_many(numbers(8, keys="abcd"), "orders")
    await run_until_drained(stream)
    assert seen == [("b", 5), ("b", 5)]
    letters = await read_letters(stream.broker)
    assert [(letter.error_type, letter.attempts) for letter in letters] == [("StateUnreadable", 1)] * 6
    assert all(word in letters[0].error for word in ("'Stats' of key b'a'", "upcast=", "pspf state get", "dlq replay"))


async def test_upcast_mends_old_values_and_what_it_raises_is_its_records_failure(backend: StreamingBackend) -> None:
    await store_old_values(backend, a=b'{"total":"1.5"}', b=b'{"cents":5}', c=b'{"total":"x"}', d=b'{"tot', e=b"7")
    seen: list[Any] = []

    def upcast(old: Any) -> Any:
        if old == 7:
            return {"cents": "none"}
        return {"cents": int(float(old["total"]) * 100)}

    stream = changing(backend, seen, upcast=upcast)
    await stream.emit_many(numbers(5, keys="abcde"), "orders")
    await run_until_drained(stream)
    assert sorted(seen) == [("a", 150), ("b", 5)]
    letters = await read_letters(stream.broker)
    found = {letter.record.raw_key: (letter.error_type, letter.attempts) for letter in letters}
    assert found == {b"c": ("ValueError", 3), b"d": ("StateUnreadable", 1), b"e": ("StateUnreadable", 1)}
    async with stream:
        assert await stream.read_state("typed", "a", "Stats") == {"cents": 150}


async def test_upcast_may_return_the_value_itself_and_is_no_coroutine(backend: StreamingBackend) -> None:
    await store_old_values(backend, a=b'{"total":"1.5"}')
    seen: list[Any] = []
    stream = changing(backend, seen, upcast=lambda old: Changed(cents=3))
    await stream.emit_many(numbers(1), "orders")
    await run_until_drained(stream)
    assert seen == [("a", 3)]
    await store_old_values(backend, a=b'{"total":"1.5"}')

    async def upcast(old: Any) -> Any:
        return old

    stream = changing(backend, seen, upcast=upcast)
    await stream.emit_many(numbers(1), "orders")
    await run_until_drained(stream)
    letters = await read_letters(stream.broker)
    assert "upcast= of state 'Stats' is async" in letters[-1].error


async def test_a_handler_can_replace_what_it_can_not_read(backend: StreamingBackend) -> None:
    await store_old_values(backend, a=b'{"total":"1.5"}', b=b'{"cen')
    stream = Stream(backend)

    @stream.subscribe("orders", name="typed", ordering="key", retry=QUICK)
    async def handle(event: Number, ctx: Context) -> None:
        if event.key == "a":
            await ctx.state.model(Changed, name="Stats").put(Changed(cents=1))
        else:
            await ctx.state.delete("Stats")

    await stream.emit_many(numbers(2, keys="ab"), "orders")
    await run_until_drained(stream)
    assert await read_letters(stream.broker) == []
    async with stream:
        assert await stream.read_state("typed", "a", "Stats") == {"cents": 1}
        assert await stream.read_state("typed", "b", "Stats") is None


@pytest.mark.parametrize("value", [Decimal(1), b"bytes", {1, 2}, float("nan")], ids=str)
async def test_a_plain_put_of_what_json_can_not_hold_names_the_typed_way(backend: StreamingBackend, value: Any) -> None:
    stream = Stream(backend)

    @stream.subscribe(TOPIC, ordering="key", retry=QUICK)
    async def handle(event: Number, ctx: Context) -> None:
        await ctx.state.put("n", value)

    await stream.emit_many(numbers(1))
    await run_until_drained(stream)
    (letter,) = await read_letters(backend.broker)
    assert (letter.error_type, letter.attempts) == ("EventRejected", 1)
    assert isinstance(value, float) or "ctx.state.model" in letter.error
