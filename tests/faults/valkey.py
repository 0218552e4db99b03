"""A server, a proxy before it, and the app of these tests on both: in this process, so that a test decides when."""

import hashlib
import pkgutil
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from typing import Final

import pspf.connectors.valkey
from pspf import Stream
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.contract.limits import Limits
from pspf.connectors.valkey.broker import ValkeyBroker
from pspf.connectors.valkey.connection.connector import ValkeyConnector
from pspf.connectors.valkey.connection.scripts import Script
from pspf.records import NewRecord
from tests.faults import app
from tests.faults.runs import TOPIC, Event, check_exactly_once
from tests.integration.running import running
from tests.support.proxy import Command, Matcher, Proxy
from tests.support.servers import Server
from tests.support.waiting import wait_until

QUICK: Final = Limits(lease_ms=1_500, renew_ms=300, emit_timeout_ms=20_000)
"""Leases that a test can wait for."""
SECONDS_MS: Final = 40_000
"""How long anything may take, on a busy machine."""


CURSORS: Final = {("sums", "totals"), ("watch", None)}
"""(group, handler) of the app's handlers."""


def scripts(*names: str) -> Matcher:
    """Return what picks calls of PSPF's scripts, by hash or with their text.

    It fails where there is no such script: a test of a fault that never comes proves nothing.
    """
    known = {script.name: script.sha for script in find_scripts()}
    wanted = {known[name].encode() for name in names}

    def picks(command: Command) -> bool:
        word = command[0].upper()
        if word == b"EVALSHA":
            return command[1] in wanted
        return word == b"EVAL" and hashlib.sha1(command[1], usedforsecurity=False).hexdigest().encode() in wanted

    return picks


def find_scripts() -> list[Script]:
    """Return all scripts."""
    found: dict[str, Script] = {}
    for module in pkgutil.walk_packages(pspf.connectors.valkey.__path__, "pspf.connectors.valkey."):
        loaded = import_module(module.name)
        found |= {value.name: value for value in vars(loaded).values() if isinstance(value, Script)}
    return list(found.values())


class Site:
    """An empty database of a server, and the way to it through a proxy."""

    def __init__(self, server: Server, proxy: Proxy, database: int = 0) -> None:
        self.server = server
        self.proxy = proxy
        self.database = database

    def broker(self, limits: Limits = QUICK, *, direct: bool = False) -> ValkeyBroker:
        """Return a broker that comes through the proxy, or directly."""
        port = self.server.port if direct else self.proxy.port
        return ValkeyBroker(ValkeyConnector("127.0.0.1", port, self.database), limits, None)

    def backend(self, limits: Limits = QUICK, *, topic: str = TOPIC, group: str = "sums") -> StreamingBackend:
        """Return a backend that comes through the proxy."""
        return StreamingBackend(self.broker(limits), topic, group)

    def stream(self, limits: Limits = QUICK) -> Stream:
        """Return a stream with the handlers of `tests.faults.app`: sums in order, alerts in shared mode."""
        stream = Stream(self.backend(limits))
        stream.include(app.stream)
        return stream

    async def fill(self, events: Sequence[Event], *, partitions: int = 2) -> None:
        """Append the events, past the proxy."""
        await self.append([event.as_record() for event in events], partitions=partitions)

    async def append(self, records: Sequence[NewRecord], *, topic: str = TOPIC, partitions: int | None = None) -> None:
        """Append records, past the proxy."""
        async with self.broker(direct=True) as broker:
            await broker.create_topic(topic, partitions=partitions)
            await broker.append(topic, records)

    @asynccontextmanager
    async def working(self, workers: int = 1, limits: Limits = QUICK) -> AsyncIterator[list[Stream]]:
        """Run that many workers with the app while the block lasts."""
        streams = [self.stream(limits) for _ in range(workers)]
        async with AsyncExitStack() as stack:
            for stream in streams:
                await stack.enter_async_context(running(stream))
            yield streams

    async def finish(self, *, within_ms: int = SECONDS_MS) -> None:
        """Return when the app's handlers have nothing left, as seen past the proxy."""
        async with self.broker(direct=True) as broker:

            async def nothing_is_left() -> bool:
                infos = [info for info in await broker.list_cursors() if info.cursor.topic == TOPIC]
                found = {(info.cursor.group, info.cursor.handler) for info in infos}
                return found == CURSORS and all(info.lag == 0 for info in infos)

            await wait_until(nothing_is_left, timeout_ms=within_ms)

    async def check(self, events: Sequence[Event]) -> None:
        """Check that all of `events` took effect exactly once, as seen past the proxy."""
        async with self.broker(direct=True) as broker:
            await check_exactly_once(broker, events)
