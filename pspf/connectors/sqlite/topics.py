"""Topics and their partitions, as a transaction sees them."""

from dataclasses import dataclass
from typing import Final

from pspf.connectors.base import FOREVER
from pspf.connectors.sqlite.storage import Storage
from pspf.errors import ConfigurationError, NotFound, TopicMismatch
from pspf.records import check_name, companion_source

OFFSET_BITS: Final = 40
"""A record's place is its partition's id above its offset of so many bits."""

MAX_PARTITIONS: Final = 1_024


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition of a topic as a transaction sees it."""

    partition_id: int
    partition: int
    first: int
    next: int
    records: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic and its partitions, in order."""

    topic_id: int
    topic: str
    retention_ms: int | None
    partitions: tuple[Partition, ...]


def find_topic(storage: Storage, topic: str) -> Topic | None:
    """Return a topic, None where there is none."""
    rows = storage.rows(
        "SELECT t.topic_id, t.retention_ms, p.partition_id, p.partition, p.first_offset, p.next_offset, p.records,"
        " p.size_bytes FROM topics t JOIN partitions p USING (topic_id) WHERE t.topic = ? ORDER BY p.partition",
        (topic,),
    )
    if not rows:
        return None
    return Topic(rows[0][0], topic, rows[0][1], tuple(Partition(*row[2:]) for row in rows))


def get_topic(storage: Storage, topic: str) -> Topic:
    """Return a topic.

    Raises:
        NotFound: There is none.
    """
    found = find_topic(storage, topic)
    if found is None:
        raise NotFound(f"no topic {topic!r}")
    return found


def get_partition(storage: Storage, topic: str, partition: int) -> Partition:
    """Return one partition.

    Raises:
        NotFound: There is no such topic or partition.
    """
    found = get_topic(storage, topic)
    if not 0 <= partition < len(found.partitions):
        raise NotFound(f"topic {topic!r} has partitions 0 to {len(found.partitions) - 1}, not {partition}")
    return found.partitions[partition]


def create_topic(storage: Storage, topic: str, partitions: int | None, retention_ms: int | None, now_ms: int) -> bool:
    """Make a topic; return False where it was there. Errors: see `Broker.create_topic`."""
    check_name("topic", topic)
    if companion_source(topic) is not None:
        raise ConfigurationError(f"topic {topic!r}: -dlq and -late end the names of topics that PSPF makes itself")
    if partitions is not None and not 1 <= partitions <= MAX_PARTITIONS:
        raise ConfigurationError(f"topic {topic!r}: {partitions} partitions; use 1 to {MAX_PARTITIONS}")
    found = find_topic(storage, topic)
    if found is None:
        _insert_topic(storage, topic, partitions or 1, retention_ms, now_ms)
        return True
    if partitions is not None and partitions != len(found.partitions):
        raise TopicMismatch(
            f"topic {topic!r} has {len(found.partitions)} partitions, not {partitions}:"
            " keys would change their partition"
        )
    return False


def ensure_topic(storage: Storage, topic: str, now_ms: int) -> Topic:
    """Return a topic; make it where it is missing, a companion like its source."""
    found = find_topic(storage, topic)
    if found is not None:
        return found
    source = companion_source(check_name("topic", topic))
    if source is None:
        return _insert_topic(storage, topic, 1, None, now_ms)
    model = ensure_topic(storage, source, now_ms)
    return _insert_topic(storage, topic, len(model.partitions), FOREVER, now_ms)


def _insert_topic(storage: Storage, topic: str, partitions: int, retention_ms: int | None, now_ms: int) -> Topic:
    storage.run(
        "INSERT INTO topics (topic, partitions, retention_ms, created_ms) VALUES (?, ?, ?, ?)",
        (topic, partitions, retention_ms, now_ms),
    )
    storage.connection.executemany(
        "INSERT INTO partitions (topic_id, partition) SELECT topic_id, ? FROM topics WHERE topic = ?",
        [(number, topic) for number in range(partitions)],
    )
    return get_topic(storage, topic)
