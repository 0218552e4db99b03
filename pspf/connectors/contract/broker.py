"""The broker object: opened and closed on behalf of several users in one process."""

from abc import abstractmethod
from types import TracebackType
from typing import Final, Self

from pspf.backoff import Outage
from pspf.concurrency.turn import Turn
from pspf.connectors.contract.capabilities import Capabilities
from pspf.connectors.contract.inspection import Inspection
from pspf.connectors.contract.limits import Limits
from pspf.connectors.contract.log import Log
from pspf.connectors.contract.membership import Session
from pspf.connectors.contract.operations import Operations
from pspf.connectors.contract.roster import Roster


class Broker(Log, Inspection):
    """A broker: topics and their logs, groups and what they remember. One object per process."""

    name: str
    """Kind and place, without secrets."""
    limits: Limits
    """The sizes and times in force."""
    capabilities: Capabilities
    """What it can do: the same for all brokers of a class, and known before one is opened."""
    operations: Operations
    """What an administrator may do."""
    roster: Roster
    """Who works on it."""

    def __init__(self) -> None:
        self.outage: Final = Outage()
        """What all that use it share while it is away."""
        self.is_open = False
        """Whether it was opened and not closed since."""
        self._turn = Turn()
        self._users: frozenset[object] = frozenset()
        self._tries = 0
        self._failure: tuple[int, Exception] | None = None

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def is_there(self) -> bool:
        """Whether it can be looked at without making it; of a server it is not known before it was asked."""
        return True

    @property
    def identity(self) -> str | None:
        """What tells this broker from another one at its place, once it was opened; None where nothing does."""
        return None

    def expect(self, identity: str | None) -> None:
        """Refuse, from now on, to open another broker at the place that `identity` was taken at, or to make one."""
        return  # a server is what answers at its address

    def find_obstacle(self) -> str | None:
        """Return who keeps an open broker from being written to, and since when; None where nothing is known of it.

        May be called from any thread.
        """
        return None

    @property
    def secret_url(self) -> str | None:
        """The URL by which another process opens the same broker, with its password: never to be shown.

        None where no other process can.
        """
        return None

    # Opening and closing. Tasks of any event loop share the object, so that one opens or closes it at a time.

    async def connect(self) -> None:
        """Open the broker; a second call does nothing.

        Raises:
            BackendUnavailable: It can't be reached.
            BackendCorrupt: It is damaged or of a newer format.
        """
        begun = self._tries
        async with self._turn:
            await self._connect(begun)

    async def close(self) -> None:
        """Close it and all its sessions; a second call does nothing, and `connect` works again."""
        async with self._turn:
            await self._shut()

    async def enter(self, user: object) -> None:
        """Connect on behalf of `user`, one of several that share this object. Errors as in `connect`."""
        begun = self._tries
        async with self._turn:
            await self._connect(begun)
            self._users |= {user}

    async def leave(self, user: object) -> None:
        """End what `enter` began; the last user to leave closes."""
        async with self._turn:
            self._users -= {user}
            if not self._users:
                await self._shut()

    async def _connect(self, begun: int) -> None:
        """Open it, where `begun` tries had begun when the caller asked: a later one that failed answers for this one.

        A broker that is away would else be waited for by each of many callers, one after the other.
        """
        if self._failure is not None and self._failure[0] > begun:
            raise self._failure[1]
        self._tries += 1
        try:
            await self._open()
        except Exception as error:
            self._failure = (self._tries, error)
            raise
        self._failure = None
        self.is_open = True

    async def _shut(self) -> None:
        self.is_open = False
        await self._close()

    @abstractmethod
    async def _open(self) -> None:
        """Open it, or do nothing where it is open. Where it fails or is cancelled, nothing is left open."""

    @abstractmethod
    async def _close(self) -> None:
        """Close it and all its sessions, or do nothing where it is closed."""

    @abstractmethod
    async def ping(self) -> None:
        """Answer, or raise BackendUnavailable."""

    @abstractmethod
    async def open_session(self, name: str | None = None) -> Session:
        """Join as a worker; `name` replaces the host's name in the session's id."""
