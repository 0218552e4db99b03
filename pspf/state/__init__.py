"""Stores for what users keep beside the broker: `pspf.state.base` is the contract."""

from pspf.state.base import StateStore
from pspf.state.memory import MemoryStateStore
from pspf.state.sqlite import SQLiteStateStore

__all__ = ["MemoryStateStore", "SQLiteStateStore", "StateStore"]
