"""The contract between PSPF and a broker. `tests/conformance` is the same contract, executable.

    StreamingBackend   what users name: one topic and one group on a broker
    Broker             topics, the log, groups, dead letters, state: all that needs no membership
    Operations         seek, drop, trim, delete, look after: what only an operator does (operations.py)
    Roster             which workers there are, what they say of themselves and are told (roster.py)
    Session            one worker's membership: while it lives, what it holds is nobody else's
    Consumer           one cursor in one worker's hands: poll and commit

Every method may raise `BackendUnavailable`: wait, then call again.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

import orjson

from pspf.backoff import Outage
from pspf.concurrency.turn import Turn
from pspf.connectors.operations import Operations
from pspf.connectors.roster import Roster
from pspf.errors import EventRejected, NotAvailable
from pspf.records import (
    Appended,
    Batch,
    Commit,
    Cursor,
    NewRecord,
    Record,
    Retry,
    WindowPlace,
    check_name,
    encode_headers,
)

START: Final = "start"
END: Final = "end"

FOREVER: Final = -1
"""`retention_ms` of a topic that is never trimmed; 0 trims a record as soon as all groups are done."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings that a broker needs. Sizes are bytes, times milliseconds."""

    lease_ms: int = 10_000
    renew_ms: int = 3_000
    dedup_window_ms: int = 3_600_000
    dedup_max_ids: int = 1_000_000
    retention_ms: int = 7 * 24 * 3_600_000
    emit_timeout_ms: int = 30_000
    max_record_bytes: int = 1 << 20
    max_key_bytes: int = 1 << 10
    max_headers_bytes: int = 16 << 10
    max_crashes: int = 3
    synchronous: str = "FULL"

    def check_all(self, records: Sequence[NewRecord]) -> None:
        """Raise EventRejected where one of `records` is larger than a stored record may be."""
        if len(records) == 1:
            self.check(records[0])
        elif records:
            keys, values, headers, _, _ = zip(*records, strict=True)
            if (
                max(map(len, values)) > self.max_record_bytes
                or max(map(len, filter(None, keys)), default=0) > self.max_key_bytes
                or max(map(len, filter(None, headers)), default=0) > self.max_headers_bytes
            ):
                for record in records:
                    self.check(record)

    def check(self, record: NewRecord) -> None:
        """Raise EventRejected where `record` is larger than a stored record may be."""
        if len(record.value) > self.max_record_bytes:
            raise EventRejected(f"event of {len(record.value):,} bytes; at most {self.max_record_bytes:,} are stored")
        if record.raw_key is not None and len(record.raw_key) > self.max_key_bytes:
            raise EventRejected(f"key of {len(record.raw_key):,} bytes; at most {self.max_key_bytes:,} are stored")
        if record.raw_headers is not None and len(record.raw_headers) > self.max_headers_bytes:
            raise EventRejected(
                f"headers of {len(record.raw_headers):,} bytes; at most {self.max_headers_bytes:,} are stored"
            )


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """A topic as it stands.

    `size_bytes` counts payloads; a server's is about the memory that the records take, with all that is
    beside them. None where the broker can't tell.
    """

    topic: str
    partitions: int
    records: int
    size_bytes: int | None
    retention_ms: int


@dataclass(frozen=True, slots=True)
class PartitionInfo:
    """A partition's bounds: `first` is the first retained offset, `next` the one after the last."""

    partition: int
    first: int
    next: int
    records: int


@dataclass(frozen=True, slots=True)
class CursorInfo:
    """How far a cursor is. Counts are records; None = the broker can't tell.

    `unread` is behind the position, `pending` delivered and not done, `held_back` waits for an
    earlier record of its key, `retries` waits for its due time. `committed` and `end` are offsets,
    None where there is none yet.
    """

    cursor: Cursor
    committed: int | None
    end: int | None
    unread: int | None
    pending: int
    held_back: int
    retries: int
    oldest_pending_ms: int | None = None
    owner: str | None = None
    watermark_ms: int | None = None
    last_commit_ms: int | None = None

    @property
    def lag(self) -> int | None:
        """Records not finished."""
        if self.unread is None:
            return None
        return self.unread + self.pending + self.held_back + self.retries


@dataclass(frozen=True, slots=True)
class ConsumerInfo:
    """A worker that consumes for a group; `idle_ms` since it last showed that it lives."""

    consumer: str
    topic: str
    group: str
    handler: str | None
    pending: int
    idle_ms: int


