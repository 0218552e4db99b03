"""State stores for values that users keep beside the broker: `pspf.state.base` is the contract.

The SQLite one is imported when it is first asked for: who has no store does not wait for its library.
"""

from typing import TYPE_CHECKING, Any

from pspf.state.base import StateStore
from pspf.state.memory import MemoryStateStore

if TYPE_CHECKING:
    from pspf.state.sqlite import SQLiteStateStore

__all__ = ["MemoryStateStore", "SQLiteStateStore", "StateStore"]


def __getattr__(name: str) -> Any:
    if name != "SQLiteStateStore":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pspf.state.sqlite import SQLiteStateStore  # start-up: loads apsw

    return SQLiteStateStore
