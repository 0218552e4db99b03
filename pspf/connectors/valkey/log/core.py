"""The core that all parts of one broker object share: server, limits, clock and topics."""

from collections.abc import Awaitable, Callable
from typing import Final
from weakref import WeakSet

from pspf.backoff import Outage
from pspf.clock import Clock, SystemClock
from pspf.connectors.contract.limits import Limits
from pspf.connectors.routing import Router
from pspf.connectors.valkey.connection.blocking_reads import BlockingReads, ReadClock
from pspf.connectors.valkey.connection.connector import ValkeyConnector
from pspf.connectors.valkey.connection.pool import ConnectionPool, Lanes
from pspf.connectors.valkey.connection.wire import Lane
from pspf.connectors.valkey.log.keys import TOPICS_KEY
from pspf.connectors.valkey.log.retention import Trimmer
from pspf.connectors.valkey.log.topics import Topics


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
        self.pool: Final = ConnectionPool(connector, lambda: self.trimmer.forget_cursors(), outage.worked)
        self._ticks: list[Callable[[], Awaitable[None]]] = []
        self._reads: WeakSet[BlockingReads] = WeakSet()
        self.lanes: Final = self.pool.lanes("commands")
        """For what answers at once and belongs to no consumer."""
        self.commands: Final = self.lanes.lane_for(TOPICS_KEY)
        """Of these the one for what has no key, or one of the whole database."""
        self.topics = Topics(self.lanes)
        self.router = Router()
        self.trimmer = Trimmer(self.topics, limits, self.clock, self.now)

    def now(self) -> str:
        """Return what scripts take as `now`: empty for the server's clock."""
        return str(self.clock.now_ms()) if self.has_own_clock else ""

    def lane_for(self, key: bytes) -> Lane:
        """Return the lane for what answers at once about a key, and belongs to no consumer."""
        return self.lanes.lane_for(key)

    def open_reads(self, stream: bytes, commits: Lanes) -> BlockingReads:
        """Return a connection for reads of a stream that wait; `commits` are the lanes by which one is called back."""
        lane = self.pool.open_lane(stream, "reads", gives_way=True)
        reads = BlockingReads(lane, lambda: commits.lane_for(stream), ReadClock(self.clock, self.has_own_clock))
        self._reads.add(reads)
        return reads

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
            for reads in list(self._reads):
                await reads.call_back()
