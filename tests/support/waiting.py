"""Waiting for something to become true, instead of sleeping and hoping."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from tests.support.tasks import print_tasks


async def wait_until(condition: Callable[[], Awaitable[bool]], *, timeout_ms: int = 10_000) -> None:
    """Return when `condition` holds; fail the test where it does not within `timeout_ms`."""
    deadline = time.monotonic() + timeout_ms / 1000
    while not await condition():
        if time.monotonic() >= deadline:
            print_tasks()
            raise AssertionError(f"still not so after {timeout_ms} ms")
        await asyncio.sleep(0.01)
