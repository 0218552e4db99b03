"""A lock that tasks of several event loops share."""

import asyncio
import threading
from collections import deque


class Turn:
    """Lets one task at a time run a block, first come first served, whichever event loop it belongs to.

    An `asyncio.Lock` belongs to one event loop, and a `threading.Lock` would block the loop that waits.
    A task that is cancelled while it waits takes nothing with it.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._is_taken = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> None:
        with self._mutex:
            if not self._is_taken:
                self._is_taken = True
                return
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if not self._withdraw(waiter):
                self._pass_on()  # the turn was given in the very moment of the cancellation
            raise

    async def __aexit__(self, *_: object) -> None:
        self._pass_on()

    def _withdraw(self, waiter: "asyncio.Future[None]") -> bool:
        with self._mutex:
            if waiter not in self._waiting:
                return False
            self._waiting.remove(waiter)
            return True

    def _pass_on(self) -> None:
        with self._mutex:
            while self._waiting:
                waiter = self._waiting.popleft()
                try:
                    waiter.get_loop().call_soon_threadsafe(_wake, waiter)
                except RuntimeError:
                    continue  # its event loop is closed, and the task with it
                return
            self._is_taken = False


def _wake(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)
