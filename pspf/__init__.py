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
    "BaseEvent": "pspf.schema",
    "BatchError": "pspf.errors",
    "BatchProcessor": "pspf.processor",
    "Context": "pspf.context",
    "MemoryBackend": "pspf.connectors.memory",
    "MemoryStateStore": "pspf.state",
    "PSPFError": "pspf.errors",
    "Record": "pspf.records",
    "RetryPolicy": "pspf.subscription",
    "SQLiteBackend": "pspf.connectors.sqlite",
    "SQLiteStateStore": "pspf.state",
    "SchemaRegistry": "pspf.schema",
    "StateStore": "pspf.state",
    "Stream": "pspf.stream",
    "StreamingBackend": "pspf.connectors.base",
    "SyncContext": "pspf.context",
    "TelemetryManager": "pspf.telemetry",
    "ValkeyConnector": "pspf.connectors.valkey",
    "ValkeyStreamBackend": "pspf.connectors.valkey",
    "settings": "pspf.settings",
}

if TYPE_CHECKING:
    from pspf.connectors.base import StreamingBackend
    from pspf.connectors.memory import MemoryBackend
    from pspf.connectors.sqlite import SQLiteBackend
    from pspf.connectors.valkey import ValkeyConnector, ValkeyStreamBackend
    from pspf.context import Context, SyncContext
    from pspf.errors import BatchError, PSPFError
    from pspf.processor import BatchProcessor
    from pspf.records import Record
    from pspf.schema import BaseEvent, SchemaRegistry
    from pspf.settings import settings
    from pspf.state import MemoryStateStore, SQLiteStateStore, StateStore
    from pspf.stream import Stream
    from pspf.subscription import RetryPolicy
    from pspf.telemetry import TelemetryManager

__all__ = [
    "BaseEvent",
    "BatchError",
    "BatchProcessor",
    "Context",
    "MemoryBackend",
    "MemoryStateStore",
    "PSPFError",
    "Record",
    "RetryPolicy",
    "SQLiteBackend",
    "SQLiteStateStore",
    "SchemaRegistry",
    "StateStore",
    "Stream",
    "StreamingBackend",
    "SyncContext",
    "TelemetryManager",
    "ValkeyConnector",
    "ValkeyStreamBackend",
    "settings",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pspf' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
