"""A worker's membership of a broker: what it holds is nobody else's while it lives."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from pspf.connectors.contract.assigned import AssignedCursors
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

    @property
    def lease_left_ms(self) -> int | None:
        """How long this session still holds what is its own, if nothing renews it; negative: others may take it.

        None where it can't be lost. Safe from any thread.
        """
        return None

    @abstractmethod
    async def register(self, topic: str, group: str, handler: str | None, *, start: str = START) -> int:
        """Join a group: make the topic and its cursors where missing; return the number of partitions.

        The cursors are those of an ordered `handler`, the group's shared ones with None. `start` is `start`, `end` or a
        record id, and counts only where a cursor is made.

        Raises:
            ConfigurationError: `start` is none of these.
        """

    @abstractmethod
    async def count_partitions(self, topic: str) -> int | None:
        """Return the partitions of a topic now: it may have been deleted and created again. None where it is gone."""

    def assigned(
        self, topic: str, group: str, handler: str, partitions: int, on_unread: Callable[[tuple[int, ...]], None]
    ) -> AssignedCursors:
        """Return the stream of the ordered cursors that are assigned to this session, of so many partitions.

        `register` comes before. `on_unread` gets, whenever that is looked at, the partitions that nobody has read
        for long.
        """
        raise lacking("ordered")

    async def take_beside(self, home: Consumer, cursor: Cursor) -> Consumer | None:
        """Take another ordered cursor for a handler of several topics; None where there is no such cursor.

        `home` is the handler's cursor of its first topic, in this session's hands. Who has that has the others: they
        are taken even where another live session holds them, which is fenced by that.

        Raises:
            CommitFenced: `home` is another worker's by now.
        """
        raise lacking("joint_commits")

    async def share(self, cursor: Cursor) -> Consumer:
        """Consume a shared cursor beside others.

        Raises:
            NotFound: There is no such cursor: `register` comes before.
        """
        raise lacking("shared")

    @abstractmethod
    async def close(self) -> None:
        """Give all back and leave, at once and uncharged. Safe to call twice."""

    @abstractmethod
    def abandon(self) -> None:
        """Stop as a killed process does: nothing is given back, others find out. For tests."""
