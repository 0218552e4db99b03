"""The broker on a Valkey or Redis server."""

from collections.abc import Mapping, Sequence

from pspf.clock import Clock
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.capabilities import Capabilities
from pspf.connectors.contract.limits import Limits
from pspf.connectors.contract.membership import Session
from pspf.connectors.contract.values import (
    ConsumerInfo,
    CursorInfo,
    PartitionInfo,
    StateEntry,
    StoredDeadLetter,
    StoredOperator,
    TopicInfo,
)
from pspf.connectors.identity import make_session_id
from pspf.connectors.state_entries import list_state
from pspf.connectors.valkey.connection.acl import refuse_unpermitted
from pspf.connectors.valkey.connection.checks import check_server
from pspf.connectors.valkey.connection.connector import ValkeyConnector
from pspf.connectors.valkey.connection.wire import BLOCK_MARGIN_MS, Lane
from pspf.connectors.valkey.consume import entries
from pspf.connectors.valkey.consume.liveness import Member, Renewal
from pspf.connectors.valkey.consume.session import ValkeySession
from pspf.connectors.valkey.consume.upgrade import upgrade
from pspf.connectors.valkey.log.core import Core
from pspf.connectors.valkey.log.keys import stream_name
from pspf.connectors.valkey.log.log import Log, read_range
from pspf.connectors.valkey.operations import dead_letters, inspect
from pspf.connectors.valkey.operations.operations import ValkeyOperations
from pspf.connectors.valkey.operations.roster import ValkeyRoster
from pspf.errors import BackendUnavailable, ConfigurationError
from pspf.loggers import get_logger
from pspf.records import (
    COMPANION_SUFFIXES,
    Appended,
    Cursor,
    EntryPlace,
    NewRecord,
    Record,
    check_name,
    companion_source,
)

logger = get_logger(__name__)


