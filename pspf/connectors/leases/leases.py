"""The leases of ordered cursors as one session sees them: who the members are, what is free, taking one."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence

from pspf.backoff import Outage
from pspf.connectors.contract.cursors import Consumer
from pspf.connectors.contract.limits import Limits
from pspf.records import Cursor


class Leases(ABC):
    """What balancing asks of a session. Every method may raise `BackendUnavailable`."""

    id: str
    """The session's."""
    limits: Limits
    """The broker's: a lease is held for `lease_ms` at least."""
    outage: Outage
    """What all loops of the process share while the broker is away."""
    review_ms: int = 500
    """How often to ask who the members are: what one leaves, the others take up so soon."""

    @abstractmethod
    async def resign(self, topic: str, group: str, handler: str | None) -> None:
        """Count as a member of a group no more, so that others take up its share; what is held stays until released."""

    async def listen(self, topic: str, group: str, handler: str) -> None:
        """Return when a member of an ordered handler came, left or gave a partition back.

        A broker that can't tell never returns; it is asked every `review_ms`. A word may get lost.
        """
        await asyncio.get_running_loop().create_future()

    @abstractmethod
    async def read_members(self, topic: str, group: str, handler: str | None) -> Sequence[str]:
        """Return the ids of all live sessions registered for this, sorted."""

    @abstractmethod
    async def read_free(self, topic: str, group: str, handler: str) -> Sequence[int]:
        """Return the partitions of an ordered handler that no live session holds, in order.

        One that is stored as this session's, which it does not hold, is among them.
        """

    async def read_lost(self, topic: str, group: str, handler: str) -> Sequence[int]:
        """Return the partitions of an ordered handler that are stored as this session's and that it does not hold.

        A server that went back in time has such: to the other members they look held, so that nobody takes
        them but this session. A broker that can't go back has none.
        """
        return []

    @abstractmethod
    async def acquire(self, cursor: Cursor) -> Consumer | None:
        """Take the lease of an ordered cursor; None while another live session holds it."""