@dataclass(frozen=True, slots=True)
class StoredDeadLetter:
    """A dead letter in `<topic>-dlq`: `record` is the stored one, the rest is read from its headers."""

    record: Record
    topic: str
    partition: int
    group: str
    handler: str
    ordered: bool
    attempts: int
    error_type: str
    error: str
    traceback: str
    original_id: str
    dead_at_ms: int
    is_result: bool = False
    """Whether it is what a window came to; `original_id` is then the record that closed the window."""


@dataclass(frozen=True, slots=True)
class StateEntry:
    """One remembered value: `value` is JSON."""

    handler: str
    topic: str
    group: str
    partition: int
    key: bytes
    name: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Lease:
    """What the owner of an ordered cursor starts from: its position and what is not done before it."""

    epoch: int
    position: int
    held: Sequence[Retry] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class CursorWindows:
    """What an ordered cursor keeps of its windows, as of its last commit.

    `progress` is `WindowChanges.progress`; `slots` are those that have states, in order.
    """

    cursor: Cursor
    watermark_ms: int | None
    progress: bytes
    slots: Sequence[int]


class Consumer(ABC):
    """One cursor in one worker's hands. Used by one task; at most one commit at a time.

    Shared mode: what a poll gives is pending on this worker until a commit finishes it.
    Ordered mode: the cursor is leased; records are read from its position on.
    """

    cursor: Cursor
    lease: Lease | None
    """None in shared mode."""
    is_remote: bool = False
    """Whether a poll is answered elsewhere, so that it is worth sending before a batch is handled."""

    @abstractmethod
    async def poll(self, *, max_records: int, timeout_ms: int, retries_only: bool = False) -> Batch:
        """Return records to handle, waiting at most `timeout_ms` for the first; empty after that.

        Records whose retry is due come first, then new ones in offset order. A batch of the shared
        mode is claimed: nobody else gets its records while this session lives. In ordered mode the
        next poll reads on behind this batch, committed or not, and a due record may come again
        until the commit that settles it: the caller skips what it knows to be settled.

        Raises:
            CommitFenced: The lease is another worker's.
        """

    @abstractmethod
    async def commit(self, commit: Commit) -> Sequence[int]:
        """Apply all of `commit`, or nothing of it; return the offsets that were not ours any more.

        Safe to call again with the same commit after an error: it takes effect once. In shared
        mode the effects of a record count only if this commit is the one that finishes it (or, with
        `whole`, if that is so for all of them); the others' offsets are returned. In ordered mode
        the result is empty.

        Raises:
            CommitFenced: The lease is another worker's; nothing was written.
            CommitStale: The cursor was moved under its owner; nothing was written.
            TooManyEffects: The commit is larger than the broker takes; nothing was written.
        """

    @abstractmethod
    async def intend(self, offsets: Sequence[int], *, is_alone: bool = True) -> None:
        """Remember that these records of a suspect batch are about to run, in case they end the process.

        A single record is charged with a crash then. Without `is_alone` it is not, and its crashes stay what they
        are: others run beside it. May be called again while they run, where that changes.
        """

    @abstractmethod
    async def read_state(self, keys: Sequence[bytes]) -> Mapping[bytes, Mapping[str, bytes]]:
        """Return the committed state of record keys, by name; a key without state may be missing."""

    # Windows: the states of an ordered cursor by slot and key, as commits left them

    async def read_progress(self) -> bytes | None:
        """Return the last `WindowChanges.progress`, None before the first.

        Raises:
            NotAvailable: The cursor is a shared one (as in all calls about windows).
        """
        raise NotAvailable(f"{self.cursor}: windows are kept in ordered mode only")

    async def read_slots(self) -> Sequence[int]:
        """Return the slots that have states, in order."""
        raise NotAvailable(f"{self.cursor}: windows are kept in ordered mode only")

    async def read_windows(self, places: Sequence[WindowPlace]) -> Mapping[WindowPlace, bytes]:
        """Return the states at places; what is not there is missing."""
        raise NotAvailable(f"{self.cursor}: windows are kept in ordered mode only")

    async def scan_windows(
        self, slot: int, *, after: bytes | None = None, max_entries: int = 1_000
    ) -> Sequence[tuple[bytes, bytes]]:
        """Return the first (key, state) of a slot behind the key `after`, in the order of keys; fewer at its end."""
        raise NotAvailable(f"{self.cursor}: windows are kept in ordered mode only")

    @abstractmethod
    async def release(self) -> None:
        """Give the cursor (ordered) or all pending records (shared) back at once, uncharged."""


