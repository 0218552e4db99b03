"""What a handler sees: its context, the state of a key, the call that runs."""

from pspf.context.call import Call, current_call
from pspf.context.context import Context, SyncContext, describe_endless
from pspf.context.scope import HandlerScope, StateSource
from pspf.context.state import State, SyncState

__all__ = [
    "Call",
    "Context",
    "HandlerScope",
    "State",
    "StateSource",
    "SyncContext",
    "SyncState",
    "current_call",
    "describe_endless",
]
