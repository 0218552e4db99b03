"""Emitting: from outside, and from inside of a handler but past its commit."""

import asyncio
from typing import Any

import pytest

from pspf import BaseEvent, Context, Stream
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.memory import MemoryBroker
from pspf.errors import BackendUnavailable, ConfigurationError, EmitUnknown, EventRejected
from pspf.records import Appended, NewRecord
from tests.integration.running import (
    GROUP,
    QUICK,
    TOPIC,
    Number,
    numbers,
    read_events,
    read_letters,
    run_until_drained,
)


async def test_an_emit_returns_the_records_id_and_a_second_one_of_its_event_the_same(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    first = await stream.emit(Number(n=1, event_id="one"))
    assert await stream.emit(Number(n=2)) != first
    assert await stream.emit(Number(n=3, event_id="one")) == first
    assert await stream.emit_many([]) == []
    assert [event["n"] for event in await read_events(backend.broker, TOPIC)] == [1, 2]
    await stream.stop()


@pytest.mark.parametrize("event", ["text", 5, None, Number, [1]])
async def test_what_is_no_event_is_refused(backend: StreamingBackend, event: Any) -> None:
    stream = Stream(backend)
    with pytest.raises(ValueError, match="an event is a pydantic model, "):
        await stream.emit(event)
    with pytest.raises(EventRejected):
        await stream.emit_many([{"n": 1}, event])
    await stream.stop()
    assert await read_events(backend.broker, TOPIC) == []


async def test_a_companion_topic_is_not_for_emitting(backend: StreamingBackend) -> None:
    stream = Stream(backend)

    @stream.subscribe(TOPIC, retry=QUICK)
    async def handle(event: Number, ctx: Context) -> None:
        ctx.emit({"n": 1}, topic=f"{TOPIC}-dlq")

    with pytest.raises(ConfigurationError, match="by PSPF alone"):
        await stream.emit({"n": 1}, topic=f"{TOPIC}-late")
    await stream.emit(numbers(1)[0])
    await run_until_drained(stream)
    assert [letter.error_type for letter in await read_letters(backend.broker)] == ["ConfigurationError"]


@pytest.mark.parametrize("shape", ["plain async", "async", "side by side", "batch", "thread"])
async def test_emitting_past_the_commit_is_warned_about_once_and_absorbed_when_run_again(
    backend: StreamingBackend, shape: str, caplog: pytest.LogCaptureFixture
) -> None:
    stream = Stream(backend, partitions=3)
    loop = asyncio.get_running_loop()
    failed: set[int] = set()

    def fail_once(n: int) -> None:
        if n not in failed:
            failed.add(n)
            raise ValueError("once")

    async def of_one(event: Number) -> None:
        await stream.emit({"n": event.n, "call": 1}, topic="out")
        await stream.emit(BaseEvent.model_validate({"n": event.n, "call": 2}), topic="out")
        fail_once(event.n)

    async def with_context(event: Number, ctx: Context) -> None:
        await of_one(event)

    async def batch(events: list[Number]) -> None:
        for event in events:
            await stream.emit_many([{"n": event.n, "call": call} for call in (1, 2)], topic="out")
        for event in events:
            fail_once(event.n)

    def plain(event: Number) -> None:
        for call in (1, 2):
            emit = stream.emit({"n": event.n, "call": call}, topic="out")
            asyncio.run_coroutine_threadsafe(emit, loop).result()
        fail_once(event.n)

    handlers: dict[str, Any] = {"async": with_context, "batch": batch, "thread": plain}
    concurrency = 4 if shape == "side by side" else 1
    stream.subscribe(TOPIC, 1 if shape == "batch" else 4, concurrency=concurrency, retry=QUICK, name="emits")(
        handlers.get(shape, of_one)
    )
    await stream.emit_many(numbers(12, keys="abcdef"))
    await run_until_drained(stream)
    emitted = [(event["n"], event["call"]) for event in await read_events(backend.broker, "out")]
    assert sorted(emitted) == [(n, call) for n in range(12) for call in (1, 2)]
    warned = [record for record in caplog.records if "use ctx.emit" in record.getMessage()]
    assert len(warned) == 1


async def test_a_part_of_a_batch_emits_something_else_than_the_whole_did(backend: StreamingBackend) -> None:
    """Its ids must differ: the broker would take the part's events for the whole's."""
    stream = Stream(backend)

    @stream.subscribe(TOPIC, 4, retry=QUICK)
    async def handle(events: list[Number]) -> None:
        await stream.emit({"sum": sum(event.n for event in events)}, topic="out")
        if len(events) == 4:
            raise ValueError("too many")

    await stream.emit_many(numbers(4))
    await run_until_drained(stream)
    assert [event["sum"] for event in await read_events(backend.broker, "out")] == [6, 1, 5]


class LosesReplies(MemoryBroker):
    """A broker that stores, and then says what `replies` has instead of where."""

    def __init__(self, replies: list[Exception]) -> None:
        super().__init__()
        self.replies = replies

    async def append(self, topic: str, records: Any) -> Any:
        stored: list[Appended] = list(await super().append(topic, records))
        if self.replies:
            raise self.replies.pop(0)
        return stored


async def test_an_emit_with_an_id_is_sent_until_its_outcome_is_known() -> None:
    broker = LosesReplies([EmitUnknown("lost"), BackendUnavailable("away"), EmitUnknown("lost")])
    stream = Stream(StreamingBackend(broker, TOPIC, GROUP))
    assert await stream.emit(Number(n=1, event_id="one")) == "1"
    assert len(await read_events(broker, TOPIC)) == 1


async def test_an_emit_without_an_id_is_not_sent_twice() -> None:
    broker = LosesReplies([EmitUnknown("lost")])
    stream = Stream(StreamingBackend(broker, TOPIC, GROUP))
    with pytest.raises(EmitUnknown, match="lost"):
        await stream.emit_many([Number(n=1, event_id="one"), Number(n=2)])
    assert len(await read_events(broker, TOPIC)) == 2


async def test_many_are_stored_with_their_keys_and_headers(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    await stream.emit_many(numbers(2), key="k", headers={"source": "test"})
    await stream.emit({"n": 3}, topic="other")
    records = await backend.broker.read(TOPIC, 0, offset=0, max_records=10)
    assert [(record.key, record.headers) for record in records] == [("k", {"source": "test"})] * 2
    assert len(await backend.broker.append("other", [NewRecord(None, b"{}")])) == 1
    await stream.stop()
