"""The brokers under test. A new broker adds one `Kind` to `KINDS` and passes the same tests."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from pspf.clock import ManualClock
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.capabilities import Capabilities
from pspf.connectors.contract.limits import Limits
from pspf.connectors.contract.membership import Session
from pspf.connectors.leases.session import LeasedSession
from pspf.connectors.memory import MemoryBroker
from pspf.connectors.sqlite.broker import SQLBroker, SQLiteBroker
from pspf.connectors.valkey.broker import ValkeyBroker
from pspf.connectors.valkey.connection.connector import ValkeyConnector
from tests.support.assigning import AssigningBroker
from tests.support.servers import hall

_NOTICE_MS: Final = 2_000
"""How long after its lease a dead session is noticed at the latest."""
_STEP_MS: Final = 1_000


def leased(session: Session) -> LeasedSession:
    """Return a session whose ordered cursors are leases, which the brokers here have: it can acquire one by name."""
    assert isinstance(session, LeasedSession)
    return session


@asynccontextmanager
async def still(broker: Broker) -> AsyncIterator[None]:
    """Have a process do nothing by itself, as one that is stopped: its thread looks at the clock in real time.

    A server's brokers with a clock of the caller's have no thread.
    """
    if not isinstance(broker, SQLBroker):
        yield
        return
    kept = broker._engine._chores
    chores = dict(kept)
    await broker._engine.read(lambda storage: kept.clear())  # on its thread, which may be at them
    yield
    await broker._engine.read(lambda storage: kept.update(chores))


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of broker: `make(folder, limits, clock)` constructs one that can do `can`."""

    name: str
    make: Callable[[Path, Limits, ManualClock | None], Broker]
    can: Capabilities

    @property
    def is_shared(self) -> bool:
        """Whether a second broker object sees its data."""
        return self.can.multi_process


def make_on_server(name: str) -> Callable[[Path, Limits, ManualClock | None], Broker]:
    """Return the maker of brokers on the session's server called `name`; each folder is a database of its own."""

    def make(folder: Path, limits: Limits, clock: ManualClock | None) -> Broker:
        shared = hall(name)
        connector = ValkeyConnector(host="127.0.0.1", port=shared.server.port, db=shared.database_of(folder))
        return ValkeyBroker(connector, limits, clock)

    return make


KINDS: Final = (
    Kind("memory", lambda folder, limits, clock: MemoryBroker(limits, clock), MemoryBroker.capabilities),
    Kind(
        "sqlite",
        lambda folder, limits, clock: SQLiteBroker(folder / "broker.db", limits, clock),
        SQLiteBroker.capabilities,
    ),
    Kind("valkey", make_on_server("valkey"), ValkeyBroker.capabilities),
    Kind("redis", make_on_server("redis"), ValkeyBroker.capabilities),
)

needs = pytest.mark.needs
"""Marks a test with the capabilities that it needs of a broker."""

ASSIGNING: Final = Kind(
    "assigning", lambda folder, limits, clock: AssigningBroker(limits, clock), AssigningBroker.capabilities
)


class World:
    """One broker and what belongs to it: it can be closed and opened again, or seen as another process sees it."""

    def __init__(self, kind: Kind, folder: Path, limits: Limits, clock: ManualClock | None) -> None:
        self.kind = kind
        self.limits = limits
        self._folder = folder
        self._clock = clock
        self._others: list[Broker] = []
        self.broker = self._make()

    def _make(self) -> Broker:
        return self.kind.make(self._folder, self.limits, self._clock)

    async def start(self) -> None:
        """Open the broker."""
        await self.broker.connect()

    async def reopen(self) -> Broker:
        """Close the broker with all its sessions and open what it stored again."""
        await self.broker.close()
        if self.kind.is_shared:
            self.broker = self._make()
        await self.broker.connect()
        return self.broker

    async def open_other(self) -> Broker:
        """Return a second broker object on the same data, as another process has one."""
        if not self.kind.is_shared:
            return self.broker
        other = self._make()
        self._others.append(other)
        await other.connect()
        return other

    async def expire_leases(self) -> None:
        """Let so much time pass that whoever stopped renewing has lost what it held."""
        await self.pass_time(self.limits.lease_ms + _NOTICE_MS)

    async def pass_time(self, by_ms: int) -> None:
        """Move the clock in small steps, in each of which every broker gets to work: those that live keep renewing."""
        assert self._clock is not None, "only a manual clock can be moved"
        while by_ms > 0:
            self._clock.advance(min(by_ms, _STEP_MS))
            by_ms -= _STEP_MS
            for broker in (self.broker, *self._others):
                await broker.ping()

    async def stop(self) -> None:
        """Close all of them."""
        for broker in (*self._others, self.broker):
            await broker.close()