class Session(ABC):
    """One worker's membership of the broker, kept alive by itself, whatever the event loop does."""

    id: str
    """`host-pid-random`, unique for ever."""
    review_ms: int = 500
    """How often to ask who the members are: what one leaves, the others take up so soon."""

    @property
    def lease_left_ms(self) -> int | None:
        """How long this session still holds what is its own, if nothing renews it; negative: others may take it.

        None where it can't be lost. Safe from any thread.
        """
        return None

    @abstractmethod
    async def register(self, topic: str, group: str, handler: str | None, *, start: str = START) -> int:
        """Join a group: make the topic and its cursors where missing; return the number of partitions.

        `start` is `start`, `end` or a record id, and counts only where a cursor is made.

        Raises:
            ConfigurationError: `start` is none of these.
        """

    @abstractmethod
    async def count_partitions(self, topic: str) -> int | None:
        """Return how many partitions a topic has now: it may have been deleted and made anew. None where it is gone."""

    @abstractmethod
    async def resign(self, topic: str, group: str, handler: str | None) -> None:
        """Count as a member of a group no more, so that others take up its share; what is held stays until released."""

    async def listen(self, topic: str, group: str, handler: str) -> None:
        """Return when a member of an ordered handler came, left or gave a partition back.

        A broker that can't tell never returns; it is asked every `review_ms`. A word may get lost.
        """
        await asyncio.get_running_loop().create_future()

    @abstractmethod
    async def read_members(self, topic: str, group: str, handler: str | None) -> Sequence[str]:
        """Return the ids of all live sessions registered for this, sorted."""

    @abstractmethod
    async def read_free(self, topic: str, group: str, handler: str) -> Sequence[int]:
        """Return the partitions of an ordered handler that no live session holds, in order.

        One that is stored as this session's, which it does not hold, is among them.
        """

    async def read_lost(self, topic: str, group: str, handler: str) -> Sequence[int]:
        """Return the partitions of an ordered handler that are stored as this session's and that it does not hold.

        A server that went back in time has such: to the other members they look held, so that nobody takes
        them but this session. A broker that can't go back has none.
        """
        return []

    @abstractmethod
    async def acquire(self, cursor: Cursor) -> Consumer | None:
        """Take the lease of an ordered cursor; None while another live session holds it."""

    @abstractmethod
    async def share(self, cursor: Cursor) -> Consumer:
        """Consume a shared cursor beside others."""

    @abstractmethod
    async def close(self) -> None:
        """Give all back and leave, at once and uncharged. Safe to call twice."""

    @abstractmethod
    def abandon(self) -> None:
        """Stop as a killed process does: nothing is given back, others find out. For tests."""


