"""Choice of the executor of a subscription, made once per cursor."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from pspf import faults
from pspf.context import HandlerScope
from pspf.engine.batch_state import BatchState, StoreState
from pspf.engine.handlers.batches import WholeBatch
from pspf.engine.handlers.coroutines import Calls, InTurn, PlainCoroutines, SideBySide
from pspf.engine.handlers.executor import Executor
from pspf.engine.handlers.grouped import GroupedExecutor
from pspf.engine.handlers.threads import PlainCalls, ThreadedExecutor
from pspf.engine.handlers.traced import TracedCalls, TracedPlainCalls, TracedWholeBatch
from pspf.engine.operators.context import OperatorScope
from pspf.engine.operators.entries import Entries, RetryingCall
from pspf.engine.operators.registry import make_host
from pspf.engine.timers.executor import TimedExecutor, TimerScope
from pspf.engine.timers.firing import make_calls
from pspf.engine.timers.storage import StoredTimers
from pspf.engine.timers.watermark import Watermark
from pspf.events.decoding import Decoder, SectionDecoder, make_section_decoder
from pspf.records import Record
from pspf.subscription import Subscription, Takes
from pspf.windowing.grouping import GroupedRecord, Grouper


def make_executor(
    subscription: Subscription, decode: Decoder, around: HandlerScope, wake: Callable[[], None]
) -> Executor:
    """Return the executor for a subscription's shape.

    `wake` is called when the outcome of a record that a batch left under way is known: then the
    executor `has_work`, and its next run, be it without records, reports it.
    """
    decode = _armed_decoder(decode)
    handler, spans = subscription.handler, around.spans
    if handler.takes is Takes.BATCH:
        if spans is None:
            return WholeBatch(subscription, decode, around)
        return TracedWholeBatch(subscription, decode, around, spans)
    if not handler.is_async:
        plain = PlainCalls(subscription, decode) if spans is None else TracedPlainCalls(subscription, decode, spans)
        return ThreadedExecutor(subscription, plain, around, wake)
    if subscription.concurrency == 1 and spans is None and _is_bare(subscription):
        return PlainCoroutines(subscription, _by_section(subscription, decode), around)
    calls = Calls(subscription, decode, around)
    if spans is not None:
        calls = TracedCalls(subscription, decode, around, spans)
    return InTurn(calls) if subscription.concurrency == 1 else SideBySide(subscription, calls)


def _is_bare(subscription: Subscription) -> bool:
    """Return whether a handler takes nothing but its event, and as long as it likes."""
    handler = subscription.handler
    takes_more = handler.takes_context or handler.takes is Takes.RAW
    return not takes_more and subscription.timeout_ms is None and not _are_armed()


def make_operator(subscription: Subscription, decode: Decoder, around: HandlerScope, scope: OperatorScope) -> Executor:
    """Return the executor for a subscription's operator."""
    decode = _armed_decoder(decode)
    return make_host(subscription, decode, _by_section(subscription, decode), around, scope)


def make_grouped_executor(
    subscription: Subscription,
    decode: Decoder,
    around: HandlerScope,
    wake: Callable[[], None],
    state: BatchState | StoreState | None,
    read_progress: Callable[[], Awaitable[bytes | None]],
) -> Executor:
    """Return the executor for a handler that groups its records by another key than their own."""
    key, shuffle = subscription.key, subscription.repartition
    assert key is not None

    def read(record: Record) -> Any:
        assert isinstance(record, GroupedRecord)
        return record.read(decode)

    # Without a model, as events are read one by one here: for their keys.
    inner = make_executor(replace(subscription, model=None), read, around, wake)
    source = subscription.topic if shuffle is None else shuffle.source
    grouper = Grouper(key, decode, source=source, is_behind_hop=subscription.is_behind_hop)
    return GroupedExecutor(inner, grouper, key, state, read_progress)


def make_timed(
    subscription: Subscription,
    decode: Decoder,
    around: HandlerScope,
    of_timers: HandlerScope,
    insist: RetryingCall,
    scope: TimerScope,
) -> Executor:
    """Return the executor of a handler with timers: around that of its records."""
    assert subscription.timers is not None
    watermark = Watermark(subscription.timers, decode, scope.clock, subscription.name)
    inner = make_executor(subscription, watermark.decode, around, scope.wake)
    storage = StoredTimers(Entries(scope.consumer, insist), subscription.name)
    return TimedExecutor(subscription, inner, make_calls(subscription, of_timers), watermark, storage, scope)


def _are_armed() -> bool:
    return faults.is_armed("handler.before", "handler.after")


def _by_section(subscription: Subscription, decode: Decoder) -> SectionDecoder:
    return make_section_decoder(None if faults.is_armed("decode") else subscription.model, decode)


def _armed_decoder(decode: Decoder) -> Decoder:
    if not faults.is_armed("decode"):
        return decode

    def reach_and_decode(record: Record) -> Any:
        faults.reach("decode")
        return decode(record)

    return reach_and_decode
