"""The session of a worker on the embedded broker."""

from collections.abc import Sequence
from typing import Final

from pspf import faults
from pspf.backoff import Outage
from pspf.connectors.contract.cursors import Consumer
from pspf.connectors.contract.values import END, START
from pspf.connectors.leases.session import LeasedSession
from pspf.connectors.sqlite.effects import Effects
from pspf.connectors.sqlite.engine.base import MEMBERS, Engine, Nothing, Poll
from pspf.connectors.sqlite.entry_log import Pool
from pspf.connectors.sqlite.liveness import Liveness
from pspf.connectors.sqlite.membership import Membership, Renewal
from pspf.connectors.sqlite.ordered import OrderedConsumer, acquire
from pspf.connectors.sqlite.shared import SharedConsumer
from pspf.connectors.sqlite.storage import Storage
from pspf.connectors.sqlite.topics import Partition, ensure_topic, find_topic, get_partition
from pspf.errors import ConfigurationError, NotFound
from pspf.records import Cursor, check_name, parse_id

_LISTEN_MS: Final = 60_000


class SQLiteSession(LeasedSession):
    """A session: its row, its lock, and the consumers made from it."""

    def __init__(
        self,
        engine: Engine,
        effects: Effects,
        membership: Membership,
        liveness: Liveness,
        renewal: Renewal,
        outage: Outage,
    ) -> None:
        self.id = membership.session
        self.limits = engine.limits
        self.outage = outage
        self._engine = engine
        self._effects = effects
        self._membership = membership
        self._liveness = liveness
        self._renewal = renewal
        self._logs = Pool()
        self._partitions: dict[str, int] = {}
        """How many each joined topic had: what is deleted is made again as it was, so that no key changes its
        partition."""
        self._standings: dict[tuple[str, str, str], tuple[list[str], list[int]]] = {}
        """Who the members of each ordered handler were, and which of its cursors free, when `listen` last looked."""
        self.is_open = False

    async def open(self) -> None:
        """Enter: from here on the session lives until it is closed or its process ends."""
        self._liveness.enter(self.id)
        try:
            await self._engine.write(self._membership.ensure, durable=False)
        except BaseException:
            self._disappear()
            raise
        self._membership.renewed_ms = self._engine.clock.monotonic_ms()
        self._renewal.add(self._membership)
        self.is_open = True

    def _disappear(self) -> None:
        """Show nothing any more. What the database still says of it is removed uncharged: its process did not end."""
        self._liveness.forget(self.id)
        self._liveness.leave(self.id)

    @property
    def lease_left_ms(self) -> int | None:
        renewed_ms = self._membership.renewed_ms
        if renewed_ms is None or self._engine.storage.path is None:
            return None
        return self._engine.limits.lease_ms - (self._engine.clock.monotonic_ms() - renewed_ms)

    async def register(self, topic: str, group: str, handler: str | None, *, start: str = START) -> int:
        check_name("topic", topic)
        check_name("group", group)
        at = _parse_start(start)

        def register(storage: Storage) -> int:
            found = ensure_topic(storage, topic, self._engine.clock.now_ms(), self._partitions.get(topic, 1))
            for partition in found.partitions:
                offset = _start_offset(partition, at)
                is_new = storage.run(
                    "INSERT OR IGNORE INTO cursors (partition_id, group_name, handler, position) VALUES (?, ?, ?, ?)",
                    (partition.partition_id, group, handler or "", offset),
                )
                if is_new:  # a floor noted before this group came says nothing of what it has passed
                    storage.run(
                        "DELETE FROM floors WHERE partition_id = ? AND floor > ?", (partition.partition_id, offset)
                    )
            self._engine.after_commit.append(self._membership.join(storage, found.topic_id, group, handler or ""))
            self._engine.grown.add(MEMBERS)
            return len(found.partitions)

        count = await self._engine.write(register)
        self._partitions[topic] = count
        return count

    async def count_partitions(self, topic: str) -> int | None:
        found = await self._engine.read(lambda storage: find_topic(storage, topic))
        return None if found is None else len(found.partitions)

    async def resign(self, topic: str, group: str, handler: str | None) -> None:
        def resign(storage: Storage) -> None:
            self._engine.after_commit.append(self._membership.resign(storage, topic, group, handler or ""))
            self._engine.grown.add(MEMBERS)

        await self._engine.write(resign, durable=False)

    async def listen(self, topic: str, group: str, handler: str) -> None:
        if self._engine.storage.path is None:
            await super().listen(topic, group, handler)
        place = (topic, group, handler)

        def look(storage: Storage) -> bool | Nothing:
            standing = (_members(storage, *place), _free(storage, *place))
            if standing == self._standings.get(place):
                return Nothing()
            self._standings[place] = standing
            return True

        while isinstance(await self._engine.poll(Poll(MEMBERS, look, None, _LISTEN_MS)), Nothing):
            pass

    async def read_members(self, topic: str, group: str, handler: str | None) -> Sequence[str]:
        return await self._engine.read(lambda storage: _members(storage, topic, group, handler or ""))

    async def read_free(self, topic: str, group: str, handler: str) -> Sequence[int]:
        return await self._engine.read(lambda storage: _free(storage, topic, group, handler))

    async def acquire(self, cursor: Cursor) -> Consumer | None:
        return await self._acquire(cursor, None)

    async def take_beside(self, home: Consumer, cursor: Cursor) -> Consumer | None:
        assert isinstance(home, OrderedConsumer), "a consumer of this broker's"
        return await self._acquire(cursor, home)

    async def _acquire(self, cursor: Cursor, home: OrderedConsumer | None) -> Consumer | None:
        grant = await self._engine.write(
            lambda storage: acquire(storage, self._membership, cursor, home=home), durable=False
        )
        if grant is None:
            return None
        faults.reach("lease.acquired")
        return OrderedConsumer(self._engine, self._effects, cursor, grant, self._logs)

    async def share(self, cursor: Cursor) -> Consumer:
        def find(storage: Storage) -> tuple[int, int]:
            partition = get_partition(storage, cursor.topic, cursor.partition)
            row = storage.row(
                "SELECT cursor_id FROM cursors WHERE partition_id = ? AND group_name = ? AND handler = ''",
                (partition.partition_id, cursor.group),
            )
            if row is None:
                raise NotFound(f"no cursor {cursor}: register it first")
            return row[0], partition.partition_id

        cursor_id, partition_id = await self._engine.read(find)
        return SharedConsumer(self._engine, self._effects, self._membership, cursor, cursor_id, partition_id)

    async def close(self) -> None:
        if not self.is_open:
            return
        self.is_open = False
        self._renewal.remove(self._membership)

        def leave(storage: Storage) -> None:
            self._engine.grown.update(
                row[0]
                for row in storage.rows(
                    "SELECT c.partition_id FROM cursors c WHERE c.session = ?1 OR EXISTS"
                    " (SELECT 1 FROM claims m WHERE m.cursor_id = c.cursor_id AND m.session = ?1)",
                    (self.id,),
                )
            )
            self._membership.leave(storage)
            self._engine.grown.add(MEMBERS)

        try:
            await self._engine.write(leave, durable=False)
        finally:
            self._disappear()

    def abandon(self) -> None:
        self.is_open = False
        self._renewal.remove(self._membership)
        self._liveness.leave(self.id)


