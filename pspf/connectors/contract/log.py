"""The log of a broker: topics, append, read."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from pspf.connectors.contract.values import (
    PartitionInfo,
    TopicInfo,
)
from pspf.records import (
    Appended,
    NewRecord,
    Record,
)


class Log(ABC):
    """Topics and their records."""

    @abstractmethod
    async def create_topic(self, topic: str, *, partitions: int | None = None, retention_ms: int | None = None) -> bool:
        """Make a topic; return False where it was there already.

        `partitions=None` takes it as it is (1 where it is made). `retention_ms` counts only where it is made; None is
        `Limits.retention_ms`, whatever that is later.

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
        """Return the first offset whose record was stored at or after `at_ms` (the end, if none was).

        Raises:
            NotFound: There is no such topic or partition.
        """

    @abstractmethod
    async def wait(self, topic: str, *, timeout_ms: int) -> None:
        """Return when `topic` may have got new records, after `timeout_ms` at the latest; it need not be there yet."""
