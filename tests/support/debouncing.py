"""Streams with the toy operator, and a look at what came of it."""

from collections.abc import Callable
from typing import Any, Final

from pspf import RetryPolicy, Stream
from pspf.connectors.contract.broker import Broker
from pspf.subscription import Handler, Subscription, Takes
from tests.integration.running import read_events
from tests.support.debounce import Debounce

TOPIC: Final = "ticks"
GROUP: Final = "debounce"


def number_of(event: dict[str, Any]) -> Any:
    """Return what goes out of an event."""
    return event["n"]


def add_debounce(
    stream: Stream,
    *,
    quiet_ms: int,
    function: Callable[[dict[str, Any]], Any] = number_of,
    batch_size: int | None = None,
    retry: RetryPolicy | None = None,
) -> None:
    """Register the toy operator with a stream."""
    stream.subscriptions.append(
        Subscription(
            topic=TOPIC,
            group=GROUP,
            handler=Handler(function, "debounce", Takes.EVENT, False, True, None),
            model=dict,
            ordering="key",
            batch_size=batch_size,
            own_retry=retry,
            operator=Debounce(quiet_ms),
        )
    )


async def read_settled(broker: Broker) -> list[tuple[str, Any, int]]:
    """Return (key, value, count) of what went out."""
    return [(event["key"], event["value"], event["count"]) for event in await read_events(broker, "settled")]
