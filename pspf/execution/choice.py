"""Which way a subscription's handlers run. Chosen once per cursor, not per event."""

from collections.abc import Callable
from typing import Any

from pspf import faults
from pspf.context import Surroundings
from pspf.execution.coroutines import InTurn, Plain, SideBySide
from pspf.execution.executor import Executor
from pspf.execution.threads import Threads
from pspf.execution.whole import WholeBatch
from pspf.execution.windowed import Room, Windowed
from pspf.execution.windowed_sessions import SessionWindows
from pspf.execution.windowed_spans import SpanWindows
from pspf.records import Record
from pspf.schema import Decoder
from pspf.subscription import Subscription, Takes
from pspf.windows import SessionWindow


def make_executor(
    subscription: Subscription, decode: Decoder, around: Surroundings, on_late: Callable[[], None]
) -> Executor:
    """Return the executor for a subscription's shape.

    `on_late` is called when the outcome of a record that a batch left in hand is known: then the
    executor `has_late`, and its next run, be it without records, reports it.
    """
    decode = _armed_decoder(decode)
    handler = subscription.handler
    if handler.takes is Takes.BATCH:
        return WholeBatch(subscription, decode, around)
    if not handler.is_async:
        return Threads(subscription, decode, around, on_late)
    if subscription.concurrency > 1:
        return SideBySide(subscription, decode, around)
    if handler.takes_context or handler.takes is Takes.RAW or subscription.timeout_ms is not None or _are_armed():
        return InTurn(subscription, decode, around)
    return Plain(subscription, decode, around)


def make_windowed(subscription: Subscription, decode: Decoder, around: Surroundings, room: Room) -> Windowed:
    """Return the executor for a windowed handler's kind of windows."""
    windowing = subscription.windowing
    is_session = windowing is not None and isinstance(windowing.window, SessionWindow)
    kind = SessionWindows if is_session else SpanWindows
    return kind(subscription, _armed_decoder(decode), around, room)


def _are_armed() -> bool:
    return faults.is_armed("handler.before", "handler.after")


def _armed_decoder(decode: Decoder) -> Decoder:
    if not faults.is_armed("decode"):
        return decode

    def reach_and_decode(record: Record) -> Any:
        faults.reach("decode")
        return decode(record)

    return reach_and_decode
