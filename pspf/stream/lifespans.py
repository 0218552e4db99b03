"""Lifespans of a Stream and of those that it includes: entered once per worker process."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any


class Lifespans:
    """The lifespan of one Stream, None without one; `included` are those of the Streams that it includes."""

    def __init__(self, make: Callable[[], AbstractAsyncContextManager[Any]] | None) -> None:
        self.included: list[Lifespans] = []
        self._make = make

    @asynccontextmanager
    async def enter(self) -> AsyncIterator[None]:
        """Enter all of them while the block runs, the Stream's own first."""
        async with AsyncExitStack() as stack:
            if self._make is not None:
                await stack.enter_async_context(self._make())
            for each in self.included:
                await stack.enter_async_context(each.enter())
            yield
