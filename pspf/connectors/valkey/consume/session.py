"""The session of a worker on a server."""

from collections.abc import Sequence
from typing import Final

from pspf import faults
from pspf.connectors.contract.cursors import Consumer
from pspf.connectors.contract.values import END, START
from pspf.connectors.leases.session import LeasedSession
from pspf.connectors.valkey.connection.descriptors import count_open, describe_need
from pspf.connectors.valkey.connection.scripts import ScriptCall, load_script
from pspf.connectors.valkey.consume.acquiring import acquire
from pspf.connectors.valkey.consume.liveness import Member, Renewal
from pspf.connectors.valkey.consume.lost_stream import forget_cursor
from pspf.connectors.valkey.consume.member_signal import MemberSignal, ring
from pspf.connectors.valkey.consume.members import Roll, are_alive, forget_dead
from pspf.connectors.valkey.consume.ordered import OrderedConsumer
from pspf.connectors.valkey.consume.shared import SharedConsumer
from pspf.connectors.valkey.log.core import Core
from pspf.connectors.valkey.log.fields import format_entry_id
from pspf.connectors.valkey.log.topics import Topic
from pspf.errors import BackendUnavailable, ConfigurationError, NotFound
from pspf.loggers import get_logger
from pspf.records import Cursor, check_name, parse_id

logger = get_logger(__name__)

_REGISTER: Final = load_script("register")
_LOST_ITS_STREAM: Final = -1
_TRIES: Final = 3
_ROLL_MS: Final = 400
"""How long a list of members is taken for true by the subscriptions that share it."""


