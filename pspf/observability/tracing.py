"""Spans in the words of OpenTelemetry's messaging conventions. Imported only where its API is installed.

    send T      PRODUCER   an emit, until the broker has stored it
    create T    PRODUCER   a `ctx.emit`, which is stored with its batch's commit
    process T   CONSUMER   one call of a handler, with what its record's retry or death came of

The producer's context travels in the record's headers (W3C `traceparent`, `tracestate`). A call of one
record is a child of the span that emitted it, and linked to it; a call of many is linked to each.
"""

import contextvars
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from opentelemetry.context import Context, attach, get_current
from opentelemetry.trace import (
    Link,
    NoOpTracerProvider,
    ProxyTracer,
    ProxyTracerProvider,
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    TracerProvider,
    get_current_span,
    get_tracer,
    get_tracer_provider,
    set_span_in_context,
    use_span,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from pspf.errors import SchemaError, text_of
from pspf.records import Appended, Record, decode_headers

Headers = dict[str, str] | None
GivesUp = Callable[[BaseException, int], bool]
"""Whether a record is a dead letter after this error of this attempt, counted from 1."""

_SYSTEM: Final = "pspf"
_TRACE_HEADER: Final = "traceparent"
_MAX_TRACEBACK: Final = 8_000
_MAX_EVENTS: Final = 64
_PROPAGATOR: Final = TraceContextTextMapPropagator()
_ROOT: Final = Context()
_LATER: Final = ProxyTracerProvider()
"""Gives tracers that stand in for those of a provider that is not set yet."""


class Spans:
    """Makes the spans of emits and of handlers' calls, by the process's tracer provider unless one is given.

    The process's may be set later, once: until then nothing is made, and next to nothing paid. The one that the
    environment names is taken here.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._tracer = get_tracer("pspf", tracer_provider=provider)
        self._take(provider or get_tracer_provider())

    def find(self) -> "Spans | None":
        """Return this, None while no tracer provider is set and no span is current."""
        # Asked for each emit, and `get_tracer_provider` looks into the environment each time until one is set.
        if not self._is_decided and not isinstance(_LATER.get_tracer("pspf"), ProxyTracer):
            self._take(get_tracer_provider())
        if self._is_seen or (get_current() and get_current_span().get_span_context().is_valid):
            return self
        return None

    def _take(self, provider: TracerProvider) -> None:
        self._is_decided = not isinstance(provider, ProxyTracerProvider)
        self._is_seen = self._is_decided and not isinstance(provider, NoOpTracerProvider)

    @contextmanager
    def sending(self, topic: str, headers: Headers, count: int) -> "Iterator[Sending]":
        """Span an emit of `count` events; with it come the headers to emit them with."""
        attributes = _attributes("send", topic)
        if count != 1:
            attributes["messaging.batch.message_count"] = count
        span = self._tracer.start_span(f"send {topic}", None, SpanKind.PRODUCER, attributes, _links(headers))
        with _entered(span):
            yield Sending(span, _inject(span, headers))

    def create(self, topic: str, headers: Headers) -> Headers:
        """Span the making of an event that is stored later; return the headers to store it with."""
        attributes = _attributes("create", topic)
        span = self._tracer.start_span(f"create {topic}", None, SpanKind.PRODUCER, attributes, _links(headers))
        span.end()
        return _inject(span, headers)

    def of_handler(self, topic: str, group: str, handler: str, gives_up: GivesUp) -> "HandlerSpans":
        """Return what spans the calls of one handler."""
        return HandlerSpans(self._tracer, topic, group, handler, gives_up)


class Sending:
    """An emit that is under way."""

    __slots__ = ("_span", "headers")

    def __init__(self, span: Span, headers: Headers) -> None:
        self._span = span
        self.headers = headers

    def stored(self, places: Sequence[Appended]) -> None:
        """Note where the events are."""
        if len(places) == 1 and self._span.is_recording():
            self._span.set_attribute("messaging.message.id", places[0].id)
            self._span.set_attribute("messaging.destination.partition.id", str(places[0].partition))


class HandlerSpans:
    """Spans the calls of one handler."""

    def __init__(self, tracer: Tracer, topic: str, group: str, handler: str, gives_up: GivesUp) -> None:
        self._tracer = tracer
        self._name = f"process {topic}"
        self._attributes = {
            **_attributes("process", topic),
            "messaging.consumer.group.name": group,
            "pspf.handler": handler,
        }
        self._gives_up = gives_up

    @contextmanager
    def one(self, record: Record) -> "Iterator[CallSpan]":
        """Span the call of one record, in the trace of who emitted it."""
        attributes = {
            **self._attributes,
            "messaging.message.id": record.id,
            "messaging.destination.partition.id": str(record.partition),
            "pspf.attempt": record.attempts + 1,
        }
        parent = _read_context(record)
        links = _links_to([parent])
        span = self._tracer.start_span(self._name, parent, SpanKind.CONSUMER, attributes, links)
        with _entered(span):
            yield CallSpan(span, self._gives_up)

    @contextmanager
    def many(self, records: Sequence[Record]) -> "Iterator[CallSpan]":
        """Span one call of many records, linked to who emitted them."""
        attributes = {
            **self._attributes,
            "messaging.batch.message_count": len(records),
            "messaging.destination.partition.id": str(records[0].partition),
        }
        links = _links_to([_read_context(record) for record in records])
        span = self._tracer.start_span(self._name, _ROOT, SpanKind.CONSUMER, attributes, links)
        with _entered(span):
            yield CallSpan(span, self._gives_up)


class CallSpan:
    """A call of a handler that is under way."""

    __slots__ = ("_gives_up", "_span")

    def __init__(self, span: Span, gives_up: GivesUp) -> None:
        self._span = span
        self._gives_up = gives_up

    def put_into(self, context: contextvars.Context) -> None:
        """Make this span, which is the current one, that of another context too."""
        context.run(attach, get_current())

    def fail(self, error: BaseException, charged: Sequence[tuple[Record, BaseException]]) -> None:
        """Note why the call failed, and what becomes of the records that are charged for it."""
        if self._span.is_recording():
            _fail(self._span, error)
        self.charge(charged)

    def charge(self, charged: Sequence[tuple[Record, BaseException]]) -> None:
        """Note what becomes of records that failed."""
        span = self._span
        if not span.is_recording():
            return
        for record, reason in charged[:_MAX_EVENTS]:
            attempt = record.attempts + 1
            span.add_event(
                "pspf.dead_letter" if self._gives_up(reason, attempt) else "pspf.retry",
                {
                    "messaging.message.id": record.id,
                    "pspf.attempt": attempt,
                    "error.type": type(reason).__name__,
                },
            )


def _attributes(operation: str, topic: str) -> dict[str, str | int]:
    return {
        "messaging.system": _SYSTEM,
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": topic,
    }


@contextmanager
def _entered(span: Span) -> Iterator[None]:
    """Make a span the current one, and end it; an exception inside is recorded and raised again."""
    try:
        with use_span(span, end_on_exit=False, record_exception=False, set_status_on_exception=False):
            yield
    except BaseException as error:
        if span.is_recording():
            _fail(span, error)
        raise
    finally:
        span.end()


def _fail(span: Span, error: BaseException) -> None:
    """Note an error; not by `record_exception`, which trusts it to have a short text that can be read."""
    kind, text = type(error).__name__, text_of(error)
    trace = "".join(traceback.format_exception(error)).encode("utf-8", "backslashreplace").decode()
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR, f"{kind}: {text}"))
    span.add_event(
        "exception",
        {
            "exception.type": kind,
            "exception.message": text,
            "exception.stacktrace": trace[-_MAX_TRACEBACK:],
        },
    )


def _inject(span: Span, headers: Headers) -> Headers:
    """Return headers with a span's context, unless the caller gave them one."""
    if headers and _TRACE_HEADER in headers:
        return headers
    carrier = dict(headers or ())
    _PROPAGATOR.inject(carrier, set_span_in_context(span, _ROOT))
    return carrier


def _read_context(record: Record) -> Context:
    """Return the context that a record was emitted with, the root where there is none to be read."""
    if record.raw_headers is None:
        return _ROOT
    try:
        return _PROPAGATOR.extract(decode_headers(record.raw_headers), _ROOT)
    except SchemaError:  # the record's own failure, if its handler looks at its headers
        return _ROOT


def _links(headers: Headers) -> list[Link]:
    """Return a link to the context that the caller gave an event, which it keeps."""
    if not headers or _TRACE_HEADER not in headers:
        return []
    return _links_to([_PROPAGATOR.extract(headers, _ROOT)])


def _links_to(contexts: Sequence[Context]) -> list[Link]:
    """Return a link to each span that is in one of the contexts."""
    spans = [get_current_span(context).get_span_context() for context in contexts]
    return [Link(span) for span in {(span.trace_id, span.span_id): span for span in spans}.values() if span.is_valid]
