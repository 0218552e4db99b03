"""Topics and their log: append, de-duplicate, read, trim. Functions of one transaction."""

import hashlib
import itertools
from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import apsw
import orjson

from pspf.connectors.base import FOREVER, Limits
from pspf.connectors.sqlite.storage import Storage
from pspf.errors import ConfigurationError, NotFound, TopicMismatch
from pspf.records import Appended, NewRecord, Record, check_name, companion_source, partition_of

OFFSET_BITS: Final = 40
_OFFSET_MASK: Final = (1 << OFFSET_BITS) - 1
_BUCKETS: Final = 10
_TRIM_STEP: Final = 2_000
_FLOOR_SAMPLES: Final = 100
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
            f"topic {topic!r} has {len(found.partitions)} partitions, not {partitions}: keys would change their partition"
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


class Log:
    """The log of one broker object: what it appends without a key goes round robin."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._turns: dict[str, Iterator[int]] = defaultdict(itertools.count)

    def append(self, storage: Storage, topic: str, records: Sequence[NewRecord], now_ms: int) -> list[Appended]:
        """Append records; return their places in order. The caller has checked their sizes."""
        found = ensure_topic(storage, topic, now_ms)
        count = len(found.partitions)
        if count == 1:
            return self.append_partition(storage, found.partitions[0], records, now_ms)
        turns = self._turns[topic]
        lanes: dict[int, list[int]] = {}
        for index, record in enumerate(records):
            number = next(turns) % count if record.raw_key is None else partition_of(record.raw_key, count)
            lanes.setdefault(number, []).append(index)
        places: dict[int, Appended] = {}
        for number, indices in lanes.items():
            chosen = [records[index] for index in indices]
            places.update(
                zip(indices, self.append_partition(storage, found.partitions[number], chosen, now_ms), strict=True)
            )
        return [places[index] for index in range(len(records))]

    def append_partition(
        self, storage: Storage, partition: Partition, records: Sequence[NewRecord], now_ms: int
    ) -> list[Appended]:
        """Append to one partition, passing over what its de-dup window knows."""
        number = partition.partition
        if all(record.event_id is None for record in records):
            begin = self._store(storage, partition, records, now_ms)
            return [Appended(number, offset) for offset in range(begin, begin + len(records))]
        known = self._find_known(storage, partition, records, now_ms)
        fresh: list[NewRecord] = []
        first_with: dict[str, int] = {}
        places: list[int | None] = []
        next_offset = _next_offset(storage, partition.partition_id)
        for index, record in enumerate(records):
            offset = known.get(index)
            if offset is None and record.event_id is not None:
                offset = first_with.setdefault(record.event_id, next_offset + len(fresh))
                if offset != next_offset + len(fresh):
                    places.append(offset)
                    continue
            if index in known:
                places.append(offset)
                continue
            fresh.append(record)
            places.append(None)
        begin = self._store(storage, partition, fresh, now_ms)
        self._remember(storage, partition.partition_id, fresh, begin, now_ms)
        offsets = itertools.count(begin)
        return [
            Appended(number, next(offsets)) if place is None else Appended(number, place, duplicate=True)
            for place in places
        ]

    def _store(self, storage: Storage, partition: Partition, records: Sequence[NewRecord], now_ms: int) -> int:
        partition_id = partition.partition_id
        begin = _next_offset(storage, partition_id)
        if not records:
            return begin
        place = partition_id << OFFSET_BITS | begin
        rows = [
            (at, raw_key, value, raw_headers, now_ms if timestamp_ms is None else timestamp_ms)
            for at, (raw_key, value, raw_headers, timestamp_ms, _) in enumerate(records, place)
        ]
        storage.insert("records", 5, rows)
        size_bytes = sum([len(record[1]) for record in records])
        storage.run(
            "UPDATE partitions SET next_offset = ?, records = records + ?, size_bytes = size_bytes + ?"
            " WHERE partition_id = ?",
            (begin + len(records), len(records), size_bytes, partition_id),
        )
        return begin

    def _find_known(
        self, storage: Storage, partition: Partition, records: Sequence[NewRecord], now_ms: int
    ) -> dict[int, int]:
        """Return index -> offset of the records whose event_id the window holds."""
        hashes = {
            hash_id(record.event_id): index for index, record in enumerate(records) if record.event_id is not None
        }
        numbers = array("q", hashes)
        oldest_ms = now_ms - self._limits.dedup_window_ms
        found: dict[int, int] = {}
        for (bucket,) in storage.rows(
            "SELECT bucket FROM dedup_buckets WHERE partition_id = ? AND last_ms >= ? ORDER BY bucket",
            (partition.partition_id, oldest_ms),
        ):
            for number, offset in storage.rows(
                "SELECT d.hash, d.offset FROM carray(?) c CROSS JOIN dedup d"
                " ON d.partition_id = ? AND d.bucket = ? AND d.hash = c.value",
                (apsw.carray(numbers), partition.partition_id, bucket),
            ):
                found[number] = offset
        if not found:
            return {}
        known: dict[str, int] = {}
        for number, offset in found.items():
            event_id = records[hashes[number]].event_id
            if event_id is not None and self._is_same(storage, partition.partition_id, offset, event_id):
                known[event_id] = offset
        return {
            index: known[record.event_id]
            for index, record in enumerate(records)
            if record.event_id is not None and record.event_id in known
        }

    @staticmethod
    def _is_same(storage: Storage, partition_id: int, offset: int, event_id: str) -> bool:
        """Tell a duplicate from two ids with one hash: the stored record says its own id."""
        row = storage.row("SELECT value FROM records WHERE place = ?", (partition_id << OFFSET_BITS | offset,))
        if row is None:
            return True  # trimmed: the hash is all there is
        try:
            event = orjson.loads(row[0])
        except orjson.JSONDecodeError:
            return True
        return not isinstance(event, dict) or "event_id" not in event or str(event["event_id"]) == event_id

    def _remember(
        self, storage: Storage, partition_id: int, records: Sequence[NewRecord], begin: int, now_ms: int
    ) -> None:
        ids = [(hash_id(r.event_id), offset) for offset, r in enumerate(records, begin) if r.event_id is not None]
        if not ids:
            return
        bucket = self._current_bucket(storage, partition_id, now_ms)
        rows = [(partition_id, bucket, number, offset) for number, offset in ids]
        storage.insert("dedup", 4, rows, verb="INSERT OR REPLACE")
        storage.run(
            "UPDATE dedup_buckets SET ids = ids + ?, last_ms = ? WHERE partition_id = ? AND bucket = ?",
            (len(ids), now_ms, partition_id, bucket),
        )

    def _current_bucket(self, storage: Storage, partition_id: int, now_ms: int) -> int:
        row = storage.row(
            "SELECT bucket, ids, first_ms FROM dedup_buckets WHERE partition_id = ? ORDER BY bucket DESC LIMIT 1",
            (partition_id,),
        )
        is_full = row is not None and (
            row[1] >= max(1, self._limits.dedup_max_ids // _BUCKETS)
            or now_ms - row[2] >= max(1, self._limits.dedup_window_ms // _BUCKETS)
        )
        if row is not None and not is_full:
            bucket: int = row[0]
            return bucket
        bucket = 1 if row is None else row[0] + 1
        storage.run("INSERT INTO dedup_buckets VALUES (?, ?, 0, ?, ?)", (partition_id, bucket, now_ms, now_ms))
        storage.run(
            "DELETE FROM dedup_buckets WHERE partition_id = ? AND (bucket < ? OR last_ms < ?)",
            (partition_id, bucket - _BUCKETS, now_ms - self._limits.dedup_window_ms),
        )
        storage.run(
            "DELETE FROM dedup WHERE partition_id = ?1 AND bucket < coalesce((SELECT min(bucket) FROM dedup_buckets"
            " WHERE partition_id = ?1), 0)",
            (partition_id,),
        )
        return bucket


def hash_id(event_id: str) -> int:
    """Return 64 bits of an event_id, signed."""
    return int.from_bytes(hashlib.blake2b(event_id.encode(), digest_size=8).digest(), "little", signed=True)


def _next_offset(storage: Storage, partition_id: int) -> int:
    row = storage.row("SELECT next_offset FROM partitions WHERE partition_id = ?", (partition_id,))
    assert row is not None
    offset: int = row[0]
    return offset


_new: Any = tuple.__new__


def read_range(
    storage: Storage, topic: str, partition_id: int, partition: int, first: int, end: int, limit: int
) -> list[Record]:
    """Return at most `limit` records from `first` up to, not including, `end`."""
    base = partition_id << OFFSET_BITS
    rows = storage.connection.execute(
        "SELECT place & 1099511627775, key, value, headers, timestamp_ms FROM records"
        " WHERE place >= ? AND place < ? ORDER BY place LIMIT ?",
        (base | first, base | end, limit),
    ).fetchall()
    return [_new(Record, (topic, partition, *row, 0)) for row in rows]


def read_places(
    storage: Storage, topic: str, partition_id: int, partition: int, attempts: dict[int, int]
) -> list[Record]:
    """Return the records at the offsets that `attempts` names, in order, with their attempts."""
    base = partition_id << OFFSET_BITS
    rows = storage.rows(
        "SELECT r.place & 1099511627775, r.key, r.value, r.headers, r.timestamp_ms FROM carray(?) c"
        " CROSS JOIN records r ON r.place = c.value ORDER BY r.place",
        (apsw.carray(array("q", [base | offset for offset in attempts])),),
    )
    return [_new(Record, (topic, partition, *row, attempts[row[0]])) for row in rows]


def find_offset(storage: Storage, partition: Partition, at_ms: int) -> int:
    """Return the first offset whose record was stored at or after `at_ms`, by bisection."""
    low, high = partition.first, partition.next
    base = partition.partition_id << OFFSET_BITS
    while low < high:
        middle = (low + high) // 2
        row = storage.row(
            "SELECT place & 1099511627775, timestamp_ms FROM records WHERE place >= ? AND place < ? ORDER BY place LIMIT 1",
            (base | middle, base | high),
        )
        if row is None:
            high = middle
        elif row[1] < at_ms:
            low = row[0] + 1
        else:
            high = middle
    return low


def remove(storage: Storage, partition_id: int, offsets: Sequence[int]) -> int:
    """Remove single records; return how many were there."""
    base = partition_id << OFFSET_BITS
    removed = size_bytes = 0
    for offset in offsets:
        row = storage.row("DELETE FROM records WHERE place = ? RETURNING length(value)", (base | offset,))
        if row is not None:
            removed += 1
            size_bytes += row[0]
    storage.run(
        "UPDATE partitions SET records = records - ?, size_bytes = size_bytes - ? WHERE partition_id = ?",
        (removed, size_bytes, partition_id),
    )
    return removed


def trim(storage: Storage, partition_id: int, limits: Limits, now_ms: int) -> int:
    """Remove what no group needs and retention no longer keeps, a bounded step; return how many."""
    row = storage.row(
        "SELECT t.retention_ms, p.first_offset, p.next_offset FROM partitions p JOIN topics t USING (topic_id)"
        " WHERE p.partition_id = ?",
        (partition_id,),
    )
    if row is None:
        return 0
    retention_ms = limits.retention_ms if row[0] is None else row[0]
    first, end = row[1], row[2]
    if retention_ms == FOREVER or first == end:
        return 0
    floor = lowest_floor(storage, partition_id)
    if floor is None:
        cut = find_offset(storage, Partition(partition_id, 0, first, end, 0, 0), now_ms - retention_ms)
    elif retention_ms == 0:
        cut = floor
    else:
        cut = _old_floor(storage, partition_id, floor, retention_ms, now_ms)
    cut = min(cut, first + _TRIM_STEP)
    return _cut(storage, partition_id, first, cut) if cut > first else 0


def lowest_floor(storage: Storage, partition_id: int) -> int | None:
    """Return the first offset that some group is not done with; None without groups."""
    row = storage.row(
        "SELECT min(min(c.position,"
        " coalesce((SELECT min(offset) FROM retries r WHERE r.cursor_id = c.cursor_id), c.position),"
        " coalesce((SELECT min(first) FROM claims m WHERE m.cursor_id = c.cursor_id), c.position)))"
        " FROM cursors c WHERE c.partition_id = ?",
        (partition_id,),
    )
    assert row is not None
    floor: int | None = row[0]
    return floor


def _old_floor(storage: Storage, partition_id: int, floor: int, retention_ms: int, now_ms: int) -> int:
    """Note the floor of this moment; return the one that held `retention_ms` ago."""
    newest = storage.row(
        "SELECT at_ms, floor FROM floors WHERE partition_id = ? ORDER BY at_ms DESC LIMIT 1", (partition_id,)
    )
    step_ms = max(1, retention_ms // _FLOOR_SAMPLES)
    if newest is None or (newest[1] < floor and newest[0] + step_ms <= now_ms):
        storage.run("INSERT OR REPLACE INTO floors VALUES (?, ?, ?)", (partition_id, now_ms, floor))
    row = storage.row(
        "SELECT at_ms, floor FROM floors WHERE partition_id = ? AND at_ms <= ? ORDER BY at_ms DESC LIMIT 1",
        (partition_id, now_ms - retention_ms),
    )
    if row is None:
        return 0
    storage.run("DELETE FROM floors WHERE partition_id = ? AND at_ms < ?", (partition_id, row[0]))
    return min(int(row[1]), floor)


def _cut(storage: Storage, partition_id: int, first: int, cut: int) -> int:
    base = partition_id << OFFSET_BITS
    row = storage.row(
        "SELECT count(*), coalesce(sum(length(value)), 0) FROM records WHERE place >= ? AND place < ?",
        (base | first, base | cut),
    )
    assert row is not None
    storage.run("DELETE FROM records WHERE place >= ? AND place < ?", (base | first, base | cut))
    storage.run(
        "UPDATE partitions SET first_offset = ?, records = records - ?, size_bytes = size_bytes - ? WHERE partition_id = ?",
        (cut, row[0], row[1], partition_id),
    )
    count: int = row[0]
    return count
