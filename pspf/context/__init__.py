"""What a handler sees: its context, the state of a key, the call that runs."""

from pspf.context.context import (
    Call,
    Context,
    HandlerScope,
    State,
    StateSource,
    SyncContext,
    SyncState,
    current_call,
    describe_endless,
)

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
