"""Healing of lost consumer groups: created again once for all consumers of a session."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from pspf.backoff import Backoff

_FIRST_MS: Final = 1_000
_LONGEST_MS: Final = 30_000
"""Each time is some 60 commands where a topic has 8 partitions."""


class Healing:
    """How often a group was made again, and when it may be the next time: it may be destroyed again and again."""

    def __init__(self) -> None:
        self.times = 0
        self._turn = asyncio.Lock()
        self._backoff = Backoff(_FIRST_MS, _LONGEST_MS)

    async def heal(self, seen: int, make: Callable[[], Awaitable[None]]) -> None:
        """Make it again, unless that was done since `times` was `seen`: what was read then is no news any more."""
        async with self._turn:
            if self.times == seen:
                await asyncio.sleep(self._backoff.next_after_first_ms() / 1000)
                await make()
                self.times += 1