def _members(storage: Storage, topic: str, group: str, handler: str) -> list[str]:
    rows = storage.rows(
        "SELECT m.session FROM members m JOIN topics t USING (topic_id)"
        " WHERE t.topic = ? AND m.group_name = ? AND m.handler = ? ORDER BY m.session",
        (topic, group, handler),
    )
    return [row[0] for row in rows]


def _free(storage: Storage, topic: str, group: str, handler: str) -> list[int]:
    rows = storage.rows(
        "SELECT p.partition FROM cursors c JOIN partitions p USING (partition_id) JOIN topics t USING (topic_id)"
        " WHERE t.topic = ? AND c.group_name = ? AND c.handler = ?"
        " AND (c.session IS NULL OR c.session NOT IN (SELECT session FROM sessions)) ORDER BY p.partition",
        (topic, group, handler),
    )
    return [row[0] for row in rows]


def _parse_start(start: str) -> tuple[int, int] | str:
    """Return `start`, `end`, or (partition, offset) of a record id."""
    return start if start in (START, END) else parse_id(start)


def _start_offset(partition: Partition, at: tuple[int, int] | str) -> int:
    if at == START:
        return partition.first
    if at == END:
        return partition.next
    if isinstance(at, str):
        raise ConfigurationError(f"start={at!r}: use start, end or a record id")
    number, offset = at
    return max(offset, partition.first) if number == partition.partition else partition.first
