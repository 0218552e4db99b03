"""Operations of an administrator on a broker, behind the command line: seek, trim, delete, repartition.

It has no part in the way of an event: a worker never calls it. Who changes a cursor without its
lease moves the cursor's sequence in the same transaction, so that its owner, if there is one, gets
`CommitFenced` (or `CommitStale`) at its next poll or commit, and reads it again.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from pspf.connectors.contract.capabilities import lacking
from pspf.records import Cursor, format_id


@dataclass(frozen=True, slots=True)
class Seek:
    """A cursor that is moved: the next record it gives was the one at `before` and is the one at `after`.

    `unfinished` records were pending, held back or waiting for a retry, and are no more; `values`
    remembered ones are forgotten with `keep_state=False`. `consumers` are the live workers.
    """

    cursor: Cursor
    before: int
    after: int
    unfinished: int
    values: int
    consumers: Sequence[str]


class Waiting(StrEnum):
    """Why a record that was delivered is not done."""

    IN_HAND = "in hand"
    """A worker has it."""
    GIVEN_BACK = "given back"
    """Its worker stopped or died; the next one that polls gets it."""
    RETRY = "retry"
    """It failed, and waits for its due time."""
    HELD_BACK = "held back"
    """An earlier record of its key is not done (ordered)."""


@dataclass(frozen=True, slots=True)
class PendingRecord:
    """A record that was delivered and is not done.

    `attempts` failed, the last with `error` (empty where none did); it is tried again at `due_ms`.
    `age_ms` counts from its delivery to the worker that has it, else from when it was stored;
    None where the record is gone.
    """

    cursor: Cursor
    offset: int
    key: bytes | None
    waiting: Waiting
    attempts: int
    error: str
    due_ms: int | None
    age_ms: int | None
    consumer: str | None

    @property
    def id(self) -> str:
        """The record's id, unique in the topic."""
        return format_id(self.cursor.partition, self.offset)


@dataclass(frozen=True, slots=True)
class Loss:
    """How many records a cursor will never finish because they were trimmed."""

    cursor: Cursor
    records: int


@dataclass(frozen=True, slots=True)
class Trimmed:
    """What a trim took from a partition: its first retained offset was `before` and is `after`.

    `wanted` is the offset that was asked for; `held_by` names the cursors that need what lies between
    `after` and it. `lost` is what groups had not finished. `size_bytes` counts payloads, None where the
    broker can't tell.
    """

    partition: int
    before: int
    after: int
    wanted: int
    records: int
    size_bytes: int | None
    held_by: Sequence[Cursor] = ()
    lost: Sequence[Loss] = ()


@dataclass(frozen=True, slots=True)
class BrokerInfo:
    """A broker as it stands. `size_bytes` is what it takes, None where it can't tell.

    `lost` and `dropped` count, over the life of its topics, the records that were trimmed before a group
    was done with them, and those that `drop_pending` finished. `details` are for people.
    """

    kind: str
    name: str
    version: str
    persistence: str
    format: int
    topics: int
    records: int
    size_bytes: int | None
    lost: int = 0
    dropped: int = 0
    details: dict[str, str] = field(default_factory=dict)


class Status(StrEnum):
    """The outcome of a check."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: what was found, and, unless it is ok, how to mend it."""

    name: str
    status: Status
    found: str
    remedy: str = ""


