"""What a handler sees: its context, the state of a key, the call that runs."""

from pspf.context.call import Call, current_call
from pspf.context.context import Context, SyncContext, describe_endless
from pspf.context.scope import HandlerScope, StatePage, StateSource
from pspf.context.state import State, SyncState
from pspf.context.steps import StepSource
from pspf.context.typed_state import SyncTypedState, TypedState

__all__ = [
    "Call",
    "Context",
    "HandlerScope",
    "State",
    "StatePage",
    "StateSource",
    "StepSource",
    "SyncContext",
    "SyncState",
    "SyncTypedState",
    "TypedState",
    "current_call",
    "describe_endless",
]
