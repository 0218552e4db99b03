"""Spans of emits and handlers, as OpenTelemetry's exporter in memory gets them."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Final

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from pspf import BaseEvent, BatchError, Context, Count, Stream, TumblingWindow
from pspf.connectors.contract.backend import StreamingBackend
from pspf.context import SyncContext
from pspf.errors import EventRejected
from pspf.observability.tracing import Spans
from tests.integration.running import GROUP, QUICK, TOPIC, Number, read_letters, run_until_drained
from tests.support.brokers import KINDS, Kind

MEMORY: Final = next(kind for kind in KINDS if kind.name == "memory")
TRACEPARENT: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Tracing:
    """A tracer provider of a test's own, and what it exported."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def watch(self, stream: Stream) -> Stream:
        stream.telemetry.find_spans = Spans(self.provider).find
        return stream

    def spans(self, name: str = "") -> list[ReadableSpan]:
        """Return the spans of a name, in the order of their ends."""
        return [span for span in self._exporter.get_finished_spans() if span.name == name or not name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.spans(name)
        return span


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> Kind:
    """The memory broker: what is called, and how, is the same on every one."""
    chosen = getattr(request, "param", MEMORY)
    assert isinstance(chosen, Kind)
    return chosen


@pytest.fixture
def tracing() -> Tracing:
    return Tracing()


@pytest.fixture
def stream(backend: StreamingBackend, tracing: Tracing) -> Stream:
    return tracing.watch(Stream(backend))


def parent_of(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.span_id)


def read(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def events_of(span: ReadableSpan) -> list[str]:
    return [event.name for event in span.events]


@pytest.mark.parametrize("kind", KINDS, indirect=True, ids=lambda kind: kind.name)
async def test_a_trace_from_emit_to_the_second_handler_is_one_tree(stream: Stream, tracing: Tracing) -> None:
    @stream.subscribe("orders", name="bill")
    async def bill(event: BaseEvent, ctx: Context) -> None:
        ctx.emit({"bill": 1}, topic="bills")

    @stream.subscribe("bills", name="post")
    async def post(event: BaseEvent) -> None: ...

    record_id = await stream.emit({"n": 1}, topic="orders")
    await run_until_drained(stream)

    sent, billed = tracing.one("send orders"), tracing.one("process orders")
    created, posted = tracing.one("create bills"), tracing.one("process bills")
    assert len(tracing.spans()) == 4
    assert [parent_of(span) for span in (sent, billed, created, posted)] == [None, *map(id_of, (sent, billed, created))]
    assert [span.kind for span in (sent, billed, created, posted)] == [
        SpanKind.PRODUCER,
        SpanKind.CONSUMER,
        SpanKind.PRODUCER,
        SpanKind.CONSUMER,
    ]
    assert [link.context.span_id for link in billed.links] == [id_of(sent)]
    assert read(sent) == {
        "messaging.system": "pspf",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "orders",
        "messaging.destination.partition.id": "0",
        "messaging.message.id": record_id,
    }
    assert read(billed) == {
        "messaging.system": "pspf",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "orders",
        "messaging.destination.partition.id": "0",
        "messaging.consumer.group.name": GROUP,
        "messaging.message.id": record_id,
        "pspf.handler": "bill",
        "pspf.attempt": 1,
    }
    assert read(created)["messaging.operation.type"] == "create"


def shapes(seen: list[str]) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    async def event(event: Number) -> None:
        seen.append("event")

    async def timed(event: Number) -> None:
        seen.append("timed")

    async def side(event: Number, ctx: Context) -> None:
        ctx.emit({}, topic="out")

    async def raw(msg_id, raw_data, ctx):  # type: ignore[no-untyped-def]
        ctx.emit({}, topic="out")

    def plain(event: Number, ctx: SyncContext) -> None:
        ctx.emit({}, topic="out")

    async def ordered(event: Number, ctx: Context) -> None:
        await ctx.state.put("n", event.n)
        ctx.emit({}, topic="out")

    return {
        "event": (event, {}),
        "timed": (timed, {"timeout_ms": 60_000}),
        "side": (side, {"concurrency": 2}),
        "raw": (raw, {}),
        "plain": (plain, {}),
        "ordered": (ordered, {"ordering": "key"}),
    }


@pytest.mark.parametrize("shape", ["event", "timed", "side", "raw", "plain", "ordered"])
async def test_a_handler_of_any_shape_has_a_span_a_record_and_what_it_emits_is_inside(
    shape: str, stream: Stream, tracing: Tracing
) -> None:
    handler, options = shapes([])[shape]
    stream.subscribe(TOPIC, name="shaped", **options)(handler)
    await stream.emit_many([{"n": 1, "key": "a"}, {"n": 2, "key": "b"}])
    await run_until_drained(stream)
    (sent,) = tracing.spans(f"send {TOPIC}")
    processed, created = tracing.spans(f"process {TOPIC}"), tracing.spans("create out")
    assert [parent_of(span) for span in processed] == [id_of(sent)] * 2
    if created:
        assert {parent_of(span) for span in created} == {id_of(span) for span in processed}
    assert read(sent)["messaging.batch.message_count"] == 2


@pytest.mark.parametrize("is_plain", [False, True])
async def test_a_call_of_many_records_is_one_span_with_a_link_to_each(
    is_plain: bool, backend: StreamingBackend, stream: Stream, tracing: Tracing
) -> None:
    async def take(events: list[Number], ctx: Context) -> None:
        ctx.emit({}, topic="out")

    def take_plainly(events: list[Number], ctx: SyncContext) -> None:
        ctx.emit({}, topic="out")

    stream.subscribe(TOPIC, batch_size=10)(take_plainly if is_plain else take)
    for n in range(3):
        await stream.emit({"n": n})
    await run_until_drained(stream)
    span = tracing.one(f"process {TOPIC}")
    assert span.parent is None
    assert [link.context.span_id for link in span.links] == [id_of(sent) for sent in tracing.spans(f"send {TOPIC}")]
    assert read(span)["messaging.batch.message_count"] == 3
    assert parent_of(tracing.one("create out")) == id_of(span)


async def test_a_retry_and_the_death_are_on_the_spans_of_their_attempts(stream: Stream, tracing: Tracing) -> None:
    @stream.subscribe(TOPIC, retry=QUICK)
    async def refuse(event: Number) -> None:
        raise KeyError("no such account")

    await stream.emit({"n": 1})
    await run_until_drained(stream)
    spans = tracing.spans(f"process {TOPIC}")
    assert [read(span)["pspf.attempt"] for span in spans] == [1, 2, 3]
    assert [events_of(span) for span in spans] == [["exception", "pspf.retry"]] * 2 + [
        ["exception", "pspf.dead_letter"]
    ]
    assert {read(span)["error.type"] for span in spans} == {"KeyError"}
    assert {span.status.status_code for span in spans} == {StatusCode.ERROR}
    assert len({parent_of(span) for span in spans}) == 1
    assert len(await read_letters(stream.broker)) == 1


async def test_a_payload_that_fits_no_model_has_a_span_that_says_so(stream: Stream, tracing: Tracing) -> None:
    @stream.subscribe(TOPIC)
    async def take(event: Number) -> None: ...

    await stream.emit({"n": "no number"})
    await run_until_drained(stream)
    span = tracing.one(f"process {TOPIC}")
    assert read(span)["error.type"] == "SchemaError"
    assert events_of(span) == ["exception", "pspf.dead_letter"]


async def test_the_culprits_of_a_batch_are_named_on_its_span(stream: Stream, tracing: Tracing) -> None:
    @stream.subscribe(TOPIC, batch_size=10)
    async def take(events: list[Number]) -> None:
        culprits = {event.offset: EventRejected("odd") for event in events if event.n % 2}
        if culprits:
            raise BatchError(culprits)

    ids = await stream.emit_many([{"n": n} for n in range(4)])
    await run_until_drained(stream)
    first, second = tracing.spans(f"process {TOPIC}")
    dead = [event for event in first.events if event.name == "pspf.dead_letter"]
    assert [(event.attributes or {})["messaging.message.id"] for event in dead] == [ids[1], ids[3]]
    assert second.status.status_code is StatusCode.UNSET


async def test_a_call_over_its_time_failed_by_its_limit(stream: Stream, tracing: Tracing) -> None:
    release = threading.Event()

    @stream.subscribe("slow", name="slow", timeout_ms=50, retry=QUICK)
    async def slow(event: BaseEvent, ctx: Context) -> None:
        if ctx.attempt == 1:
            await asyncio.sleep(60)

    @stream.subscribe("stuck", name="stuck", timeout_ms=50, retry=QUICK)
    def stuck(event: BaseEvent, ctx: SyncContext) -> None:
        if ctx.attempt == 1:
            release.wait(0.2)

    await stream.emit({}, topic="slow")
    await stream.emit({}, topic="stuck")
    await run_until_drained(stream, within_ms=20_000)
    for name in ("process slow", "process stuck"):
        assert [read(span).get("error.type") for span in tracing.spans(name)] == ["HandlerTimeout", None]


async def test_a_windowed_handler_has_a_span_a_record(stream: Stream, tracing: Tracing) -> None:
    @stream.window(TOPIC, TumblingWindow(1_000), name="sum", retry=QUICK)
    async def add(event: Number, state: int | None) -> int:
        if event.n < 0:
            raise ValueError("negative")
        return (state or 0) + event.n

    @stream.window(TOPIC, TumblingWindow(1_000), name="plain", group="other")
    def add_plainly(event: Number, state: int | None) -> int:
        return (state or 0) + event.n

    await stream.emit({"n": 1, "key": "a"})
    await stream.emit({"n": -1, "key": "b"})
    await run_until_drained(stream, within_ms=20_000)
    sent = [id_of(span) for span in tracing.spans(f"send {TOPIC}")]
    spans = tracing.spans(f"process {TOPIC}")
    plain = [span for span in spans if read(span)["pspf.handler"] == "plain"]
    summed = [span for span in spans if read(span)["pspf.handler"] == "sum"]
    assert [parent_of(span) for span in plain] == sent
    assert [parent_of(span) for span in summed] == [sent[0], sent[1], sent[1], sent[1]]
    assert events_of(summed[-1]) == ["pspf.dead_letter", "exception"]


async def test_a_ready_aggregation_has_a_span_a_batch(stream: Stream, tracing: Tracing) -> None:
    stream.window(TOPIC, TumblingWindow(1_000), name="count", batch_size=10)(Count())
    await stream.emit_many([{"n": 1, "key": "a"}, {"n": 2, "key": "a"}])
    await run_until_drained(stream, within_ms=20_000)
    span = tracing.one(f"process {TOPIC}")
    assert read(span)["messaging.batch.message_count"] == 2
    assert [link.context.span_id for link in span.links] == [id_of(tracing.one(f"send {TOPIC}"))]


async def test_a_caller_s_own_trace_context_goes_through_as_it_is(stream: Stream, tracing: Tracing) -> None:
    @stream.subscribe(TOPIC)
    async def take(event: Number) -> None: ...

    await stream.emit({"n": 1}, headers={"traceparent": TRACEPARENT, "tracestate": "a=b"})
    await run_until_drained(stream)
    sent, processed = tracing.one(f"send {TOPIC}"), tracing.one(f"process {TOPIC}")
    assert [link.context.span_id for link in sent.links] == [0xB7AD6B7169203331]
    assert parent_of(processed) == 0xB7AD6B7169203331
    assert processed.parent is not None
    assert processed.parent.trace_state.get("a") == "b"


@pytest.mark.parametrize("headers", [{"traceparent": "nonsense"}, {"traceparent": "00-" + "0" * 32 + "-1-01"}, {}])
async def test_headers_without_a_context_begin_a_trace(
    headers: dict[str, str], backend: StreamingBackend, tracing: Tracing
) -> None:
    quiet, stream = Stream(backend), tracing.watch(Stream(backend))

    @stream.subscribe(TOPIC)
    async def take(event: Number) -> None: ...

    await quiet.emit({"n": 1}, headers=headers)
    await run_until_drained(stream)
    await quiet.stop()
    span = tracing.one(f"process {TOPIC}")
    assert span.parent is None
    assert not span.links


async def test_an_emit_past_the_commit_is_a_child_of_the_handler_s_span(stream: Stream, tracing: Tracing) -> None:
    @stream.subscribe(TOPIC)
    async def take(event: Number) -> None:
        await stream.emit({}, topic="aside")

    await stream.emit({"n": 1})
    await run_until_drained(stream)
    assert parent_of(tracing.one("send aside")) == id_of(tracing.one(f"process {TOPIC}"))


async def test_an_emit_that_is_refused_is_an_error_on_its_span(stream: Stream, tracing: Tracing) -> None:
    with pytest.raises(ValueError, match="object"):
        await stream.emit({"n": object()})
    assert read(tracing.one(f"send {TOPIC}"))["error.type"] == "EventRejected"


async def test_an_error_that_can_t_be_read_fails_its_record_and_nothing_else(stream: Stream, tracing: Tracing) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("mute")

    @stream.subscribe(TOPIC, retry=QUICK)
    async def take(event: Number) -> None:
        raise Mute

    await stream.emit({"n": 1})
    await run_until_drained(stream)
    exception = tracing.spans(f"process {TOPIC}")[0].events[0].attributes or {}
    assert exception["exception.message"] == "no message: its __str__ raised RuntimeError"
