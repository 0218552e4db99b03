"""The engine of a database in memory: jobs run in place."""

import asyncio
import contextlib
import threading
from typing import Any, TypeVar

from pspf.clock import Clock
from pspf.connectors.contract.limits import Limits
from pspf.connectors.sqlite.engine.base import TICK_MS, Engine, Job, Nothing, Poll, finish
from pspf.connectors.sqlite.storage import Storage

T = TypeVar("T")


class InlineEngine(Engine):
    """Runs jobs in place, for a database in memory."""

    def __init__(self, storage: Storage, clock: Clock, limits: Limits) -> None:
        super().__init__(storage, clock, limits)
        self._mutex = threading.RLock()
        """Held by who uses the connection: tasks of several event loops may, each in a thread of its own."""
        self._waiters: set[asyncio.Future[None]] = set()

    async def open(self) -> None:
        if not self.storage.is_open:
            self.storage.open()

    async def close(self) -> None:
        self._wake()  # the database lives as long as the broker object

    def look_again(self) -> None:
        self._wake()

    async def read(self, job: Job[T]) -> T:
        with self._mutex:
            self.run_chores()
            return self.read_now(job)

    async def write(self, job: Job[T], *, durable: bool = True, patience_ms: int | None = None) -> T:
        with self._mutex:
            self.run_chores()
            result = self.write_now(job, durable=durable)
            if self.grown:
                self._wake()
            return result

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                with contextlib.suppress(RuntimeError):  # its event loop is closed, and nobody waits any more
                    waiter.get_loop().call_soon_threadsafe(finish, waiter, None, None)

    async def poll(self, poll: Poll) -> Any:
        deadline_ms = self.clock.monotonic_ms() + poll.timeout_ms
        while True:
            with self._mutex:
                self.run_chores()
                found = self.read_now(poll.look)
                if not isinstance(found, Nothing) and poll.take is not None:
                    found = self.write_now(poll.take)
                    if self.grown:
                        self._wake()
                left_ms = deadline_ms - self.clock.monotonic_ms()
                if not isinstance(found, Nothing) or left_ms <= 0:
                    return found
                if found.due_ms is not None:
                    left_ms = min(left_ms, max(1, found.due_ms - self.clock.now_ms()))
                waiter = asyncio.get_running_loop().create_future()
                self._waiters.add(waiter)
            try:
                async with asyncio.timeout(min(left_ms, TICK_MS) / 1000):  # wait_for may drop a cancellation
                    await waiter
            except TimeoutError:
                continue
            finally:
                self._waiters.discard(waiter)
