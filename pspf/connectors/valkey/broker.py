"""The broker on a Valkey or Redis server."""

import asyncio
from collections.abc import Sequence

from pspf.clock import Clock
from pspf.connectors.base import (
    Broker,
    ConsumerInfo,
    CursorInfo,
    Limits,
    PartitionInfo,
    Session,
    StateEntry,
    StoredDeadLetter,
    StreamingBackend,
    TopicInfo,
)
from pspf.connectors.valkey.connector import ValkeyConnector
from pspf.connectors.valkey.core import Core
from pspf.connectors.valkey.log import Log, read_range
from pspf.errors import ConfigurationError
from pspf.records import Appended, NewRecord, Record, check_name, companion_source


class B:
    def __init__(self, connector: ValkeyConnector, limits: Limits | None = None, clock: Clock | None = None) -> None:
        self.name = connector.name
        self.limits = limits or Limits()
        self._core = Core(connector, self.limits, clock)
        self._log = Log(self._core)
    async def append(self, topic: str, records: Sequence[NewRecord]) -> Sequence[Appended]:
        if companion_source(check_name("topic", topic)) is not None:
            raise ConfigurationError(f"topic {topic!r}: dead and late records are written by PSPF alone")
        if not records:
            return []
        self.limits.check_all(records)
        return await self._log.append(topic, records)
    async def close(self):
        await self._log.close()
        await self._core.close_lanes()
