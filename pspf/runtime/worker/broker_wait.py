"""Wait for a broker that is down, without a limit."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Final

from pspf.backoff import Backoff
from pspf.connectors.contract.broker import Broker
from pspf.errors import BackendUnavailable

_FIRST_WAIT_MS: Final = 200


async def connect_patiently(broker: Broker, stopping: asyncio.Event, say: Callable[[str], None]) -> bool:
    """Open `broker`, trying again with a growing wait; say so once. False where `stopping` came first.

    Raises:
        BackendUnavailable: It does not let us in (its cause is a PermissionError): at the start that is a
            mistake in the settings, and no wait mends it.
    """
    backoff = Backoff(_FIRST_WAIT_MS)
    has_said = False
    while not stopping.is_set():
        try:
            await broker.connect()
        except BackendUnavailable as error:
            if isinstance(error.__cause__, PermissionError):
                raise
            if not has_said:
                say(f"waiting for the broker: {error}")
                has_said = True
        else:
            if has_said:
                say(f"the broker is there: {broker.name}")
            return True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(backoff.next_ms() / 1000):
                await stopping.wait()
    return False


async def say_missing_topics(broker: Broker, topics: Iterable[str], say: Callable[[str], None]) -> None:
    """Print the topics that do not exist yet; a worker makes them and waits for events."""
    there = {info.topic for info in await broker.list_topics()}
    for topic in dict.fromkeys(topics):
        if topic not in there:
            say(f"waiting for {topic}: no such topic yet")
