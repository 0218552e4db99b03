"""The ordered cursors that are assigned to a session, as a stream: each is run until it is revoked, then given back."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from pspf.connectors.contract.cursors import Consumer


class Assigned:
    """An ordered cursor that is a session's until it is given back.

    assigned --revoke--> revoked --given_back--> given back
       |                                            ^
       +---------given_back: its owner ended--------+
    """

    def __init__(self, consumer: Consumer, on_given_back: Callable[["Assigned"], None]) -> None:
        self.consumer = consumer
        self.is_revoked = False
        self._on_given_back = on_given_back
        self._on_revoked: Callable[[], None] | None = None

    @property
    def partition(self) -> int:
        """The partition of its cursor."""
        return self.consumer.cursor.partition

    def when_revoked(self, callback: Callable[[], None]) -> None:
        """Have `callback` called when it is revoked, at once if it is. There is one callback."""
        self._on_revoked = callback
        if self.is_revoked:
            callback()

    def revoke(self) -> None:
        """Ask its owner to give it back, after the batch in hand; a second call does nothing."""
        if not self.is_revoked:
            self.is_revoked = True
            if self._on_revoked is not None:
                self._on_revoked()

    def given_back(self) -> None:
        """Note that its owner has released it, or can't hold it any more."""
        self._on_given_back(self)


class AssignedCursors(ABC):
    """The cursors of one ordered handler that are assigned to a session.

    Its user asks `take` until nothing is assigned, then `wait`, and so on.
    """

    @abstractmethod
    async def take(self) -> Assigned | None:
        """Return a cursor that is newly assigned, None where there is none now.

        May be called again after an error; what was assigned meanwhile is not lost.

        Raises:
            NotFound: The topic has fewer partitions by now.
        """

    @abstractmethod
    async def wait(self) -> None:
        """Return when `take` may have something again, or after `wake`. It may last, and says nothing of the broker."""

    @abstractmethod
    def wake(self) -> None:
        """End a `wait`."""

    @abstractmethod
    async def close(self) -> None:
        """Stop being assigned more; what is held stays until it is given back."""

    @abstractmethod
    async def resign(self) -> None:
        """Tell the others that this session takes none any more, after `close`; what is held stays."""
