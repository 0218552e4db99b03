"""The Valkey and Redis broker. Names are imported when they are first asked for: the client loads slowly."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pspf.connectors.valkey.broker import ValkeyBroker, ValkeyStreamBackend
    from pspf.connectors.valkey.connection.connector import ValkeyConnector

__all__ = ["ValkeyBroker", "ValkeyConnector", "ValkeyStreamBackend"]

_HOMES = {
    "ValkeyBroker": "pspf.connectors.valkey.broker",
    "ValkeyConnector": "pspf.connectors.valkey.connection.connector",
    "ValkeyStreamBackend": "pspf.connectors.valkey.broker",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