class Operations(ABC):
    """What an administrator may do. `Refused` means that nothing was changed.

    With `dry_run` nothing is: the answer is what it would be, and it refuses what it would refuse.
    """

    # Groups

    async def seek(
        self, cursor: Cursor, offset: int, *, keep_state: bool | None = None, force: bool = False, dry_run: bool = False
    ) -> Seek:
        """Make `offset` the next one that a cursor gives, within what its partition retains.

        What was pending, held back or waiting for a retry is forgotten. `keep_state` says what to do
        with what its handler remembers: leave it (True) or forget it (False).

        Raises:
            NotFound: There is no such cursor.
            Refused: It has state and `keep_state` is None, or a live worker consumes it and not `force`.
        """
        raise lacking("seek")

    async def delete_group(
        self,
        group: str,
        *,
        topic: str | None = None,
        handler: str | None = None,
        force: bool = False,
        dry_run: bool = False,
    ) -> int:
        """Forget a group, its progress and its state, on one topic or all; return how many cursors it had.

        With `handler` only the cursors of this ordered handler, with an empty one only the shared ones. Live
        workers of it start over, or do nothing more until they are restarted.

        Raises:
            NotFound: There is no such group.
            Refused: A live worker is in it, and not `force`.
        """
        raise lacking("seek")

    async def rename_handler(
        self, group: str, old: str, new: str, *, topic: str | None = None, dry_run: bool = False
    ) -> int:
        """Give the cursors of an ordered handler another name, with all that is theirs; return how many.

        Position, state, windows, retries and held-back records go with them. Who had a lease has lost it.
        A cursor of `new` that was made and never committed or moved is replaced.
        Each partition is renamed in one step; what an error left undone, a second call does.

        Raises:
            NotFound: The group has no cursor of `old`.
            Refused: A live worker consumes as one of the two, `new` has begun there, or there is more
                state than one step moves.
        """
        raise lacking("seek")

    # Records that are not done

    async def list_pending(
        self, group: str, *, topic: str | None = None, max_records: int = 1_000
    ) -> Sequence[PendingRecord]:
        """Return what was delivered and is not done, by topic, handler, partition and offset.

        Of each cursor the first `max_records`. What the owner of an ordered cursor has in hand
        without having failed is not known to the broker.
        """
        raise lacking("pending")

    async def retry_pending(self, records: Sequence[PendingRecord]) -> int:
        """Make those that wait for a retry due now; return how many did."""
        raise lacking("pending")

    async def drop_pending(self, records: Sequence[PendingRecord]) -> int:
        """Finish records without handling them; return how many were still there.

        Those held back behind one of an ordered cursor go on. Counted in `BrokerInfo.dropped`.
        """
        raise lacking("pending")

    # Topics

    async def trim(
        self,
        topic: str,
        partition: int,
        *,
        before: int | None = None,
        max_records: int | None = None,
        max_bytes: int | None = None,
        drop_unread: bool = False,
        dry_run: bool = False,
    ) -> Trimmed:
        """Remove the oldest records: those before an offset, or all but the last few or so many payload bytes.

        Exactly one of the three is given. What a group has not finished stays, unless `drop_unread`:
        then it is lost for the group, and counted in `BrokerInfo.lost`.

        Raises:
            NotFound: There is no such topic or partition.
        """
        raise lacking("trim")

    async def delete_topic(self, topic: str, *, force: bool = False, dry_run: bool = False) -> Sequence[str]:
        """Remove a topic with its `-dlq` and `-late` and the groups on them; return what was removed.

        Live workers of it start over, or do nothing more until they are restarted.

        Raises:
            NotFound: There is no such topic.
            Refused: There are groups on it, and not `force`.
        """
        raise lacking("trim")

    async def repartition(
        self, topic: str, partitions: int, *, reset_state: bool = False, dry_run: bool = False
    ) -> int:
        """Copy an idle topic into another number of partitions, in order; return how many records it has.

        Its `-dlq` and `-late` go with it. Ids are new; none is used twice. Groups are done with
        the copies.

        Raises:
            NotFound: There is no such topic.
            ConfigurationError: The number is out of range, or the topic is a companion.
            Refused: A live worker is on it, a group has not finished all records, or a handler
                remembers something and not `reset_state`.
        """
        raise lacking("repartition")

    async def set_retention(self, topic: str, retention_ms: int | None, *, dry_run: bool = False) -> int | None:
        """Change how long a topic's records stay after all groups are done with them; return how long it was.

        None is `Limits.retention_ms`, whatever that is. A shorter one removes records with the next commits of the
        topic's workers.

        Raises:
            NotFound: There is no such topic.
        """
        raise lacking("trim")

    # The broker itself

    @abstractmethod
    async def read_info(self) -> BrokerInfo:
        """Return what the broker is and holds."""

    @abstractmethod
    async def diagnose(self) -> Sequence[Check]:
        """Look for what is unsafe; takes up to a few seconds."""


def describe_missing(group: str, topic: str | None, handler: str | None) -> str:
    """Return what to say where a group, or a handler of it, has no cursor."""
    where = "" if topic is None else f" on {topic}"
    if handler is None:
        return f"no group {group!r}{where}"
    return f"group {group!r} has no {f'cursor of handler {handler!r}' if handler else 'shared cursor'}{where}"


def describe_taken(group: str, new: str) -> str:
    """Return what to say where a handler can't be renamed because there is one of the other name."""
    return (
        f"group {group!r} has a cursor of handler {new!r} already, which has begun by itself\n"
        f"  forget that one first: pspf groups delete {group} --handler {new} --execute"
    )
