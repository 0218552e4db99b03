"""A connection for reads that wait on the server, and that can be called back."""

import asyncio
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pspf.connectors.valkey.scripts import Argument, Script
from pspf.connectors.valkey.wire import BLOCK_MARGIN_MS, Keep, Lane
from pspf.errors import BackendUnavailable
from pspf.loggers import get_logger

if TYPE_CHECKING:
    from pspf.connectors.valkey.core import Core

logger = get_logger(__name__)

BLOCK_MS: Final = 1_500
"""A read waits no longer at a time, so that what comes by no append (a dead worker's records) is noticed."""

_CALLS_BACK: Final = 5
_CALL_BACK_S: Final = 0.002


class Deadline(NamedTuple):
    """When a read ends at the latest: by the monotonic clock, and by the broker's, which a test may move."""

    at_s: float
    at_ms: int


class Reads:
    """One read at a time. `call_back` ends one that waits.

    A read that is cancelled and has a `keep` goes on: `keep` gets what it gives.
    """

    def __init__(self, core: "Core", commits: Lane) -> None:
        self.lane: Final = core.open_lane("reads")
        self.lane.track()
        self._core = core
        self._commits = commits
        self._look_at = 0.0
        self._asked_for = math.inf
        """When a look was asked for that came too late for the one under way."""
        self._blocked_until: float | None = None
        self._woken = asyncio.Event()
        core.reads.add(self)

    def begin(self, timeout_ms: int) -> Deadline:
        """Return when a read that begins now has to end."""
        return Deadline(time.monotonic() + timeout_ms / 1000, self._core.clock.monotonic_ms() + timeout_ms)

    def is_over(self, deadline: Deadline) -> bool:
        """Whether a read has to end."""
        return time.monotonic() >= deadline.at_s or self._core.clock.monotonic_ms() >= deadline.at_ms

    @property
    def is_look_due(self) -> bool:
        """Whether it is time to look for what no append tells of; always by a clock that only its owner moves."""
        return self._core.has_own_clock or time.monotonic() >= self._look_at

    async def look(
        self, script: Script, keys: Sequence[bytes], arguments: Sequence[Argument], keep: Keep | None = None
    ) -> Any:
        """Run the script that looks; what is asked for from here on, its answer does not know."""
        self._asked_for = math.inf
        return await self.lane.run(script, keys, arguments, keep=keep)

    def looked(self, wait_ms: int) -> None:
        """Note what the look has found: the next thing is due in `wait_ms` (-1: nothing is)."""
        next_at = time.monotonic() + (BLOCK_MS if wait_ms < 0 else min(wait_ms, BLOCK_MS)) / 1000
        self._look_at = min(next_at, self._asked_for)

    def block_ms(self, deadline: Deadline) -> int:
        """Return how long a read may wait; 0: not at all."""
        return max(0, int((min(self._look_at, deadline.at_s) - time.monotonic()) * 1000 + 0.5))

    async def read(
        self, command: tuple[Any, ...], streams: tuple[Any, ...], block_ms: int, keep: Keep | None = None
    ) -> Any:
        """Read, waiting at most `block_ms` (0: not at all)."""
        call = self.lane.call
        try:
            if not block_ms:
                return await call(*command, *streams, keep=keep)
            self._blocked_until = time.monotonic() + block_ms / 1000
            timeout_ms = block_ms + BLOCK_MARGIN_MS
            return await call(*command, "BLOCK", block_ms, *streams, timeout_ms=timeout_ms, keep=keep)
        except BackendUnavailable:
            self._look_at = 0.0  # what came, or was lost, is for the next look to see
            raise
        finally:
            self._blocked_until = None

    async def pause(self, wait_ms: int) -> None:
        """Wait as a read does that is not to give anything new."""
        self._woken.clear()
        self._blocked_until = time.monotonic() + wait_ms / 1000
        try:
            async with asyncio.timeout(wait_ms / 1000):
                await self._woken.wait()
        except TimeoutError:
            return
        finally:
            self._blocked_until = None

    async def look_in(self, wait_ms: int) -> None:
        """Have the next look come in `wait_ms` at the latest, and call back a read that would miss it."""
        at = time.monotonic() + max(0, wait_ms) / 1000
        self._look_at = min(self._look_at, at)
        self._asked_for = min(self._asked_for, at)
        if self._blocked_until is not None and self._blocked_until > at:
            await self.call_back()

    async def call_back(self) -> None:
        """End the read that waits. It may still be on its way to the server: so it is called again."""
        self._woken.set()
        for _ in range(_CALLS_BACK):
            is_waiting = self._blocked_until is not None or self.lane.is_busy
            if not is_waiting or not self.lane.client_id:
                return
            if await self._commits.call("CLIENT", "UNBLOCK", self.lane.client_id):
                return
            await asyncio.sleep(_CALL_BACK_S)

    async def end(self) -> None:
        """Have the read come back that is under way; whatever it is given, it is known then."""
        try:
            async with asyncio.timeout(BLOCK_MS / 1000):
                await self.call_back()
                await self.lane.wait_for_turn()
        except (BackendUnavailable, TimeoutError) as error:
            logger.debug("%s: the read under way is given up: %s", self.lane.name, error)
            self.lane.drop()

    def abandon(self) -> None:
        """Stop as a killed process does."""
        self.lane.drop()

    async def close(self) -> None:
        """Close the connection; the next read opens another."""
        await self.lane.close()
