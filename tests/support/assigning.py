"""A broker of the ordered mode alone that assigns partitions by itself: the least that the contract takes.

It is written for the tests on its own, in plain dictionaries, and lives in one process.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from pspf.clock import Clock, SystemClock
from pspf.connectors.contract.assigned import Assigned, AssignedCursors
from pspf.connectors.contract.capabilities import Capabilities, lacking
from pspf.connectors.contract.cursors import Consumer
from pspf.connectors.contract.limits import Limits
from pspf.connectors.contract.membership import Session
from pspf.connectors.contract.operations import BrokerInfo, Check, Operations
from pspf.connectors.contract.roster import Roster
from pspf.connectors.contract.values import (
    END,
    START,
    ConsumerInfo,
    CursorInfo,
    Lease,
    StoredDeadLetter,
)
from pspf.connectors.identity import make_session_id
from pspf.connectors.letters import check_size, encode_letter, scan_letters
from pspf.errors import CommitFenced, ConfigurationError
from pspf.records import (
    DEAD_LETTER_SUFFIX,
    Batch,
    Commit,
    Cursor,
    NewRecord,
    Retry,
    check_name,
    parse_id,
)
from tests.support.memory_log import LogInMemory

Handler = tuple[str, str, str]
"""Topic, group and handler."""


@dataclass
class Place:
    """How far a cursor is, and whose it is."""

    position: int
    epoch: int = 0
    owner: "AssigningSession | None" = None
    commit_id: bytes = b""
    committed_ms: int | None = None
    retries: dict[int, Retry] = field(default_factory=dict)


class AssigningBroker(LogInMemory):
    """Assigns each partition to the member whose turn it is, in the order in which they joined."""

    capabilities = Capabilities(
        shared=False,
        ordered=True,
        leases=False,
        retries=True,
        joint_commits=False,
        entries=False,
        crash_counts=False,
        dedup=False,
        pending=False,
        seek=False,
        replay=False,
        trim=False,
        repartition=False,
        roster=False,
        multi_process=False,
    )

    def __init__(self, limits: Limits | None = None, clock: Clock | None = None) -> None:
        super().__init__("assigning", limits or Limits(), clock or SystemClock())
        self.operations = AssigningOperations(self)
        self.roster = Roster()
        self.places: dict[Cursor, Place] = {}
        self.members: dict[Handler, list[AssigningSession]] = {}
        self._sessions: list[AssigningSession] = []

    async def _open(self) -> None: ...

    async def _close(self) -> None:
        for session in self._sessions:
            await session.close()

    async def ping(self) -> None:
        for session in self._sessions:
            if session.dead_at_ms is not None and self.clock.now_ms() >= session.dead_at_ms:
                await session.close()
        self.change()

    async def open_session(self, name: str | None = None) -> "AssigningSession":
        session = AssigningSession(self, make_session_id(name))
        self._sessions.append(session)
        return session

    # What commits have left

    async def list_cursors(self, *, group: str | None = None, topic: str | None = None) -> Sequence[CursorInfo]:
        chosen = [each for each in self.places if group in (None, each.group) and topic in (None, each.topic)]
        chosen.sort(key=lambda each: (each.group, each.topic, each.handler or "", each.partition))
        return [self._describe(cursor, self.places[cursor]) for cursor in chosen]

    def _describe(self, cursor: Cursor, place: Place) -> CursorInfo:
        log = self.find(cursor.topic, cursor.partition)
        floor = min([place.position, *place.retries])
        held_back = sum(retry.due_ms is None for retry in place.retries.values())
        return CursorInfo(
            cursor,
            committed=floor - 1 if floor > 1 else None,
            end=log.next - 1 if log.next > 1 else None,
            unread=log.next - place.position,
            pending=0,
            held_back=held_back,
            retries=len(place.retries) - held_back,
            owner=None if place.owner is None else place.owner.id,
            last_commit_ms=place.committed_ms,
        )

    async def list_consumers(self, *, group: str | None = None) -> Sequence[ConsumerInfo]:
        return [
            ConsumerInfo(session.id, topic, name, handler, 0, 0)
            for (topic, name, handler), sessions in self.members.items()
            for session in sessions
            if group in (None, name)
        ]

    async def list_dead_letters(
        self, *, topic: str | None = None, group: str | None = None
    ) -> Sequence[StoredDeadLetter]:
        return [letter async for letter in scan_letters(self, topic) if group in (None, letter.group)]

    async def purge_dead_letters(self, letters: Sequence[StoredDeadLetter]) -> int:
        purged = 0
        for record in (letter.record for letter in letters):
            log = self.find(record.topic, record.partition)
            kept = [index for index, each in enumerate(log.records) if each.offset != record.offset]
            purged += len(log.records) - len(kept)
            log.records, log.times_ms = [log.records[n] for n in kept], [log.times_ms[n] for n in kept]
        return purged


class AssigningOperations(Operations):
    """What an operator may do: look."""

    def __init__(self, broker: AssigningBroker) -> None:
        self._broker = broker

    async def read_info(self) -> BrokerInfo:
        topics = await self._broker.list_topics()
        return BrokerInfo("assigning", "assigning", "1", "none", 1, len(topics), sum(t.records for t in topics), None)

    async def diagnose(self) -> Sequence[Check]:
        return []


class AssigningSession(Session):
    """A member of the groups that it registered for; what it holds is its until it is given back."""

    def __init__(self, broker: AssigningBroker, session: str) -> None:
        self.id = session
        self.dead_at_ms: int | None = None
        self._broker = broker

    async def register(self, topic: str, group: str, handler: str | None, *, start: str = START) -> int:
        check_name("group", group)
        if handler is None:
            raise lacking("shared")
        try:
            at = None if start in (START, END) else parse_id(start)
        except ConfigurationError:
            raise ConfigurationError(f"start={start!r}: use start, end or a record id") from None
        logs = self._broker.ensure(topic).logs
        for number, log in enumerate(logs):
            offset = log.next if start == END else at[1] if at is not None and at[0] == number else 1
            self._broker.places.setdefault(Cursor(topic, group, handler, number), Place(offset))
        members = self._broker.members.setdefault((topic, group, handler), [])
        if self not in members:
            members.append(self)
        self._broker.change()
        return len(logs)

    async def count_partitions(self, topic: str) -> int | None:
        return len(self._broker.topics[topic].logs) if topic in self._broker.topics else None

    def assigned(
        self, topic: str, group: str, handler: str, partitions: int, on_unread: Callable[[tuple[int, ...]], None]
    ) -> AssignedCursors:
        return TurnCursors(self._broker, self, (topic, group, handler), partitions)

    def leave(self, handler: Handler) -> None:
        """Be a member no more; what is held stays."""
        members = self._broker.members.get(handler, [])
        if self in members:
            members.remove(self)
        self._broker.change()

    async def close(self) -> None:
        for handler in list(self._broker.members):
            self.leave(handler)
        for place in self._broker.places.values():
            if place.owner is self:
                place.owner = None
        self._broker.change()

    def abandon(self) -> None:
        self.dead_at_ms = self._broker.clock.now_ms() + self._broker.limits.lease_ms


class TurnCursors(AssignedCursors):
    """The partitions of one handler whose turn it is."""

    def __init__(self, broker: AssigningBroker, session: AssigningSession, handler: Handler, partitions: int) -> None:
        self._broker = broker
        self._session = session
        self._handler = handler
        self._partitions = range(partitions)
        self._held: dict[int, Assigned] = {}
        self._woken = asyncio.Event()
        self._changed = broker.changed

    async def take(self) -> Assigned | None:
        self._changed = self._broker.changed
        members = self._broker.members.get(self._handler, [])
        mine = [n for n in self._partitions if members and members[n % len(members)] is self._session]
        for number in self._held.keys() - set(mine):
            self._held[number].revoke()
        for number in mine:
            cursor = Cursor(*self._handler, number)
            place = self._broker.places[cursor]
            if number not in self._held and place.owner is None:
                place.owner, place.epoch = self._session, place.epoch + 1
                consumer = TurnConsumer(self._broker, self._session, cursor, place)
                self._held[number] = Assigned(consumer, self._take_back)
                return self._held[number]
        return None

    def _take_back(self, assigned: Assigned) -> None:
        del self._held[assigned.partition]
        self._broker.change()

    async def wait(self) -> None:
        waits = [asyncio.ensure_future(event.wait()) for event in (self._changed, self._woken)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()

    def wake(self) -> None:
        self._woken.set()

    async def close(self) -> None: ...

    async def resign(self) -> None:
        self._session.leave(self._handler)


class TurnConsumer(Consumer):
    """An ordered cursor for as long as its epoch is the last."""

    def __init__(self, broker: AssigningBroker, session: AssigningSession, cursor: Cursor, place: Place) -> None:
        self.cursor = cursor
        self._broker = broker
        self._session = session
        self._place = place
        self._epoch: Final = place.epoch
        self._read = place.position
        held = tuple(place.retries[offset] for offset in sorted(place.retries))
        self.lease = Lease(place.epoch, place.position, held)

    def _check(self) -> None:
        if self._place.owner is not self._session or self._place.epoch != self._epoch:
            raise CommitFenced(f"{self.cursor}: it is another's")

    async def poll(self, *, max_records: int, timeout_ms: int, retries_only: bool = False) -> Batch:
        loop = asyncio.get_running_loop()
        until_s = loop.time() + timeout_ms / 1000
        while True:
            self._check()
            changed = self._broker.changed
            if (batch := self._find(max_records, retries_only)).records or loop.time() >= until_s:
                return batch
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), min(until_s - loop.time(), self._due_s()))

    def _due_s(self) -> float:
        """Return in how long the next retry is due."""
        dues = [each.due_ms for each in self._place.retries.values() if each.due_ms is not None]
        return max(0.0, min(dues) - self._broker.clock.now_ms()) / 1000 if dues else float("inf")

    def _find(self, max_records: int, retries_only: bool) -> Batch:
        now_ms, retries = self._broker.clock.now_ms(), self._place.retries
        due = [each for each in retries.values() if each.due_ms is not None and each.due_ms <= now_ms]
        attempts = {each.offset: each.attempts for each in sorted(due, key=lambda each: each.offset)[:max_records]}
        log = self._broker.find(self.cursor.topic, self.cursor.partition)
        records = [each._replace(attempts=attempts[each.offset]) for each in log.records if each.offset in attempts]
        if not retries_only and len(records) < max_records:
            new = [each for each in log.records if each.offset >= self._read][: max_records - len(records)]
            records += new
            self._read = new[-1].offset + 1 if new else self._read
        return Batch(records, self._read)

    async def commit(self, commit: Commit) -> Sequence[int]:
        check_size(commit, self._broker.limits)
        self._check()
        place = self._place
        if commit.commit_id == place.commit_id:
            return ()
        if commit.changes or commit.progress is not None:
            raise lacking("entries")
        for emit in commit.emits:
            check_name("topic", emit.topic)
        place.commit_id, place.committed_ms = commit.commit_id, self._broker.clock.now_ms()
        place.position = place.position if commit.position is None else commit.position
        for offset in commit.done:
            place.retries.pop(offset, None)
        place.retries.update((retry.offset, retry) for retry in commit.retries)
        for emit in commit.emits:
            self._broker.store(emit.topic, [emit.record._replace(event_id=None)])
        for letter in commit.dead:
            record, topic = letter.record, letter.record.topic + DEAD_LETTER_SUFFIX
            headers = encode_letter(letter, ordered=True)
            self._broker.ensure(topic)
            self._broker.store_in(topic, record.partition, NewRecord(record.raw_key, record.value, headers))
        self._broker.change()
        return ()

    async def intend(self, offsets: Sequence[int], *, is_alone: bool = True) -> None: ...

    async def release(self) -> None:
        if self._place.owner is self._session and self._place.epoch == self._epoch:
            self._place.owner = None
            self._broker.change()
