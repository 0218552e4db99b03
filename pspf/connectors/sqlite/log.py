"""The log of partitions: append, read, remove. Functions of one transaction."""

from array import array
from collections.abc import Sequence
from functools import partial
from itertools import islice, repeat
from operator import itemgetter
from typing import Any, Final

import apsw

from pspf.clock import Clock
from pspf.connectors.contract.limits import Limits
from pspf.connectors.routing import Router
from pspf.connectors.sqlite.dedup import Dedup, hash_id
from pspf.connectors.sqlite.storage import Storage
from pspf.connectors.sqlite.topics import OFFSET_BITS, Partition, Topic
from pspf.records import Appended, NewRecord, Record

_new: Final[Any] = tuple.__new__  # two thirds of the price of a NamedTuple's own constructor
_new_record: Final = partial(_new, Record)
_new_place: Final = partial(_new, Appended)
_value_of: Final = itemgetter(2)
POLL_BYTES: Final = 8_000_000
"""About how much one poll reads of new records; it may be a page of records more."""
_PAGE: Final = 16


class Log:
    """The log of one broker object: what it appends without a key goes round robin."""

    def __init__(self, limits: Limits, clock: Clock, boot_id: str) -> None:
        self._dedup = Dedup(limits, clock, boot_id)
        self._router = Router()

    def append(self, storage: Storage, topic: Topic, records: Sequence[NewRecord], now_ms: int) -> list[Appended]:
        """Append records; return their places in order. The caller has checked their sizes."""
        count = len(topic.partitions)
        if count == 1:
            return self.append_partition(storage, topic.partitions[0], records, now_ms)
        places: dict[int, Appended] = {}
        for number, indices in self._router.route(topic.topic, count, records).items():
            chosen = [records[index] for index in indices]
            places.update(
                zip(indices, self.append_partition(storage, topic.partitions[number], chosen, now_ms), strict=True)
            )
        return [places[index] for index in range(len(records))]

    def append_all(
        self, storage: Storage, topic: Topic, records: Sequence[NewRecord], now_ms: int
    ) -> Sequence[Partition]:
        """Append records that have no event_id; return the partitions that they went to."""
        partitions = topic.partitions
        if len(partitions) == 1:
            self._store(storage, partitions[0], records, now_ms)
            return partitions
        routes = self._router.route(topic.topic, len(partitions), records)
        for number, indices in routes.items():
            self._store(storage, partitions[number], [records[index] for index in indices], now_ms)
        return [partitions[number] for number in routes]

    def append_partition(
        self, storage: Storage, partition: Partition, records: Sequence[NewRecord], now_ms: int
    ) -> list[Appended]:
        """Append to one partition, passing over what its de-dup window knows."""
        number = partition.partition
        ids = {record.event_id for record in records}
        if ids <= {None}:
            begin = self._store(storage, partition, records, now_ms)
            return list(
                map(_new_place, zip(repeat(number), range(begin, begin + len(records)), repeat(False), strict=False))
            )
        hashes = {event_id: hash_id(event_id) for event_id in ids if event_id is not None}
        self._dedup.follow_clock(storage)
        places = self._dedup.find(storage, partition.partition_id, hashes, now_ms)
        begin = _next_offset(storage, partition.partition_id)
        fresh: list[NewRecord] = []
        appended: list[Appended] = []
        remembered: list[tuple[int, int]] = []
        for record in records:
            event_id = record.event_id
            known = None if event_id is None else places.get(event_id)
            if known is not None:
                appended.append(_new(Appended, (number, known, True)))
                continue
            offset = begin + len(fresh)
            if event_id is not None:
                places[event_id] = offset
                remembered.append((hashes[event_id], offset))
            fresh.append(record)
            appended.append(_new(Appended, (number, offset, False)))
        self._store(storage, partition, fresh, now_ms)
        self._dedup.remember(storage, partition.partition_id, remembered, now_ms)
        return appended

    def _store(self, storage: Storage, partition: Partition, records: Sequence[NewRecord], now_ms: int) -> int:
        partition_id = partition.partition_id
        if not records:
            return _next_offset(storage, partition_id)
        size_bytes = sum([len(record[1]) for record in records])
        row = storage.row(
            "UPDATE partitions SET next_offset = next_offset + ?1, records = records + ?1, size_bytes = size_bytes + ?2"
            " WHERE partition_id = ?3 RETURNING next_offset",
            (len(records), size_bytes, partition_id),
        )
        assert row is not None
        begin: int = row[0] - len(records)
        place = partition_id << OFFSET_BITS | begin
        keys, values, headers, times, _ = zip(*records, strict=True)  # by column: a third of the price
        stored_at = [now_ms if timestamp_ms is None else timestamp_ms for timestamp_ms in times]
        rows = zip(range(place, place + len(records)), keys, values, headers, stored_at, strict=True)
        storage.insert("records", 5, list(rows))
        return begin


def _next_offset(storage: Storage, partition_id: int) -> int:
    row = storage.row("SELECT next_offset FROM partitions WHERE partition_id = ?", (partition_id,))
    assert row is not None
    offset: int = row[0]
    return offset


def read_range(
    storage: Storage, topic: str, partition_id: int, partition: int, first: int, end: int, limit: int
) -> list[Record]:
    """Return at most `limit` records from `first` up to, not including, `end`."""
    return _as_records(topic, partition, _find_range(storage, partition_id, first, end, limit).fetchall())


def read_new(
    storage: Storage, topic: str, partition_id: int, partition: int, first: int, end: int, limit: int
) -> tuple[list[Record], int]:
    """Return records as `read_range` does, fewer where they are large together; and the bytes of their values."""
    rows, size_bytes = _fetch(_find_range(storage, partition_id, first, end, limit), POLL_BYTES)
    return _as_records(topic, partition, rows), size_bytes


def _find_range(storage: Storage, partition_id: int, first: int, end: int, limit: int) -> apsw.Cursor:
    base = partition_id << OFFSET_BITS
    return storage.connection.execute(
        "SELECT place & 1099511627775, key, value, headers, timestamp_ms FROM records"
        " WHERE place >= ? AND place < ? ORDER BY place LIMIT ?",
        (base | first, base | end, limit),
    )


def _fetch(found: apsw.Cursor, most_bytes: int) -> tuple[list[Any], int]:
    """Return rows of records until their values have so many bytes, and how many they have."""
    rows: list[Any] = []
    size_bytes = 0
    while size_bytes < most_bytes and (page := list(islice(found, _PAGE))):
        rows += page
        size_bytes += sum(map(len, map(_value_of, page)))
    found.close()  # nothing is read any more, so that no transaction stays open
    return rows, size_bytes


def _as_records(topic: str, partition: int, rows: list[Any]) -> list[Record]:
    if not rows:
        return []
    offsets, keys, values, headers, times = zip(*rows, strict=True)  # by column: no tuple is built twice
    columns = (repeat(topic), repeat(partition), offsets, keys, values, headers, times, repeat(0))
    return list(map(_new_record, zip(*columns, strict=False)))


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
            "SELECT place & 1099511627775, timestamp_ms FROM records WHERE place >= ? AND place < ?"
            " ORDER BY place LIMIT 1",
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
