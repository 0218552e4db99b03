"""Values of the contract: topics, cursors, dead letters and state entries as a broker reports them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from pspf.records import Cursor, Record, Retry

START: Final = "start"
END: Final = "end"


FOREVER: Final = -1
"""`retention_ms` of a topic that is never trimmed; 0 trims a record as soon as all groups are done."""


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
    is_suspect: bool = False
    """Whether an earlier owner's process may have ended by what it ran here, and that is not done yet."""


@dataclass(frozen=True, slots=True)
class StoredOperator:
    """What an ordered cursor remembers of its operator, as of its last commit.

    `progress` is `OperatorProgress.stored`; `namespaces` are those that have entries, in order.
    """

    cursor: Cursor
    watermark_ms: int | None
    progress: bytes
    namespaces: Sequence[int]
