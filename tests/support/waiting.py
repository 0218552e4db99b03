"""Waiting for something to become true, without guessing how long it takes."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

_PAUSE_S: Final = 0.01


async def wait_until(condition: Callable[[], Awaitable[bool]], *, within_ms: int = 5_000) -> None:
    """Return as soon as `condition()` is true; fail with its name where it is not within `within_ms`."""
    deadline = time.monotonic() + within_ms / 1_000
    while not await condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_ms} ms: {getattr(condition, '__name__', condition)}")
        await asyncio.sleep(_PAUSE_S)