class ValkeyBroker(Broker):
    """The broker on one server. Made anywhere, opened on first use; usable from one event loop after the other.

    Without a clock of the caller's the server's clock counts. `consumer_name` replaces the host's
    name in the ids of sessions.
    """

    capabilities = Capabilities(
        shared=True,
        ordered=True,
        leases=True,
        retries=True,
        joint_commits=True,
        entries=True,
        crash_counts=True,
        dedup=True,
        pending=True,
        seek=True,
        replay=True,
        trim=True,
        repartition=True,
        roster=True,
        multi_process=True,
    )

    def __init__(
        self,
        connector: ValkeyConnector,
        limits: Limits | None = None,
        clock: Clock | None = None,
        *,
        consumer_name: str | None = None,
    ) -> None:
        super().__init__()
        self.name = connector.name
        self.limits = limits or Limits()
        self._consumer_name = consumer_name
        self._core = Core(connector, self.limits, clock, self.outage)
        self.operations = ValkeyOperations(self._core)
        self.roster = ValkeyRoster(self._core)
        self._log = Log(self._core)
        self._renewal = Renewal(self._core)
        self._sessions: list[ValkeySession] = []
        self._waiting_lanes: list[Lane] = []
        self._warnings: list[str] | None = None

    @property
    def secret_url(self) -> str:
        return self._core.connector.secret_url

    async def _open(self) -> None:
        if self._warnings is not None:
            return
        try:
            warnings = await check_server(self._core.commands)
            await upgrade(self._core)
            self._warnings = warnings
        except BaseException:
            await self._core.pool.close()
            raise

    async def _close(self) -> None:
        sessions, self._sessions = self._sessions, []
        for session in sessions:
            try:
                await session.close()
            except BackendUnavailable as error:
                logger.warning("%s: %s holds what it has until its lease ends: %s", self.name, session.id, error)
        await self._log.close()
        await self._renewal.stop()
        await self._core.pool.close()
        self._waiting_lanes.clear()
        self._warnings = None

    async def ping(self) -> None:
        await self._core.commands.call("PING")
        await self._core.tick()
        await self._core.call_back()

    async def open_session(self, name: str | None = None) -> Session:
        for warning in self._warnings or ():
            logger.warning("%s: %s", self.name, warning)
        self._warnings = []
        await refuse_unpermitted(self._core.commands)
        member = Member(self._core, make_session_id(name or self._consumer_name))
        session = ValkeySession(self._core, member, self._renewal)
        self._sessions = [other for other in self._sessions if other.is_open]
        self._sessions.append(session)
        return session

    async def create_topic(self, topic: str, *, partitions: int | None = None, retention_ms: int | None = None) -> bool:
        return await self._core.topics.create(topic, partitions, retention_ms)

    async def list_topics(self) -> Sequence[TopicInfo]:
        return await inspect.list_topics(self._core)

    async def read_topic(self, topic: str) -> tuple[TopicInfo, Sequence[PartitionInfo]]:
        return await inspect.read_topic(self._core, topic)

    async def append(self, topic: str, records: Sequence[NewRecord]) -> Sequence[Appended]:
        if topic.endswith(COMPANION_SUFFIXES) and companion_source(check_name("topic", topic)) is not None:
            raise ConfigurationError(f"topic {topic!r}: dead and late records are written by PSPF alone")
        if not records:
            check_name("topic", topic)
            return []
        self.limits.check_all(records)
        return await self._log.append(topic, records)

    async def read(self, topic: str, partition: int, *, offset: int, max_records: int) -> Sequence[Record]:
        found = await self._core.topics.get(topic)
        return await read_range(self._core, found, partition, offset, max_records)

    async def find_offset(self, topic: str, partition: int, *, at_ms: int) -> int:
        return await inspect.find_offset(self._core, topic, partition, at_ms)

    async def wait(self, topic: str, *, timeout_ms: int) -> None:
        found = await self._core.topics.find(topic)
        streams = [stream_name(topic, 0, 1)] if found is None else [keys.stream for keys in found.partitions]
        timeout_ms = max(1, timeout_ms)  # 0 would be for ever
        lane = self._waiting_lanes.pop() if self._waiting_lanes else self._core.pool.open_lane(streams[0], "waits")
        await lane.call(
            "XREAD",
            "COUNT",
            1,
            "BLOCK",
            timeout_ms,
            "STREAMS",
            *streams,
            *(["$"] * len(streams)),
            timeout_ms=timeout_ms + BLOCK_MARGIN_MS,
        )
        self._waiting_lanes.append(lane)

    async def list_cursors(self, *, group: str | None = None, topic: str | None = None) -> Sequence[CursorInfo]:
        return await inspect.list_cursors(self._core, group, topic)

    async def list_consumers(self, *, group: str | None = None) -> Sequence[ConsumerInfo]:
        return await inspect.list_consumers(self._core, group)

    async def list_dead_letters(
        self, *, topic: str | None = None, group: str | None = None
    ) -> Sequence[StoredDeadLetter]:
        return await dead_letters.list_letters(self._core, topic, group)

    async def replay_dead_letters(self, letters: Sequence[StoredDeadLetter], *, to: str | None = None) -> int:
        return await dead_letters.replay(self._core, letters, to)

    async def purge_dead_letters(self, letters: Sequence[StoredDeadLetter]) -> int:
        return await dead_letters.purge(self._core, letters)

    async def list_state(
        self,
        *,
        handler: str | None = None,
        group: str | None = None,
        key: bytes | None = None,
        name: str | None = None,
        max_entries: int | None = None,
    ) -> Sequence[StateEntry]:
        cursors = await inspect.list_ordered(self._core, handler, group)
        return await list_state(self, cursors, key, name, max_entries, self._core.clock.now_ms())

    async def list_operators(
        self, *, handler: str | None = None, group: str | None = None, topic: str | None = None
    ) -> Sequence[StoredOperator]:
        return await entries.list_operators(self._core, handler, group, topic)

    async def read_entries(self, cursor: Cursor, places: Sequence[EntryPlace]) -> Mapping[EntryPlace, bytes]:
        keys = await entries.find_keys(self._core, cursor)
        return {} if keys is None else await entries.read_entries(self._core.lane_for(keys.meta), keys, places)

    async def scan_entries(
        self, cursor: Cursor, namespace: int, *, after: bytes | None = None, max_entries: int = 1_000
    ) -> Sequence[tuple[bytes, bytes]]:
        keys = await entries.find_keys(self._core, cursor)
        if keys is None:
            return []
        return await entries.scan_entries(self._core.lane_for(keys.meta), keys, namespace, after, max_entries)


class ValkeyStreamBackend(StreamingBackend):
    """One topic and one group on a Valkey or Redis server; opens nothing until it is used.

    `consumer_name` replaces the host's name in the ids of this process's sessions, which stay
    unique: two workers of one name don't take each other's records.
    """

    def __init__(
        self,
        connector: ValkeyConnector,
        stream_key: str = "events",
        group_name: str = "default",
        consumer_name: str | None = None,
        *,
        limits: Limits | None = None,
    ) -> None:
        super().__init__(ValkeyBroker(connector, limits, consumer_name=consumer_name), stream_key, group_name)
        self.connector = connector
        self.consumer_name = consumer_name
