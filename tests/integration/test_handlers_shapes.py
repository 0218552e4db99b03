"""The shapes that handlers may have, and what each of them gets."""

import asyncio
import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pspf import BaseEvent, Context, Stream
from pspf.connectors.contract.backend import StreamingBackend
from pspf.context import SyncContext
from pspf.records import NewRecord
from tests.integration.running import QUICK, TOPIC, Number, numbers, read_events, read_letters, run_until_drained

Seen = list[Any]


def shapes(seen: Seen) -> dict[str, Callable[..., Any]]:
    """Return a handler of each shape that notes what it got; those with a context emit to `out`."""

    async def event(event: Number) -> None:
        seen.append(event.n)

    async def event_context(event: Number, ctx: Context) -> None:
        seen.append(event.n)
        ctx.emit({"n": event.n}, topic="out")

    async def raw(msg_id, raw_data):  # type: ignore[no-untyped-def]
        seen.append(raw_data["n"])

    async def raw_context(msg_id, raw_data, ctx):  # type: ignore[no-untyped-def]
        assert ctx.record.id == msg_id
        seen.append(raw_data["n"])
        ctx.emit(raw_data, topic="out")

    async def batch(events: list[Number]) -> None:
        seen.extend(event.n for event in events)

    async def batch_context(events: list[Number], ctx: Context) -> None:
        seen.extend(event.n for event in events)
        for each in events:
            ctx.emit({"n": each.n}, topic="out")

    def plain(event: Number) -> None:
        seen.append(event.n)

    def plain_context(event: Number, ctx: SyncContext) -> None:
        seen.append(event.n)
        ctx.emit({"n": event.n}, topic="out")

    def plain_raw_context(msg_id, raw_data, ctx):  # type: ignore[no-untyped-def]
        seen.append(raw_data["n"])
        ctx.emit(raw_data, topic="out")

    def plain_batch_context(events: list[Number], ctx: SyncContext) -> None:
        seen.extend(event.n for event in events)
        for each in events:
            ctx.emit({"n": each.n}, topic="out")

    made = (
        event,
        event_context,
        raw,
        raw_context,
        batch,
        batch_context,
        plain,
        plain_context,
        plain_raw_context,
        plain_batch_context,
    )
    return {function.__name__: function for function in made}


@pytest.mark.parametrize("shape", shapes([]))
@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_a_handler_gets_each_event_once_and_its_emits_take_effect(
    backend: StreamingBackend, shape: str, ordering: Any
) -> None:
    stream = Stream(backend)
    seen: Seen = []
    stream.subscribe(TOPIC, 7, ordering=ordering)(shapes(seen)[shape])
    await stream.emit_many(numbers(20, keys="abc"))
    await run_until_drained(stream)
    assert seen == list(range(20)), "one handler at a time takes the records as they come"
    if "context" in shape:
        assert [event["n"] for event in await read_events(backend.broker, "out")] == list(range(20))


@pytest.mark.parametrize("shape", shapes([]))
@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_a_record_that_can_not_be_read_dies_alone(backend: StreamingBackend, shape: str, ordering: Any) -> None:
    stream = Stream(backend)
    seen: Seen = []
    stream.subscribe(TOPIC, 7, ordering=ordering)(shapes(seen)[shape])
    await stream.emit_many(numbers(2))
    await backend.broker.append(TOPIC, [NewRecord(b"a", b"\xff{")])
    await stream.emit_many(numbers(2, start=2))
    await run_until_drained(stream)
    assert seen == [0, 1, 2, 3]
    (letter,) = await read_letters(backend.broker)
    assert (letter.record.value, letter.attempts, letter.error_type) == (b"\xff{", 1, "SchemaError")


async def test_plain_handlers_run_in_one_thread_a_batch(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    threads: list[int] = []

    @stream.subscribe(TOPIC, 10)
    def handle(event: Number) -> None:
        threads.append(threading.get_ident())

    await stream.emit_many(numbers(10))
    await run_until_drained(stream)
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()


async def test_plain_handlers_run_side_by_side_where_that_was_asked_for(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    meeting = threading.Barrier(3, timeout=5)

    @stream.subscribe(TOPIC, 3, concurrency=3)
    def handle(event: Number) -> None:
        meeting.wait()

    await stream.emit_many(numbers(3))
    await run_until_drained(stream)
    assert await read_letters(backend.broker) == []


async def test_an_async_function_with_bound_arguments_is_async(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    seen: Seen = []

    async def handle(note: Seen, event: Number) -> None:
        note.append((event.n, threading.get_ident()))

    stream.subscribe(TOPIC, name="bound")(functools.partial(handle, seen))
    await stream.emit_many(numbers(1))
    await run_until_drained(stream)
    assert seen == [(0, threading.get_ident())]


async def test_an_object_that_can_be_called_is_a_handler(backend: StreamingBackend) -> None:
    class Handler:
        def __init__(self) -> None:
            self.seen: Seen = []

        async def __call__(self, event: Number) -> None:
            self.seen.append(event.n)

    stream = Stream(backend)
    handler = Handler()
    stream.subscribe(TOPIC)(handler)
    await stream.emit_many(numbers(2))
    await run_until_drained(stream)
    assert handler.seen == [0, 1]


@pytest.mark.parametrize("takes", [Number, list[Number]])
async def test_a_coroutine_behind_a_plain_function_is_a_failure_and_no_success(
    backend: StreamingBackend, takes: Any
) -> None:
    stream = Stream(backend)

    async def handle(event: object) -> None: ...

    def wrapper(event):  # type: ignore[no-untyped-def]
        return handle(event)

    wrapper.__annotations__["event"] = takes
    stream.subscribe(TOPIC, retry=QUICK)(wrapper)
    await stream.emit(numbers(1)[0])
    await run_until_drained(stream)
    (letter,) = await read_letters(backend.broker)
    assert letter.error_type == "ConfigurationError"
    assert "make it async def" in letter.error


async def test_an_event_is_read_as_its_handler_asks(backend: StreamingBackend) -> None:
    stream = Stream(backend, schema=Number)
    seen: dict[str, Any] = {}

    @stream.subscribe(TOPIC)
    async def of_the_stream(event) -> None:  # type: ignore[no-untyped-def]
        seen["stream"] = type(event)

    @stream.subscribe(TOPIC, group="annotated")
    async def annotated(event: dict[str, Any]) -> None:
        seen["annotation"] = type(event)

    @stream.subscribe(TOPIC, group="named", schema=BaseEvent)
    async def named(event: Number) -> None:
        seen["schema"] = type(event)

    record_id = await stream.emit(numbers(1)[0])

    @stream.subscribe(TOPIC, group="offset")
    async def offset(event: Number) -> None:
        seen["offset"] = event.offset

    await run_until_drained(stream)
    assert seen == {"stream": Number, "annotation": dict, "schema": BaseEvent, "offset": record_id}


async def test_concurrency_runs_records_of_one_batch_side_by_side(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    inside = most = 0

    @stream.subscribe(TOPIC, 20, concurrency=8)
    async def handle(event: Number) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0.005)
        inside -= 1

    await stream.emit_many(numbers(40))
    await run_until_drained(stream)
    assert most == 8
