"""Overrides of an app's handlers by the command line."""

from dataclasses import replace

from pspf.stream import Stream
from pspf.subscription import Subscription, Takes


def with_concurrency(stream: Stream, concurrency: int | None) -> None:
    """Give every handler of the stream this concurrency; handlers of whole batches have none to change."""
    if concurrency is None:
        return
    stream.subscriptions[:] = [_with(subscription, concurrency) for subscription in stream.subscriptions]


def with_name(stream: Stream, name: str | None) -> None:
    """Let the stream's worker ids start with `name`."""
    if name is not None:
        stream.name = name


def with_orphans(stream: Stream, accept_orphans: bool) -> None:
    """Let the stream run though its groups have cursors of handlers that it lacks."""
    stream.accepts_orphans |= accept_orphans


def _with(subscription: Subscription, concurrency: int) -> Subscription:
    if subscription.handler.takes is Takes.BATCH:
        return subscription
    return replace(subscription, concurrency=concurrency)
