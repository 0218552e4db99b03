"""PSPF, the Python Stream Processing Framework: every batch is one atomic commit in the broker.

    from pspf import BaseEvent, Context, Stream

    stream = Stream(topic="orders", group="billing")

    @stream.subscribe("orders")
    async def bill(order: Order, ctx: Context) -> None: ...

Names are imported when they are first asked for, so that the command line starts quickly.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    "SKIP": "pspf.windowing.results",
    "BaseEvent": "pspf.schema",
    "BatchError": "pspf.errors",
    "BatchProcessor": "pspf.engine.processor",
    "Collect": "pspf.windowing.kept_values",
    "Context": "pspf.context",
    "Count": "pspf.windowing.aggregations",
    "Distinct": "pspf.windowing.aggregations",
    "Last": "pspf.windowing.kept_values",
    "Max": "pspf.windowing.aggregations",
    "Mean": "pspf.windowing.aggregations",
    "MemoryBackend": "pspf.connectors.memory",
    "MemoryStateStore": "pspf.state",
    "Min": "pspf.windowing.aggregations",
    "PSPFError": "pspf.errors",
    "Record": "pspf.records",
    "RetryLater": "pspf.errors",
    "RetryPolicy": "pspf.subscription",
    "SQLiteBackend": "pspf.connectors.sqlite",
    "SQLiteStateStore": "pspf.state",
    "SchemaRegistry": "pspf.schema",
    "SessionWindow": "pspf.windowing.definitions",
    "SlidingWindow": "pspf.windowing.definitions",
    "StateStore": "pspf.state",
    "Stream": "pspf.stream",
    "StreamingBackend": "pspf.connectors.contract.backend",
    "Sum": "pspf.windowing.aggregations",
    "SyncContext": "pspf.context",
    "TelemetryManager": "pspf.observability.telemetry",
    "Tick": "pspf.windowing.schedules",
    "Timer": "pspf.windowing.timers",
    "TopN": "pspf.windowing.kept_values",
    "TumblingWindow": "pspf.windowing.definitions",
    "ValkeyConnector": "pspf.connectors.valkey",
    "ValkeyStreamBackend": "pspf.connectors.valkey",
    "WindowResult": "pspf.windowing.definitions",
    "settings": "pspf.settings",
}

if TYPE_CHECKING:
    from pspf.connectors.contract.backend import StreamingBackend
    from pspf.connectors.memory import MemoryBackend
    from pspf.connectors.sqlite import SQLiteBackend
    from pspf.connectors.valkey import ValkeyConnector, ValkeyStreamBackend
    from pspf.context import Context, SyncContext
    from pspf.engine.processor import BatchProcessor
    from pspf.errors import BatchError, PSPFError, RetryLater
    from pspf.observability.telemetry import TelemetryManager
    from pspf.records import Record
    from pspf.schema import BaseEvent, SchemaRegistry
    from pspf.settings import settings
    from pspf.state import MemoryStateStore, SQLiteStateStore, StateStore
    from pspf.stream import Stream
    from pspf.subscription import RetryPolicy
    from pspf.windowing.aggregations import Count, Distinct, Max, Mean, Min, Sum
    from pspf.windowing.definitions import SessionWindow, SlidingWindow, TumblingWindow, WindowResult
    from pspf.windowing.kept_values import Collect, Last, TopN
    from pspf.windowing.results import SKIP
    from pspf.windowing.schedules import Tick
    from pspf.windowing.timers import Timer

__all__ = [
    "SKIP",
    "BaseEvent",
    "BatchError",
    "BatchProcessor",
    "Collect",
    "Context",
    "Count",
    "Distinct",
    "Last",
    "Max",
    "Mean",
    "MemoryBackend",
    "MemoryStateStore",
    "Min",
    "PSPFError",
    "Record",
    "RetryLater",
    "RetryPolicy",
    "SQLiteBackend",
    "SQLiteStateStore",
    "SchemaRegistry",
    "SessionWindow",
    "SlidingWindow",
    "StateStore",
    "Stream",
    "StreamingBackend",
    "Sum",
    "SyncContext",
    "TelemetryManager",
    "Tick",
    "Timer",
    "TopN",
    "TumblingWindow",
    "ValkeyConnector",
    "ValkeyStreamBackend",
    "WindowResult",
    "settings",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pspf' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
