"""A state store in memory: for tests, and for state that may be lost with the process."""

from collections.abc import Mapping
from heapq import heappop, heappush

from pspf.clock import Clock
from pspf.errors import ConfigurationError
from pspf.state.base import Entry, Slot, StateStore


class MemoryStateStore(StateStore):
    """Lives as long as the object; `stop` keeps what was put."""

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self._entries: dict[Slot, Entry] = {}
        self._expiries: list[tuple[int, Slot]] = []
        self._is_started = False

    async def start(self) -> None:
        self._is_started = True

    async def stop(self) -> None:
        self._is_started = False

    async def read_entry(self, slot: Slot) -> Entry | None:
        self._refuse_unstarted()
        return self._entries.get(slot)

    async def write_entries(self, changes: Mapping[Slot, Entry], *, now_ms: int) -> None:
        self._refuse_unstarted()
        for slot, entry in changes.items():
            if entry.value is None:
                self._entries.pop(slot, None)
                continue
            self._entries[slot] = entry
            if entry.expires_ms is not None:
                heappush(self._expiries, (entry.expires_ms, slot))
        self._purge(now_ms)

    def _purge(self, now_ms: int) -> None:
        while self._expiries and self._expiries[0][0] <= now_ms:
            expires_ms, slot = heappop(self._expiries)
            entry = self._entries.get(slot)
            if entry is not None and entry.expires_ms == expires_ms:  # not put again since
                del self._entries[slot]

    def _refuse_unstarted(self) -> None:
        if not self._is_started:
            raise ConfigurationError("the state store is not started; use `async with store:` or `await store.start()`")
