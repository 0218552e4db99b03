"""The core that all parts of one broker object share: server, limits, clock and topics."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from pspf.backoff import Outage
from pspf.clock import Clock, SystemClock
from pspf.connectors.contract.limits import Limits
from pspf.connectors.routing import Router
from pspf.connectors.valkey.connection.connector import ValkeyConnector
from pspf.connectors.valkey.connection.wire import Lane, LoopLanes
from pspf.connectors.valkey.log.retention import Trimmer
from pspf.connectors.valkey.log.topics import Topics

if TYPE_CHECKING:
    from pspf.connectors.valkey.connection.blocking_reads import BlockingReads


class Core:
    """One broker object's common things. Making one opens nothing.

    Without a clock of the caller's the server's clock counts, for leases, due times and ids.
    """

    def __init__(self, connector: ValkeyConnector, limits: Limits, clock: Clock | None, outage: Outage) -> None:
        self.connector = connector
        self.limits = limits
        self.has_own_clock: Final = clock is not None
        self.clock: Final[Clock] = clock or SystemClock()
        self.outage: Final = outage
        self._lanes = LoopLanes(lambda: self.trimmer.forget_cursors(), outage.worked)
        self._ticks: list[Callable[[], Awaitable[None]]] = []
        self.reads: Final[WeakSet[BlockingReads]] = WeakSet()
        self.commands = self.open_lane("commands")
        """For what answers at once and belongs to no consumer."""
        self.topics = Topics(self.commands)
        self.router = Router()
        self.trimmer = Trimmer(self.topics, limits, self.clock, self.now)

    def now(self) -> str:
        """Return what scripts take as `now`: empty for the server's clock."""
        return str(self.clock.now_ms()) if self.has_own_clock else ""

    def open_lane(self, purpose: str, *, gives_way: bool = False) -> Lane:
        """Return a lane that is closed with the broker, if not before; `gives_way` to others, of descriptors."""
        return Lane(self.connector, purpose, self._lanes, gives_way=gives_way)

    async def close_lanes(self) -> None:
        """Close all lanes; a lane that is used afterwards opens again."""
        await self._lanes.close()

    def add_tick(self, tick: Callable[[], Awaitable[None]]) -> None:
        """Have `tick` run by `tick()`."""
        self._ticks.append(tick)

    async def tick(self) -> None:
        """Do what is due by the caller's clock, which no thread can wait for; nothing with the server's."""
        if self.has_own_clock:
            for tick in self._ticks:
                await tick()

    async def call_back(self) -> None:
        """End all reads that wait by the caller's clock, which may have been moved; nothing with the server's."""
        if self.has_own_clock:
            for reads in list(self.reads):
                await reads.call_back()