class ValkeySession(LeasedSession):
    """A session: its lease beside every stream that it consumes, and the consumers made from it."""

    review_ms = 800  # of the three commands a second that an idle partition may cost; mostly a bell comes before

    def __init__(self, core: Core, member: Member, renewal: Renewal) -> None:
        self.id = member.session
        self.limits = core.limits
        self.outage = core.outage
        self.is_open = True
        self._core = core
        self._member = member
        self._renewal = renewal
        self._consumers: list[Consumer] = []
        self._rolls: dict[bytes, Roll] = {}
        self._bells: dict[bytes, MemberSignal] = {}
        self._open_before = count_open()
        self._cursors: dict[tuple[str, str, str | None], int] = {}
        """How many each handler may have at most."""
        member.rejoin = self._rejoin
        renewal.add(member)

    @property
    def lease_left_ms(self) -> int | None:
        renewed_ms = self._member.renewed_ms
        if renewed_ms is None:
            return None
        return self._core.limits.lease_ms - (self._core.clock.monotonic_ms() - renewed_ms)

    async def register(self, topic: str, group: str, handler: str | None, *, start: str = START) -> int:
        check_name("topic", topic)
        check_name("group", group)
        at = None if start in (START, END) else _parse_start(start)
        for _ in range(_TRIES):
            found = await self._core.topics.ensure(topic)
            if await self._register(found, group, handler, start, at):
                await forget_dead(self._core, self._member.lanes, found.partitions)
                self._rolls.clear()
                self._member.starts[topic, group, handler] = start
                await self._ring((topic, group, handler))
                self._tell_of_need((topic, group, handler), found.count)
                return found.count
            self._core.topics.forget(topic)  # deleted, or all was flushed, since we saw it; or only its streams
        raise BackendUnavailable(f"{self._core.connector.name}: topic {topic!r} vanishes while it is joined")

    def _tell_of_need(self, place: tuple[str, str, str | None], count: int) -> None:
        """Say, when a handler joins, how many partitions there are no descriptors for."""
        if self._cursors.get(place) == count:
            return
        self._cursors[place] = count
        need = describe_need(self._cursors.values(), self._open_before)
        if need is not None:
            logger.warning("%s: with %s as %s, %s", self._core.connector.name, place[0], place[1], need)

    async def count_partitions(self, topic: str) -> int | None:
        found = await self._core.topics.find(topic)
        if found is None:
            return None
        known = self._core.topics.find_known(topic)
        if known is not None and known.count != found.count:
            self._core.topics.forget(topic)
        return found.count

    async def _rejoin(self, topic: str, group: str, handler: str | None) -> bool:
        start = self._member.starts.get((topic, group, handler))
        if start is None:
            return False
        self._core.topics.forget_all()
        await self.register(topic, group, handler, start=start)
        return True

    async def _register(
        self, topic: Topic, group: str, handler: str | None, start: str, at: tuple[int, int] | None
    ) -> bool:
        calls: list[ScriptCall] = []
        self._member.keep_only(topic.name, topic.partitions)
        for number, keys in enumerate(topic.partitions):
            self._member.join(keys, group, handler)
            cursor = keys.cursor(group, handler)
            first, before = start.encode(), b""
            if at is not None:
                first = format_entry_id(at[1]) if number == at[0] else START.encode()
                before = format_entry_id(max(0, at[1] - 1))
            calls.append(self._member.make_enter(keys))
            calls.append(
                ScriptCall(
                    _REGISTER,
                    (keys.stream, keys.meta, keys.cursors, keys.floors, cursor.meta),
                    (topic.count, cursor.registry_field, cursor.group_name, first, before),
                )
            )
        replies = await self._member.lanes.run_many(calls)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        lost = [keys for keys, reply in zip(topic.partitions, replies[1::2], strict=True) if reply == _LOST_ITS_STREAM]
        for keys in lost:
            cursor = keys.cursor(group, handler)
            await forget_cursor(self._member, cursor, cursor.group_name)
        for keys in topic.partitions:
            self._core.trimmer.look_again(keys)
        return not lost and 0 not in replies

    async def resign(self, topic: str, group: str, handler: str | None) -> None:
        found = await self._core.topics.ensure(topic)
        self._member.starts.pop((topic, group, handler), None)
        for keys in found.partitions:
            self._member.resign(keys, group, handler)
        await self._enter(found)
        await self._ring((topic, group, handler))

    async def listen(self, topic: str, group: str, handler: str) -> None:
        bells = await self._bells_of(topic, group, handler)
        if not bells:
            await super().listen(topic, group, handler)
        for key in bells:
            await self._bells.setdefault(key, MemberSignal(self._core, key)).wait()
        self._rolls.clear()

    async def _ring(self, *joined: tuple[str, str, str | None]) -> None:
        """Tell the other members of these ordered handlers to look again."""
        for topic, group, handler in joined:
            if handler is not None:
                await ring(self._member.lanes, await self._bells_of(topic, group, handler))

    async def _bells_of(self, topic: str, group: str, handler: str) -> Sequence[bytes]:
        """Return what is rung for an ordered handler: nothing by a clock of the caller's, by which nobody can wait."""
        if self._core.has_own_clock:
            return ()
        return ((await self._core.topics.ensure(topic)).partition(0).cursor(group, handler).bell,)

    async def read_members(self, topic: str, group: str, handler: str | None) -> Sequence[str]:
        keys = (await self._core.topics.ensure(topic)).partition(0)
        roll = self._rolls.setdefault(keys.stream, Roll(self._core, keys))
        await roll.refresh(self._member.lanes, max_age_ms=0 if self._core.has_own_clock else _ROLL_MS)
        members = roll.members(group, handler)
        if self.id in members or not self._member.has_joined(topic, group, handler):
            return members
        # The server forgot it, or went back to before it joined: nobody else would say so again.
        await self._enter(await self._core.topics.ensure(topic))
        await roll.refresh(self._member.lanes)
        return roll.members(group, handler)

    async def _enter(self, topic: Topic) -> None:
        """Make this session's leases and entries beside a topic's streams where they are missing."""
        calls = [self._member.make_enter(keys) for keys in topic.partitions]
        for reply in await self._member.lanes.run_many(calls):
            if isinstance(reply, Exception):
                raise reply

    async def read_free(self, topic: str, group: str, handler: str) -> Sequence[int]:
        found = await self._core.topics.ensure(topic)
        owners = await self._read_owners(found, group, handler)
        mine = self._held(topic, group, handler)
        free = [
            number for number, owner in enumerate(owners) if not owner
        ]  # where the cursor is gone, acquire makes it
        free += [number for number, owner in enumerate(owners) if owner == self.id and number not in mine]
        held = [(number, owner) for number, owner in enumerate(owners) if owner and owner != self.id]
        places = [(found.partitions[number], owner) for number, owner in held]
        alive = await are_alive(self._core, self._member.lanes, places)
        free += [number for (number, _), is_alive in zip(held, alive, strict=True) if not is_alive]
        return sorted(free)

    async def read_lost(self, topic: str, group: str, handler: str) -> Sequence[int]:
        owners = await self._read_owners(await self._core.topics.ensure(topic), group, handler)
        mine = self._held(topic, group, handler)
        return [number for number, owner in enumerate(owners) if owner == self.id and number not in mine]

    async def _read_owners(self, topic: Topic, group: str, handler: str) -> list[str]:
        """Return the session that is stored as the owner of each partition, empty where none is."""
        replies = await self._member.lanes.call_many(
            [("HGET", keys.cursor(group, handler).meta, "session") for keys in topic.partitions]
        )
        return [(self._core.commands.check(reply, "HGET") or b"").decode() for reply in replies]

    def _held(self, topic: str, group: str, handler: str) -> set[int]:
        """Return the partitions of an ordered handler that this session holds, as far as it knows."""
        cursors = [each.cursor for each in self._consumers if isinstance(each, OrderedConsumer) and each.is_held]
        return {each.partition for each in cursors if (each.topic, each.group, each.handler) == (topic, group, handler)}

    async def acquire(self, cursor: Cursor) -> Consumer | None:
        return await self._acquire(cursor, None)

    async def take_beside(self, home: Consumer, cursor: Cursor) -> Consumer | None:
        assert isinstance(home, OrderedConsumer), "a consumer of this broker's"
        return await self._acquire(cursor, home)

    async def _acquire(self, cursor: Cursor, home: OrderedConsumer | None) -> Consumer | None:
        keys = (await self._core.topics.ensure(cursor.topic)).partition(cursor.partition)
        assert cursor.handler is not None
        bells = await self._bells_of(cursor.topic, cursor.group, cursor.handler)
        of_cursor = keys.cursor(cursor.group, cursor.handler)
        consumer = await acquire(self._core, self._member, cursor, of_cursor, bells, home)
        if consumer is None:
            return None
        faults.reach("lease.acquired")
        self._consumers = [each for each in self._consumers if not isinstance(each, OrderedConsumer) or each.is_held]
        self._consumers.append(consumer)
        return consumer

    async def share(self, cursor: Cursor) -> Consumer:
        topics = self._core.topics
        topic = topics.find_known(cursor.topic) or await topics.get(cursor.topic)
        keys = topic.partition(cursor.partition).cursor(cursor.group, None)
        if not await self._core.lane_for(keys.partition.cursors).call(
            "HEXISTS", keys.partition.cursors, keys.registry_field
        ):
            raise NotFound(f"no cursor {cursor}: register it first")
        consumer = SharedConsumer(self._core, self._member, cursor, keys, topic.count)
        self._consumers.append(consumer)
        return consumer

    async def close(self) -> None:
        if not self.is_open:
            return
        self.is_open = False
        self._renewal.remove(self._member)
        try:
            for consumer in self._consumers:
                await consumer.release()
            for reply in await self._member.lanes.run_many(self._member.make_leave()):
                if isinstance(reply, Exception):
                    raise reply
            await self._ring(*self._member.starts)
        finally:
            await self._member.lanes.close()

    def abandon(self) -> None:
        self.is_open = False
        self._renewal.remove(self._member)
        for consumer in self._consumers:
            if isinstance(consumer, SharedConsumer):
                consumer.abandon()


def _parse_start(start: str) -> tuple[int, int]:
    """Return (partition, offset) of a record id."""
    try:
        return parse_id(start)
    except ConfigurationError:
        raise ConfigurationError(f"start={start!r}: use start, end or a record id") from None
