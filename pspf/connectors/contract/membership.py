"""A worker's membership of a broker: what it holds is nobody else's while it lives."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence

from pspf.connectors.contract.capabilities import lacking
from pspf.connectors.contract.cursors import Consumer
from pspf.connectors.contract.values import (
    START,
)
from pspf.records import (
    Cursor,
)


class Session(ABC):
    """One worker's membership of the broker, kept alive by itself, whatever the event loop does."""

    id: str
    """`host-pid-random`, unique for ever."""
    review_ms: int = 500
    """How often to ask who the members are: what one leaves, the others take up so soon."""

    @property
    def lease_left_ms(self) -> int | None:
        """How long this session still holds what is its own, if nothing renews it; negative: others may take it.

        None where it can't be lost. Safe from any thread.
        """
        return None

    @abstractmethod
    async def register(self, topic: str, group: str, handler: str | None, *, start: str = START) -> int:
        """Join a group: make the topic and its cursors where missing; return the number of partitions.

        `start` is `start`, `end` or a record id, and counts only where a cursor is made.

        Raises:
            ConfigurationError: `start` is none of these.
        """

    @abstractmethod
    async def count_partitions(self, topic: str) -> int | None:
        """Return how many partitions a topic has now: it may have been deleted and made anew. None where it is gone."""

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

    async def share(self, cursor: Cursor) -> Consumer:
        """Consume a shared cursor beside others."""
        raise lacking("shared")

    @abstractmethod
    async def close(self) -> None:
        """Give all back and leave, at once and uncharged. Safe to call twice."""

    @abstractmethod
    def abandon(self) -> None:
        """Stop as a killed process does: nothing is given back, others find out. For tests."""
