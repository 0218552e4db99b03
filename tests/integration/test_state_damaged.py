"""Remembered values and windows that can't be read: whose records are refused, and who sees it."""

from typing import Any

from pspf import BaseEvent, Context, Stream, Sum, TumblingWindow
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.contract.membership import Session
from pspf.connectors.views import as_json_entry
from pspf.records import Commit, Cursor, OperatorProgress
from pspf.runtime.worker.monitor import Monitor
from tests.integration.running import read_letters, run_until_drained, running, until
from tests.support.brokers import leased
from tests.support.workers import state_changes


async def overwrite(backend: StreamingBackend, topic: str, handler: str, **changes: Any) -> None:
    """Put something else in the place of what a handler has stored."""
    session: Session = await backend.broker.open_session()
    try:
        consumer = None
        while consumer is None:
            consumer = await leased(session).acquire(Cursor(topic, backend.group_name, handler, 0))
        assert consumer.lease is not None
        await consumer.commit(Commit(b"0" * 12, position=consumer.lease.position, **changes))
        await consumer.release()
    finally:
        await session.close()


def counting(backend: StreamingBackend, seen: list[tuple[str, int]]) -> Stream:
    stream = Stream(backend)

    @stream.subscribe("orders", name="total", ordering="key")
    async def total(event: BaseEvent, ctx: Context) -> None:
        count = await ctx.state.get("n", 0) + 1
        await ctx.state.put("n", count)
        seen.append((str(event.key), count))

    return stream


async def test_a_damaged_value_makes_dead_letters_of_its_key_alone_at_once_with_the_way_out(
    backend: StreamingBackend,
) -> None:
    seen: list[tuple[str, int]] = []
    stream = counting(backend, seen)
    await stream.emit_many([{"key": key} for key in "ab"], "orders")
    await run_until_drained(stream)
    await overwrite(backend, "orders", "total", changes=state_changes({(b"a", "n"): b'{"n": '}))
    seen.clear()
    await stream.emit_many([{"key": key} for key in "aabb"], "orders")
    await run_until_drained(stream)
    assert seen == [("b", 2), ("b", 3)]
    letters = await read_letters(stream.broker)
    assert [(letter.record.raw_key, letter.error_type, letter.attempts) for letter in letters] == [
        (b"a", "StateUnreadable", 1)
    ] * 2
    assert all(word in letters[0].error for word in ("pspf state get", "ctx.state", "--reset-state"))


async def test_a_damaged_value_is_shown_as_its_bytes(backend: StreamingBackend) -> None:
    stream = counting(backend, [])
    await stream.emit({"key": "a"}, "orders")
    await run_until_drained(stream)
    await overwrite(backend, "orders", "total", changes=state_changes({(b"a", "n"): b"{"}))
    (entry,) = await stream.broker.list_state()
    shown = as_json_entry(entry)
    assert (shown["value"], shown["raw"]) == (None, "ew==")


async def test_a_handler_that_stands_still_is_named_by_readiness(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    stream.window("ticks", TumblingWindow(10_000), name="w", emit="final", to="out")(Sum("v"))
    await stream.emit({"timestamp": 1, "v": 1, "key": "k"}, "ticks")
    await run_until_drained(stream)
    await overwrite(backend, "ticks", "w", progress=OperatorProgress(0, b"{"))
    monitor = Monitor(stream, lambda: "running", lambda subscription: True)
    async with running(stream):
        await until(lambda: bool(monitor.take_pulse().unread))
        (why,) = monitor.take_pulse().unread
    assert "stands still" in why
    assert "ticks" in why
    assert "--reset-state" in why
