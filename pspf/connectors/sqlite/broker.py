"""The embedded broker: one SQLite file that processes share, or a private one in memory."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from pspf.clock import Clock, SystemClock
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
from pspf.connectors.sqlite import dead_letters, entries, inspect, log, topics
from pspf.connectors.sqlite.effects import Effects, Trimmer
from pspf.connectors.sqlite.engine.base import ANY_PARTITION, Engine, Nothing, OutcomeUnknown, Poll
from pspf.connectors.sqlite.engine.inline import InlineEngine
from pspf.connectors.sqlite.engine.threaded import ThreadEngine
from pspf.connectors.sqlite.filesystem import find_filesystem, warn_of_network
from pspf.connectors.sqlite.liveness import FileLiveness, Liveness, MemoryLiveness
from pspf.connectors.sqlite.membership import Membership, Renewal, read_boot_id
from pspf.connectors.sqlite.operations import SQLOperations
from pspf.connectors.sqlite.reaper import Reaper
from pspf.connectors.sqlite.roster import SQLRoster
from pspf.connectors.sqlite.session import SQLiteSession
from pspf.connectors.sqlite.storage import Storage
from pspf.connectors.state_entries import list_state
from pspf.errors import ConfigurationError, EmitUnknown
from pspf.records import Appended, Cursor, EntryPlace, NewRecord, Record, check_name, companion_source


class SQLBroker(Broker):
    """The broker on an engine: what the file and the memory one have in common."""

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

    def __init__(self, engine: Engine, liveness: Liveness, limits: Limits, boot_id: str) -> None:
        super().__init__()
        self.name = engine.storage.name
        self.limits = limits
        self._engine = engine
        self._liveness = liveness
        self._boot_id = boot_id
        self._log = log.Log(limits, engine.clock, boot_id)
        self._effects = Effects(engine, self._log)
        self._trimmer = Trimmer(engine)
        self._renewal = Renewal(liveness, engine.clock, limits.renew_ms)
        self.operations = SQLOperations(engine, liveness)
        self.roster = SQLRoster(engine)
        self._logs = entries.Logs()
        self._sessions: list[SQLiteSession] = []
        reaper = Reaper(liveness, self._renewal, engine.clock, limits, boot_id)
        engine.add_chore(self._renewal)
        engine.add_chore(reaper)

    async def _open(self) -> None:
        await self._engine.open()

    async def _close(self) -> None:
        sessions, self._sessions = self._sessions, []
        try:
            for session in sessions:
                await session.close()
        finally:
            await self._engine.close()

    async def ping(self) -> None:
        await self._engine.read(lambda storage: storage.rows("SELECT 1"))

    async def open_session(self, name: str | None = None) -> Session:
        membership = Membership(make_session_id(name), self._engine.clock, self._boot_id)
        session = SQLiteSession(self._engine, self._effects, membership, self._liveness, self._renewal, self.outage)
        await session.open()
        self._sessions = [other for other in self._sessions if other.is_open]
        self._sessions.append(session)
        return session

    async def create_topic(self, topic: str, *, partitions: int | None = None, retention_ms: int | None = None) -> bool:
        now_ms = self._engine.clock.now_ms()
        return await self._engine.write(
            lambda storage: topics.create_topic(storage, topic, partitions, retention_ms, now_ms)
        )

    async def list_topics(self) -> Sequence[TopicInfo]:
        return await self._engine.read(lambda storage: inspect.list_topics(storage, self.limits))

    async def read_topic(self, topic: str) -> tuple[TopicInfo, Sequence[PartitionInfo]]:
        return await self._engine.read(lambda storage: inspect.read_topic(storage, topic, self.limits))

    async def append(self, topic: str, records: Sequence[NewRecord]) -> Sequence[Appended]:
        if companion_source(check_name("topic", topic)) is not None:
            raise ConfigurationError(f"topic {topic!r}: dead and late records are written by PSPF alone")
        if not records:
            return []
        self.limits.check_all(records)
        try:
            return await self._engine.write(
                lambda storage: self._append(storage, topic, records), patience_ms=self.limits.emit_timeout_ms
            )
        except OutcomeUnknown as error:
            raise EmitUnknown(f"{len(records)} for {topic!r} may be stored or not: {error}") from error

    def _append(self, storage: Storage, topic: str, records: Sequence[NewRecord]) -> list[Appended]:
        now_ms = self._engine.clock.now_ms()
        found = topics.ensure_topic(storage, topic, now_ms)
        places = self._log.append(storage, found, records, now_ms)
        for number in {place[0] for place in places}:
            self._engine.grown.add(found.partitions[number].partition_id)
            self._trimmer.trim_if_due(storage, found.partitions[number].partition_id, now_ms)
        return places

    async def read(self, topic: str, partition: int, *, offset: int, max_records: int) -> Sequence[Record]:
        def read(storage: Storage) -> list[Record]:
            found = topics.get_partition(storage, topic, partition)
            if offset >= found.next:  # an id of anybody's, which may be larger than the bits that an offset has
                return []
            return log.read_range(storage, topic, found.partition_id, partition, offset, found.next, max_records)

        return await self._engine.read(read)

    async def find_offset(self, topic: str, partition: int, *, at_ms: int) -> int:
        return await self._engine.read(
            lambda storage: log.find_offset(storage, topics.get_partition(storage, topic, partition), at_ms)
        )

    async def wait(self, topic: str, *, timeout_ms: int) -> None:
        before = await self._engine.read(lambda storage: _end(storage, topic))
        await self._engine.poll(
            Poll(ANY_PARTITION, lambda storage: True if _end(storage, topic) != before else Nothing(), None, timeout_ms)
        )

    async def list_cursors(self, *, group: str | None = None, topic: str | None = None) -> Sequence[CursorInfo]:
        return await self._engine.read(lambda storage: inspect.list_cursors(storage, group, topic, self._engine.clock))

    async def list_consumers(self, *, group: str | None = None) -> Sequence[ConsumerInfo]:
        return await self._engine.read(
            lambda storage: inspect.list_consumers(storage, group, self._engine.clock, self._liveness.is_dead)
        )

    async def list_dead_letters(
        self, *, topic: str | None = None, group: str | None = None
    ) -> Sequence[StoredDeadLetter]:
        return await self._engine.read(lambda storage: dead_letters.list_letters(storage, topic, group))

    async def replay_dead_letters(self, letters: Sequence[StoredDeadLetter], *, to: str | None = None) -> int:
        return await self._engine.write(
            lambda storage: dead_letters.replay(self._engine, self._log, storage, letters, to)
        )

    async def purge_dead_letters(self, letters: Sequence[StoredDeadLetter]) -> int:
        return await self._engine.write(lambda storage: dead_letters.purge(self._engine, storage, letters))

    async def list_state(
        self,
        *,
        handler: str | None = None,
        group: str | None = None,
        key: bytes | None = None,
        name: str | None = None,
        max_entries: int | None = None,
    ) -> Sequence[StateEntry]:
        cursors = await self._engine.read(lambda storage: inspect.list_ordered(storage, handler, group))
        return await list_state(self, cursors, key, name, max_entries, self._engine.clock.now_ms())

    async def list_operators(
        self, *, handler: str | None = None, group: str | None = None, topic: str | None = None
    ) -> Sequence[StoredOperator]:
        return await self._engine.read(
            lambda storage: entries.list_operators(storage, self._logs, handler, group, topic)
        )

    async def read_entries(self, cursor: Cursor, places: Sequence[EntryPlace]) -> Mapping[EntryPlace, bytes]:
        def read(storage: Storage) -> Mapping[EntryPlace, bytes]:
            cursor_id = entries.find_cursor(storage, cursor)
            return entries.read_entries(storage, cursor_id, self._logs.overlay(storage, cursor_id), places)

        return await self._engine.read(read)

    async def scan_entries(
        self, cursor: Cursor, namespace: int, *, after: bytes | None = None, max_entries: int = 1_000
    ) -> Sequence[tuple[bytes, bytes]]:
        def scan(storage: Storage) -> Sequence[tuple[bytes, bytes]]:
            cursor_id = entries.find_cursor(storage, cursor)
            overlay = self._logs.overlay(storage, cursor_id)
            return entries.scan_entries(storage, cursor_id, overlay, namespace, after, max_entries)

        return await self._engine.read(scan)


def _end(storage: Storage, topic: str) -> int:
    found = topics.find_topic(storage, topic)
    return 0 if found is None else sum(partition.next for partition in found.partitions)


class SQLiteBroker(SQLBroker):
    """The broker in a file. Made anywhere, opened after the process has started."""

    def __init__(self, path: Path, limits: Limits | None = None, clock: Clock | None = None) -> None:
        limits = limits or Limits()
        engine = ThreadEngine(Storage(path, limits), clock or SystemClock(), limits)
        super().__init__(engine, FileLiveness(path), limits, read_boot_id())
        self._path = path

    @property
    def is_there(self) -> bool:
        try:
            return self._path.exists()
        except OSError:  # opening it raises the reason
            return True

    @property
    def identity(self) -> str | None:
        file = self._engine.storage.file
        return None if file is None else f"{file[0]}:{file[1]}:{self._path.absolute()}"

    def expect(self, identity: str | None) -> None:
        if identity is not None:
            device, inode, path = identity.split(":", 2)
            if Path(path) == self._path.absolute():
                self._engine.storage.file = int(device), int(inode)

    def find_obstacle(self) -> str | None:
        return self._engine.storage.find_obstacle()

    @property
    def secret_url(self) -> str:
        return f"sqlite:///{quote(str(self._path.absolute()))}?synchronous={self.limits.synchronous}"

    async def _open(self) -> None:
        await super()._open()
        warn_of_network(self.name, find_filesystem(self._path))


class MemoryBroker(SQLBroker):
    """The broker in memory: it lives as long as this object, over event loops and `close`."""

    capabilities = replace(SQLBroker.capabilities, multi_process=False)

    def __init__(self, limits: Limits | None = None, clock: Clock | None = None) -> None:
        limits = limits or Limits()
        engine = InlineEngine(Storage(None, limits), clock or SystemClock(), limits)
        super().__init__(engine, MemoryLiveness(), limits, "")

    async def ping(self) -> None:
        await super().ping()
        self._engine.look_again()  # polls may wait by a clock of the caller's that has moved
