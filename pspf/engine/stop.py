"""Stop signal of a task and its children."""

import asyncio
from collections.abc import Callable


class Stop:
    """A signal that stays set. Callbacks run at once when it is set; a child is set with its parent."""

    def __init__(self, parent: "Stop | None" = None) -> None:
        self._event = asyncio.Event()
        self._callbacks: set[Callable[[], None]] = set()
        self._parent = parent
        if parent is not None:
            parent.add(self.set)

    @property
    def is_set(self) -> bool:
        return self._event.is_set()

    def set(self) -> None:
        """Set it; a second call does nothing."""
        if self._event.is_set():
            return
        self._event.set()
        self.detach()
        callbacks, self._callbacks = self._callbacks, set()
        for callback in callbacks:
            callback()

    def add(self, callback: Callable[[], None]) -> None:
        """Call `callback` when it is set, now if it is."""
        if self.is_set:
            callback()
        else:
            self._callbacks.add(callback)

    def remove(self, callback: Callable[[], None]) -> None:
        self._callbacks.discard(callback)

    def detach(self) -> None:
        """Leave the parent."""
        if self._parent is not None:
            self._parent.remove(self.set)

    async def wait(self, timeout_ms: int) -> bool:
        """Return whether it is set, waiting at most `timeout_ms`."""
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                await self._event.wait()
        except TimeoutError:
            return False
        return True