class Broker(ABC):
    """A broker: topics and their logs, groups and what they remember. One object per process."""

    name: str
    """Kind and place, without secrets."""
    limits: Limits
    """The sizes and times in force."""
    is_shared: bool
    """Whether other processes can see it."""
    operations: Operations
    """What an operator may do."""
    roster: Roster
    """Who works on it."""

    def __init__(self) -> None:
        self.outage: Final = Outage()
        """What all that use it share while it is away."""
        self.is_open = False
        """Whether it was opened and not closed since."""
        self._turn = Turn()
        self._users: frozenset[object] = frozenset()
        self._tries = 0
        self._failure: tuple[int, Exception] | None = None

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def is_there(self) -> bool:
        """Whether it can be looked at without making it; of a server it is not known before it was asked."""
        return True

    @property
    def identity(self) -> str | None:
        """What tells this broker from another one at its place, once it was opened; None where nothing does."""
        return None

    def expect(self, identity: str | None) -> None:
        """Refuse, from now on, to open another broker at the place that `identity` was taken at, or to make one."""
        return  # a server is what answers at its address

    def find_obstacle(self) -> str | None:
        """Return who keeps an open broker from being written to, and since when; None where nothing is known of it.

        May be called from any thread.
        """
        return None

    @property
    def secret_url(self) -> str | None:
        """The URL by which another process opens the same broker, with its password: never to be shown.

        None where no other process can.
        """
        return None

    # Opening and closing. Tasks of any event loop share the object, so that one opens or closes it at a time.

    async def connect(self) -> None:
        """Open the broker; a second call does nothing.

        Raises:
            BackendUnavailable: It can't be reached.
            BackendCorrupt: It is damaged or of a newer format.
        """
        begun = self._tries
        async with self._turn:
            await self._connect(begun)

    async def close(self) -> None:
        """Close it and all its sessions; a second call does nothing, and `connect` works again."""
        async with self._turn:
            await self._shut()

    async def enter(self, user: object) -> None:
        """Connect on behalf of `user`, one of several that share this object. Errors as in `connect`."""
        begun = self._tries
        async with self._turn:
            await self._connect(begun)
            self._users |= {user}

    async def leave(self, user: object) -> None:
        """End what `enter` began; the last user to leave closes."""
        async with self._turn:
            self._users -= {user}
            if not self._users:
                await self._shut()

    async def _connect(self, begun: int) -> None:
        """Open it, where `begun` tries had begun when the caller asked: a later one that failed answers for this one.

        A broker that is away would else be waited for by each of many callers, one after the other.
        """
        if self._failure is not None and self._failure[0] > begun:
            raise self._failure[1]
        self._tries += 1
        try:
            await self._open()
        except Exception as error:
            self._failure = (self._tries, error)
            raise
        self._failure = None
        self.is_open = True

    async def _shut(self) -> None:
        self.is_open = False
        await self._close()

    @abstractmethod
    async def _open(self) -> None:
        """Open it, or do nothing where it is open. Where it fails or is cancelled, nothing is left open."""

    @abstractmethod
    async def _close(self) -> None:
        """Close it and all its sessions, or do nothing where it is closed."""

    @abstractmethod
    async def ping(self) -> None:
        """Answer, or raise BackendUnavailable."""

    @abstractmethod
    async def open_session(self, name: str | None = None) -> Session:
        """Join as a worker; `name` replaces the host's name in the session's id."""

    # Topics and the log

    @abstractmethod
    async def create_topic(self, topic: str, *, partitions: int | None = None, retention_ms: int | None = None) -> bool:
        """Make a topic; return False where it was there already.

        `partitions=None` takes it as it is (1 where it is made).

        Raises:
            TopicMismatch: It has another number of partitions.
            ConfigurationError: The name is not one, or ends in `-dlq` or `-late`.
        """

    @abstractmethod
    async def list_topics(self) -> Sequence[TopicInfo]:
        """Return all topics, by name."""

    @abstractmethod
    async def read_topic(self, topic: str) -> tuple[TopicInfo, Sequence[PartitionInfo]]:
        """Return one topic and its partitions' bounds.

        Raises:
            NotFound: There is no such topic.
        """

    @abstractmethod
    async def append(self, topic: str, records: Sequence[NewRecord]) -> Sequence[Appended]:
        """Store records at the end of a topic, in order; make the topic where missing.

        All or none; a server stores thousands of them in steps, each of them all or none in its partition.

        A key picks its partition; records without one go round robin. A record whose `event_id`
        was stored within the de-dup window is not stored again: its place is the first one's.
        When this returns, they are as safe as the broker keeps anything.

        Raises:
            EmitUnknown: They may be stored or not.
            EmitIncomplete: Some steps or partitions have stored theirs; its ids say which.
            EventRejected: One of them is too large.
            BackendUnavailable: Nothing was stored.
        """

    @abstractmethod
    async def read(self, topic: str, partition: int, *, offset: int, max_records: int) -> Sequence[Record]:
        """Return the records at and after `offset`, in order; what is not there is passed over.

        Raises:
            NotFound: There is no such topic or partition.
        """

    @abstractmethod
    async def find_offset(self, topic: str, partition: int, *, at_ms: int) -> int:
        """Return the first offset whose record was stored at or after `at_ms` (the end, if none was)."""

    @abstractmethod
    async def wait(self, topic: str, *, timeout_ms: int) -> None:
        """Return when `topic` may have got new records, after `timeout_ms` at the latest."""

    # Groups

    @abstractmethod
    async def list_cursors(self, *, group: str | None = None, topic: str | None = None) -> Sequence[CursorInfo]:
        """Return how far each cursor is, by group, topic, handler and partition."""

    @abstractmethod
    async def list_consumers(self, *, group: str | None = None) -> Sequence[ConsumerInfo]:
        """Return the live workers of the groups."""

    # Dead letters

    @abstractmethod
    async def list_dead_letters(
        self, *, topic: str | None = None, group: str | None = None
    ) -> Sequence[StoredDeadLetter]:
        """Return dead letters, oldest first, of one source topic or all."""

    @abstractmethod
    async def replay_dead_letters(self, letters: Sequence[StoredDeadLetter], *, to: str | None = None) -> int:
        """Give dead letters a new start; return how many were still there. One commit.

        Each becomes a record to retry (attempts 0, due now) in the cursor that gave it up, ahead of the later records
        of its key, and in no other cursor: one whose record was trimmed is read from the letter's own bytes, at its old
        offset, until it is done. With `to` all are appended to that topic instead. It leaves the dead letters in the
        same commit.

        Raises:
            NotFound: The cursor that gave one up is gone; nothing was done.
            Refused: One is a window's result, and `to` is missing; nothing was done.
            ConfigurationError: `to` is a topic of dead or late records.
        """

    @abstractmethod
    async def purge_dead_letters(self, letters: Sequence[StoredDeadLetter]) -> int:
        """Forget dead letters; return how many were still there."""

    # State

    @abstractmethod
    async def list_state(
        self,
        *,
        handler: str | None = None,
        group: str | None = None,
        key: bytes | None = None,
        name: str | None = None,
        max_entries: int | None = None,
    ) -> Sequence[StateEntry]:
        """Return what handlers remember, by handler, topic, key, name and partition; the first `max_entries` of it."""

    # Windows, seen from outside: what commits left, no snapshot over several calls

    @abstractmethod
    async def list_windows(
        self, *, handler: str | None = None, group: str | None = None, topic: str | None = None
    ) -> Sequence[CursorWindows]:
        """Return what cursors keep of windows, by group, topic, handler and partition; those that have some."""

    @abstractmethod
    async def read_windows(self, cursor: Cursor, places: Sequence[WindowPlace]) -> Mapping[WindowPlace, bytes]:
        """Return the states at places; what is not there is missing."""

    @abstractmethod
    async def scan_windows(
        self, cursor: Cursor, slot: int, *, after: bytes | None = None, max_entries: int = 1_000
    ) -> Sequence[tuple[bytes, bytes]]:
        """Return the first (key, state) of a slot behind the key `after`, in the order of keys; fewer at its end."""


