"""Topics and their partitions, as a transaction sees them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from pspf.connectors.contract.values import FOREVER
from pspf.connectors.routing import check_partitions
from pspf.connectors.sqlite.storage import Storage
from pspf.errors import ConfigurationError, NotFound
from pspf.records import DEAD_LETTER_SUFFIX, LATE_SUFFIX, check_name, companion_source

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
        NotFound: It does not exist.
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


def companions_of(storage: Storage, topic: str) -> list[Topic]:
    """Return the topics of a topic's dead letters and late records, where there are any."""
    names = () if companion_source(topic) else (topic + DEAD_LETTER_SUFFIX, topic + LATE_SUFFIX)
    return [found for name in names if (found := find_topic(storage, name)) is not None]


def create_topic(storage: Storage, topic: str, partitions: int | None, retention_ms: int | None, now_ms: int) -> bool:
    """Make a topic; return False where it was there. Errors: see `Broker.create_topic`."""
    check_name("topic", topic)
    if companion_source(topic) is not None:
        raise ConfigurationError(f"topic {topic!r}: -dlq and -late end the names of topics that PSPF makes itself")
    if partitions is not None and not 1 <= partitions <= MAX_PARTITIONS:
        raise ConfigurationError(f"topic {topic!r}: {partitions} partitions; use 1 to {MAX_PARTITIONS}")
    found = find_topic(storage, topic)
    if found is None:
        insert_topic(storage, topic, partitions or 1, retention_ms, now_ms)
        return True
    check_partitions(topic, len(found.partitions), partitions)
    return False


def ensure_topic(storage: Storage, topic: str, now_ms: int, partitions: int = 1) -> Topic:
    """Return a topic; make it where it is missing, of so many partitions, a companion like its source."""
    found = find_topic(storage, topic)
    if found is not None:
        return found
    source = companion_source(check_name("topic", topic))
    if source is None:
        return insert_topic(storage, topic, partitions, None, now_ms)
    model = ensure_topic(storage, source, now_ms)
    return insert_topic(storage, topic, len(model.partitions), FOREVER, now_ms)


def set_retention(storage: Storage, topic: str, retention_ms: int | None, dry_run: bool) -> int | None:
    """Change a topic's retention; return what it was. Errors: see `Operations.set_retention`."""
    found = get_topic(storage, topic)
    if not dry_run:
        storage.run("UPDATE topics SET retention_ms = ? WHERE topic_id = ?", (retention_ms, found.topic_id))
    return found.retention_ms


def insert_topic(storage: Storage, topic: str, partitions: int, retention_ms: int | None, now_ms: int) -> Topic:
    """Make a topic; its name is not checked, and no topic of that name exists."""
    storage.run(
        "INSERT INTO topics (topic, partitions, retention_ms, created_ms) VALUES (?, ?, ?, ?)",
        (topic, partitions, retention_ms, now_ms),
    )
    storage.connection.executemany(
        "INSERT INTO partitions (topic_id, partition) SELECT topic_id, ? FROM topics WHERE topic = ?",
        [(number, topic) for number in range(partitions)],
    )
    return get_topic(storage, topic)


_GRAVES: Final = (
    (
        "SELECT max(topic_id) FROM topics",
        "DELETE FROM topics WHERE topic = ''",
        "INSERT INTO topics (topic_id, topic, partitions, created_ms) VALUES (?, '', 0, 0)",
    ),
    (
        "SELECT max(partition_id) FROM partitions",
        "DELETE FROM partitions WHERE topic_id = 0",
        "INSERT INTO partitions (partition_id, topic_id, partition) VALUES (?, 0, 0)",
    ),
    (
        "SELECT max(cursor_id) FROM cursors",
        "DELETE FROM cursors WHERE partition_id = 0",
        "INSERT INTO cursors (cursor_id, partition_id, group_name, handler, position) VALUES (?, 0, '', '', 0)",
    ),
)


@contextmanager
def ids_used_once(storage: Storage) -> Iterator[None]:
    """Delete topics, partitions and cursors inside: no later one gets the id of one that is gone.

    A worker that still holds a deleted cursor must not meet another in its place. SQLite gives a new
    row the highest id plus one, so that a row that nothing joins keeps the place of the highest one.
    """
    highest = [storage.rows(highest)[0][0] for highest, _, _ in _GRAVES]
    yield
    for (find, clear, bury), last in zip(_GRAVES, highest, strict=True):
        now = storage.rows(find)[0][0]
        if last is not None and (now is None or now < last):
            storage.run(clear)
            storage.run(bury, (last,))


def delete_topic(storage: Storage, found: Topic) -> None:
    """Remove a topic, its records and its rows in other tables; its cursors are already deleted."""
    for partition in found.partitions:
        base = partition.partition_id << OFFSET_BITS
        storage.run("DELETE FROM records WHERE place >= ? AND place < ?", (base, base + (1 << OFFSET_BITS)))
        for sql in (
            "DELETE FROM dedup WHERE partition_id = ?",
            "DELETE FROM dedup_buckets WHERE partition_id = ?",
            "DELETE FROM floors WHERE partition_id = ?",
        ):
            storage.run(sql, (partition.partition_id,))
    for sql in (
        "DELETE FROM partitions WHERE topic_id = ?",
        "DELETE FROM members WHERE topic_id = ?",
        "DELETE FROM topics WHERE topic_id = ?",
    ):
        storage.run(sql, (found.topic_id,))
