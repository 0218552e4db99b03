"""Balancing by leases: a member takes what is free up to its share, and gives back what is beyond it."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from typing import Final

from pspf.backoff import Backoff
from pspf.connectors.contract.assigned import Assigned, AssignedCursors
from pspf.connectors.leases.leases import Leases
from pspf.connectors.leases.shares import UnreadPartitions, choose_given_back, share_of
from pspf.errors import BackendUnavailable
from pspf.loggers import get_logger
from pspf.records import Cursor

logger = get_logger(__name__)

_UNREAD_LEASES: Final = 2
"""For how many leases a partition may be free, until that is said."""
_SHOWN: Final = 10


def _now_ms() -> float:
    return time.monotonic() * 1000


class LeaseBalance(AssignedCursors):
    """The cursors of one ordered handler that a session holds of those that its members divide.

    A review asks who the members are and what is free; it is made every `review_ms`, and at once where a member
    came, left or gave something back. `on_unread` gets the partitions that nobody reads for long.
    """

    def __init__(
        self,
        session: Leases,
        topic: str,
        group: str,
        handler: str,
        partitions: int,
        on_unread: Callable[[tuple[int, ...]], None],
    ) -> None:
        self._session = session
        self._place = topic, group, handler
        self._partitions = partitions
        self._on_unread = on_unread
        self._held: dict[int, tuple[Assigned, float]] = {}
        """What was assigned and not given back, and since when."""
        self._acquiring: int | None = None
        """The partition whose lease may be this session's without its knowing."""
        self._review_now = asyncio.Event()
        self._steps: AsyncGenerator[Assigned, None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._surveyed_ms = _now_ms()
        self._unread = UnreadPartitions(_UNREAD_LEASES * session.limits.lease_ms)
        self._known_unread: tuple[int, ...] = ()

    async def take(self) -> Assigned | None:
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen(), name=f"members of {self._place[2]}")
            self._listening.add_done_callback(lambda _: self._review_now.set())
        elif self._listening.done():
            self._listening.result()  # raises what ended it
        if self._steps is None:
            self._review_now.clear()
            self._steps = self._review()
        try:
            return await anext(self._steps)
        except StopAsyncIteration:
            self._steps = None
            return None
        except BaseException:
            self._steps = None  # the next call makes another review
            raise

    async def wait(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._session.review_ms / 1000):
                await self._review_now.wait()

    def wake(self) -> None:
        self._review_now.set()

    async def close(self) -> None:
        self._on_unread(())
        if self._steps is not None:
            await self._steps.aclose()
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait([self._listening])
            if not self._listening.cancelled():
                self._listening.result()  # raises what ended it

    async def resign(self) -> None:
        await self._session.resign(*self._place)

    async def _review(self) -> AsyncGenerator[Assigned, None]:
        """Take what is free up to the share, or revoke what is beyond it; now and then look at all that is free."""
        # Until it is known: a lease that is held unknowingly would be kept from everybody else.
        if self._acquiring is not None and (assigned := await self._acquire(self._acquiring)) is not None:
            yield assigned
        members = await self._session.read_members(*self._place)
        share = share_of(members, self._session.id, self._partitions)
        if len(self._held) < share:
            for partition in await self._session.read_free(*self._place):
                if len(self._held) >= share:
                    break
                if partition not in self._held and (assigned := await self._acquire(partition)) is not None:
                    yield assigned
        else:
            self._revoke_beyond(share)
        if _now_ms() < self._surveyed_ms + self._session.limits.lease_ms:
            return
        self._surveyed_ms = _now_ms()
        # What is stored as this session's, whatever its share: what is beyond is given back as usual, later.
        for partition in await self._session.read_lost(*self._place):
            if partition not in self._held and (assigned := await self._acquire(partition)) is not None:
                yield assigned
        free = await self._session.read_free(*self._place)
        self._tell_unread(self._unread.update(free, self._held, _now_ms()), members)

    async def _acquire(self, partition: int) -> Assigned | None:
        self._acquiring = partition
        try:
            consumer = await self._session.acquire(self._cursor(partition))
        except BackendUnavailable:
            raise
        except BaseException:
            self._acquiring = None
            raise
        self._acquiring = None
        if consumer is None:
            return None
        assigned = Assigned(consumer, self._take_back)
        self._held[partition] = assigned, _now_ms()
        return assigned

    def _take_back(self, assigned: Assigned) -> None:
        del self._held[assigned.partition]
        self._review_now.set()

    def _revoke_beyond(self, share: int) -> None:
        since_ms = {partition: since_ms for partition, (_, since_ms) in self._held.items()}
        for partition in choose_given_back(since_ms, share, _now_ms(), self._session.limits.lease_ms):
            self._held[partition][0].revoke()

    async def _listen(self) -> None:
        """Have a review at once when another member came, left or gave something back."""
        backoff = Backoff()
        while True:
            try:
                await self._session.listen(*self._place)
            except BackendUnavailable:  # the review says so
                await self._session.outage.wait(backoff.next_ms())
            else:
                backoff.reset()
                self._review_now.set()

    def _tell_unread(self, unread: tuple[int, ...], members: Sequence[str]) -> None:
        known, self._known_unread = self._known_unread, unread
        self._on_unread(unread)
        if unread and not known:
            logger.error(
                "%s: nobody reads %d partitions (%s%s) for %.0f s; the members are %s: end the one that hangs",
                self._cursor(unread[0]),
                len(unread),
                ", ".join(map(str, unread[:_SHOWN])),
                ", ..." if len(unread) > _SHOWN else "",
                self._unread.longest_ms / 1000,
                ", ".join(members[:_SHOWN]),
            )

    def _cursor(self, partition: int) -> Cursor:
        return Cursor(*self._place, partition)
