"""The event that all benchmarks use: about 150 bytes of JSON."""

from typing import Any

from pspf import BaseEvent

TOPIC = "ticks"
BATCH = 500


class Tick(BaseEvent):
    """One reading of a sensor."""

    n: int
    value: float
    sensor: str
    unit: str


class Stamped(Tick):
    """A reading that knows when it was sent: the wall clock's ns at the call of `emit`, 0 for a warm-up."""

    sent_ns: int


def ready_dicts(count: int, *, with_ids: bool, prefix: str = "tick") -> list[dict[str, Any]]:
    """Return `count` events as a caller has them at hand, 1 key in 20; ids are unique text."""
    events: list[dict[str, Any]] = []
    for n in range(count):
        event = {
            "event_type": "Tick",
            "timestamp": "2026-01-01T00:00:00Z",
            "key": f"k{n % 20}",
            "n": n,
            "value": 1.25,
            "sensor": f"roof-{n % 7}",
            "unit": "celsius",
        }
        events.append({"event_id": f"{prefix}-{n:08}", **event} if with_ids else event)
    return events
