"""Blocking reads: a connection whose reads wait on the server and can be called back."""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from pspf.clock import Clock
from pspf.connectors.valkey.connection.scripts import Argument, Script
from pspf.connectors.valkey.connection.wire import BLOCK_MARGIN_MS, Keep, Lane
from pspf.errors import BackendUnavailable
from pspf.loggers import get_logger

logger = get_logger(__name__)

BLOCK_MS: Final = 1_500
"""A read waits no longer at a time, so that what comes by no append (a dead worker's records) is noticed."""

_CALLS_BACK: Final = 5
_CALL_BACK_S: Final = 0.002


MOST_BYTES: Final = 32_000_000
"""What one read may have: four times what a batch is to have, as sizes of records are known by what was read before."""
_LESS: Final = 8
_BATCH_BYTES: Final = 8_000_000
_FIRST_PAGE: Final = 64
_GROWTH: Final = 16


class ReadSize:
    """How many records a read asks for: fewer once a reply was too large, until what is asked for is less than that."""

    def __init__(self) -> None:
        self._most: int | None = None

    def of(self, max_records: int) -> int:
        """Return how many records to ask for, where `max_records` are wanted."""
        if self._most is not None and max_records <= self._most:
            self._most = None
        return max_records if self._most is None else self._most

    def room(self, count: int) -> float:
        """Return how many bytes the reply of a read of so many records may have; a single one is taken as it is."""
        return MOST_BYTES if count > 1 else math.inf

    def shrink(self, count: int) -> None:
        """Note that a read of so many records was too large."""
        self._most = max(1, count // _LESS)


class ReadClock(NamedTuple):
    """The clock that reads end by, beside the machine's; `is_callers` where only its owner moves it."""

    clock: Clock
    is_callers: bool


class Deadline(NamedTuple):
    """When a read ends at the latest: by the monotonic clock, and by the broker's, which a test may move."""

    at_s: float
    at_ms: int


class BlockingReads:
    """One read at a time. `call_back` ends one that waits, by the lane that `find_commits` gives.

    A read that is cancelled and has a `keep` goes on: `keep` gets what it gives.
    """

    def __init__(self, lane: Lane, find_commits: Callable[[], Lane], clock: ReadClock) -> None:
        self.lane: Final = lane
        self.lane.track()
        self._find_commits = find_commits
        self._clock = clock
        self._look_at = 0.0
        self._asked_for = math.inf
        """When a look was asked for that came too late for the one under way."""
        self._blocked_until: float | None = None
        self._woken = asyncio.Event()

    def begin(self, timeout_ms: int) -> Deadline:
        """Return when a read that begins now has to end."""
        return Deadline(time.monotonic() + timeout_ms / 1000, self._clock.clock.monotonic_ms() + timeout_ms)

    def is_over(self, deadline: Deadline) -> bool:
        """Whether a read has to end."""
        return time.monotonic() >= deadline.at_s or self._clock.clock.monotonic_ms() >= deadline.at_ms

    @property
    def is_look_due(self) -> bool:
        """Whether it is time to look for what no append tells of; always by a clock that only its owner moves."""
        return self._clock.is_callers or time.monotonic() >= self._look_at

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
        self,
        command: tuple[Any, ...],
        streams: tuple[Any, ...],
        block_ms: int,
        keep: Keep | None = None,
        most_bytes: float = math.inf,
    ) -> Any:
        """Read, waiting at most `block_ms` (0: not at all). Raises ReplyTooLarge, beside the errors of `Lane.call`."""
        call = self.lane.call
        try:
            if not block_ms:
                return await call(*command, *streams, keep=keep, most_bytes=most_bytes)
            self._blocked_until = time.monotonic() + block_ms / 1000
            timeout_ms = block_ms + BLOCK_MARGIN_MS
            blocking = (*command, "BLOCK", block_ms, *streams)
            return await call(*blocking, timeout_ms=timeout_ms, keep=keep, most_bytes=most_bytes)
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
            if await self._find_commits().call("CLIENT", "UNBLOCK", self.lane.client_id):
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


async def read_each(lane: Lane, stream: bytes, ids: Sequence[bytes]) -> tuple[int, list[Any]]:
    """Return how many entries were asked for, of the first of `ids`, and those of them that are there.

    In pages, that grow while entries are small, and until they have about as much as a batch.
    """
    asked = size_bytes = 0
    page, entries = _FIRST_PAGE, list[Any]()
    while asked < len(ids) and size_bytes < _BATCH_BYTES:
        wanted = ids[asked : asked + page]
        found = await lane.call_many([("XRANGE", stream, raw_id, raw_id) for raw_id in wanted])
        some = [entry for reply in found for entry in lane.check(reply, "XRANGE")]
        of_page = sum(len(part) for entry in some for part in entry[1])
        asked, size_bytes = asked + len(wanted), size_bytes + of_page
        entries += some
        if of_page * _GROWTH < _BATCH_BYTES:
            page *= _GROWTH
    return asked, entries
