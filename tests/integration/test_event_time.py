"""The event time of what handlers emit: that of what they handle, unless it has one of its own."""

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from pydantic import BaseModel, Field

from pspf import BaseEvent, Context, Count, Stream, TumblingWindow
from pspf.connectors.contract.backend import StreamingBackend
from pspf.context import SyncContext
from pspf.events.timestamps import time_of
from pspf.testing import StreamTester
from tests.integration.running import read_events, run_until_drained

NOON = "2026-01-31T12:00:00Z"
NOON_MS = 1_769_860_800_000


class Made(BaseEvent):
    n: int = 1


class Other(BaseModel):
    n: int = 1
    timestamp: datetime = Field(default_factory=lambda: datetime.now(UTC))


class Bare(BaseModel):
    n: int = 1


async def emitted(handler: Any, *events: dict[str, Any], **options: Any) -> list[int]:
    """Return the event times of what a handler emits, as a window sees them."""
    stream = Stream(topic="in", group="g")
    stream.subscribe("in", **options)(handler)
    async with StreamTester(stream) as tester:
        await tester.send_many("in", list(events))
        assert await tester.dead_letters() == []
        return [time_of(orjson.loads(each.value), each) for each in await tester.records("out")]


@pytest.mark.parametrize("event", [{"n": 1}, Made(), Other(), Bare(), {"n": 1, "timestamp": None}])
@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_an_event_without_a_timestamp_has_that_of_the_one_that_is_handled(event: Any, ordering: Any) -> None:
    async def handle(given: BaseEvent, ctx: Context) -> None:
        ctx.emit(event, topic="out")

    def handle_plain(given: BaseEvent, ctx: SyncContext) -> None:
        ctx.emit(event, topic="out")

    async def handle_raw(msg_id, raw_data, ctx) -> None:  # type: ignore[no-untyped-def]
        ctx.emit(event, topic="out")

    for handler in (handle, handle_plain, handle_raw):
        assert await emitted(handler, {"timestamp": NOON}, ordering=ordering) == [NOON_MS]


async def test_an_event_of_a_batch_has_the_latest_timestamp_of_it() -> None:
    async def handle(events: list[BaseEvent], ctx: Context) -> None:
        ctx.emit({"n": len(events)}, topic="out")

    later = {"timestamp": "2026-01-31T12:00:05Z"}
    assert max(await emitted(handle, {"timestamp": NOON}, later, {"timestamp": NOON})) == NOON_MS + 5_000


@pytest.mark.parametrize("made", [dict, Made, Other])
async def test_a_timestamp_of_its_own_stays(made: Any) -> None:
    async def handle(given: BaseEvent, ctx: Context) -> None:
        ctx.emit(made(timestamp=datetime(2026, 1, 1, tzinfo=UTC)), topic="out")

    assert await emitted(handle, {"timestamp": NOON}) == [1_767_225_600_000]


@pytest.mark.parametrize("made", [dict, Made, Other, Bare])
async def test_a_timestamp_that_is_given_comes_before_both(made: Any) -> None:
    async def handle(given: BaseEvent, ctx: Context) -> None:
        ctx.emit(made(n=1), topic="out", timestamp=datetime(2026, 1, 1, tzinfo=UTC))
        ctx.emit(made(timestamp=NOON), topic="out", timestamp=datetime(2026, 1, 1, tzinfo=UTC))

    assert await emitted(handle, {"timestamp": NOON}) == [1_767_225_600_000] * 2


async def test_an_event_of_a_record_without_a_timestamp_has_its_records_time() -> None:
    async def handle(given: dict[str, Any], ctx: Context) -> None:
        ctx.emit({"n": 1}, topic="out")

    stream = Stream(topic="in", group="g")
    stream.subscribe("in")(handle)
    async with StreamTester(stream) as tester:
        await tester.send("in", {}, timestamp=5.0)
        assert [each.timestamp_ms for each in await tester.records("out")] == [5_000]


async def test_windows_behind_a_handler_count_by_the_time_of_its_input(backend: StreamingBackend) -> None:
    stream = Stream(backend)

    @stream.subscribe("in", ordering="key")
    async def enrich(given: BaseEvent, ctx: Context) -> None:
        ctx.emit(Made(), topic="made", key=ctx.key)

    stream.window("made", TumblingWindow(60_000), emit="final", to="out", name="w")(Count())
    ticks = [{"timestamp": f"2026-01-31T12:{minute}0:00Z", "key": "a"} for minute in range(4)]
    await stream.emit_many(ticks, "in")
    await run_until_drained(stream)
    found = [(each["window_start_ms"] - NOON_MS, each["value"]) for each in await read_events(stream.broker, "out")]
    assert found == [(0, 1), (600_000, 1), (1_200_000, 1)]


@pytest.mark.parametrize("made", [dict, Made, Other, Bare])
async def test_a_result_that_a_function_makes_has_the_last_time_of_its_window(made: Any) -> None:
    stream = Stream(topic="in", group="g")
    stream.window("in", TumblingWindow(60_000), emit="final", to="out", name="w", result=lambda r: made(n=r.value))(
        Count()
    )
    async with StreamTester(stream) as tester:
        await tester.send("in", {"timestamp": NOON, "key": "a"})
        await tester.finish()
        (record,) = await tester.records("out")
        assert time_of(orjson.loads(record.value), record) == NOON_MS + 59_999
