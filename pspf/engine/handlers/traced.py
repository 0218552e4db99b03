"""Executors that trace: each call of the handler in a span. Chosen once a cursor, where spans are recorded."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pspf.context import Context, HandlerScope, SyncContext, current_call
from pspf.engine.batch_outcome import BatchRun
from pspf.engine.handlers.batches import WholeBatch, find_culprits
from pspf.engine.handlers.coroutines import Calls
from pspf.engine.handlers.executor import enter_call
from pspf.engine.handlers.threads import PlainCalls
from pspf.errors import HandlerTimeout
from pspf.events.decoding import Decoder
from pspf.records import Record
from pspf.subscription import Subscription

if TYPE_CHECKING:
    from pspf.observability.tracing import CallSpan as CallSpan
    from pspf.observability.tracing import HandlerSpans

Span = AbstractContextManager[object]


class TracedCalls(Calls):
    """Calls of an async handler."""

    def __init__(
        self, subscription: Subscription, decode: Decoder, around: HandlerScope, spans: "HandlerSpans"
    ) -> None:
        super().__init__(subscription, decode, around)
        self._spans = spans

    async def attempt(self, record: Record, context: Context, run: BatchRun) -> BaseException | None:
        with self._spans.one(record) as span, _calls_begin_in(span):
            error = await super().attempt(record, context, run)
            if error is not None:
                span.fail(error, [(record, error)])
        return error


class TracedPlainCalls(PlainCalls):
    """Calls of a plain handler, in its thread."""

    def __init__(self, subscription: Subscription, decode: Decoder, spans: "HandlerSpans") -> None:
        super().__init__(subscription, decode)
        self._timeout_ms = subscription.timeout_ms
        self._spans = spans

    def call(self, record: Record, context: SyncContext) -> BaseException | None:
        with self._spans.one(record) as span, _calls_begin_in(span):
            error = super().call(record, context)
            # One that was given up has failed by its time limit, whatever it came to after that.
            failure = error if context.is_open else HandlerTimeout(f"it took longer than {self._timeout_ms} ms")
            if failure is not None:
                span.fail(failure, [(record, failure)])
        return error


class TracedWholeBatch(WholeBatch):
    """Calls of a handler of many events: one span a call, linked to who emitted them."""

    def __init__(
        self, subscription: Subscription, decode: Decoder, around: HandlerScope, spans: "HandlerSpans"
    ) -> None:
        super().__init__(subscription, decode, around)
        self._spans = spans

    async def attempt(
        self, events: list[Any], part: Sequence[Record], context: Context, run: BatchRun
    ) -> BaseException | None:
        enter_call(self._subscription.name, self._around.warned)
        with self._spans.many(part) as span, _calls_begin_in(span):
            error = await super().attempt(events, part, context, run)
            if error is not None:
                span.fail(error, find_culprits(part, error, self._subscription.retry))
        return error


def trace_fold(subscription: Subscription, spans: "HandlerSpans") -> Subscription:
    """Return a windowed handler's subscription with each call of its function in a span, once a record and window."""
    function = subscription.handler.function
    traced = _trace_async(function, spans) if subscription.handler.is_async else _trace_plain(function, spans)
    return replace(subscription, handler=replace(subscription.handler, function=traced))


def span_batches(subscription: Subscription, spans: "HandlerSpans | None") -> Callable[[Sequence[Record]], Span]:
    """Return what spans a windowed handler's batches: those of a ready aggregation, which calls nothing a record."""
    operator = subscription.operator
    if spans is None or operator is None or operator.calls_handler:
        return _no_span
    many = spans.many
    return lambda records: many(records) if records else nullcontext()


def _no_span(records: Sequence[Record]) -> Span:
    return nullcontext()


def _trace_async(function: Callable[..., Any], spans: "HandlerSpans") -> Callable[..., Any]:
    async def fold(event: Any, state: Any) -> Any:
        record = _record_in_hand()
        with spans.one(record) as span:
            try:
                return await function(event, state)
            except BaseException as error:  # noted, and raised again
                span.charge([(record, error)])
                raise

    return fold


def _trace_plain(function: Callable[..., Any], spans: "HandlerSpans") -> Callable[..., Any]:
    def fold(event: Any, state: Any) -> Any:
        record = _record_in_hand()
        with spans.one(record) as span:
            try:
                return function(event, state)
            except BaseException as error:  # noted, and raised again
                span.charge([(record, error)])
                raise

    return fold


@contextmanager
def _calls_begin_in(span: "CallSpan") -> Iterator[None]:
    """Let the calls inside begin in a context that has the span, and nothing else of earlier calls."""
    call = current_call.get()
    assert call is not None
    before = call.clean
    call.clean = before.copy()
    span.put_into(call.clean)
    try:
        yield
    finally:
        call.clean = before


def _record_in_hand() -> Record:
    call = current_call.get()
    assert call is not None
    assert call.record is not None
    return call.record