class StreamingBackend:
    """One topic and one group on a broker: the handle that users construct and streams hold.

    Making one opens nothing. `broker` is shared by all clones of a backend.
    """

    def __init__(self, broker: Broker, stream_key: str, group_name: str) -> None:
        self.broker = broker
        self.stream_key = check_name("topic", stream_key)
        self.group_name = check_name("group", group_name)

    def clone_with_topic(self, topic: str) -> "StreamingBackend":
        """Return a backend of the same broker and group for another topic; opens nothing."""
        return StreamingBackend(self.broker, topic, self.group_name)

    async def connect(self) -> None:
        """Open the broker; a second call does nothing."""
        await self.broker.connect()

    async def close(self) -> None:
        """Close the broker; what it stores stays."""
        await self.broker.close()

    async def ping(self) -> None:
        """Answer, or raise BackendUnavailable."""
        await self.broker.ping()

    async def ensure_group_exists(self) -> None:
        """Make the topic and the group's shared cursors where they are missing."""
        session = await self.broker.open_session()
        try:
            await session.register(self.stream_key, self.group_name, None)
        finally:
            await session.close()

    async def add_event(
        self, event: Mapping[str, Any], *, key: str | None = None, headers: Mapping[str, str] | None = None
    ) -> str:
        """Append one JSON object as it is; return its record id."""
        raw_key = None if key is None else key.encode()
        record = NewRecord(raw_key, orjson.dumps(dict(event)), encode_headers(headers))
        return (await self.broker.append(self.stream_key, [record]))[0].id

    async def get_pending_info(self) -> dict[str, Any]:
        """Return `{"pending": n, "lag": n or None, "consumers": {id: n}}` of this topic and group.

        `pending` counts what was delivered and is not done: in hand, held back or waiting for a retry.
        """
        cursors = await self.broker.list_cursors(group=self.group_name, topic=self.stream_key)
        consumers = [c for c in await self.broker.list_consumers(group=self.group_name) if c.topic == self.stream_key]
        lags = [c.lag for c in cursors]
        return {
            "pending": sum(c.pending + c.held_back + c.retries for c in cursors),
            "lag": None if None in lags else sum(lag for lag in lags if lag is not None),
            "consumers": {c.consumer: c.pending for c in consumers},
        }
