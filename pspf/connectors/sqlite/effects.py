"""Effects of a commit that both modes share: emitted records, dead letters, trimming."""

from array import array
from collections.abc import Collection, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Final

import apsw

from pspf.connectors.letters import encode_letter
from pspf.connectors.sqlite.engine.base import Engine
from pspf.connectors.sqlite.log import Log
from pspf.connectors.sqlite.retention import trim
from pspf.connectors.sqlite.storage import Storage
from pspf.connectors.sqlite.topics import ensure_topic
from pspf.records import (
    DEAD_LETTER_SUFFIX,
    LATE_SUFFIX,
    Commit,
    Cursor,
    DeadLetter,
    NewRecord,
)

_TRIM_EVERY_MS: Final = 1_000
_topic_of: Final = itemgetter(1)


def forget_retries(storage: Storage, cursor_id: int, offsets: Sequence[int]) -> None:
    """Remove the retry entries of these offsets, where there are any."""
    if offsets:
        storage.run(
            "DELETE FROM retries WHERE cursor_id = ? AND offset IN (SELECT value FROM carray(?))",
            (cursor_id, apsw.carray(array("q", offsets))),
        )


class Effects:
    """Writes emits and dead letters, and trims now and then."""

    def __init__(self, engine: Engine, log: Log) -> None:
        self._engine = engine
        self._log = log
        self._trimmer = Trimmer(engine)

    def write(
        self, storage: Storage, partition_id: int, commit: Commit, lost: Collection[int] = (), *, ordered: bool
    ) -> None:
        """Write what the records that are not `lost` emitted, and their dead letters; trim their partition."""
        now_ms = self._engine.clock.now_ms()
        emits = [emit for emit in commit.emits if emit.source not in lost] if lost else commit.emits
        topics: dict[str, list[NewRecord]] = {}
        for topic, group in groupby(emits, key=_topic_of):
            records = [emit[2] for emit in group]
            if not all(record[4] is None for record in records):  # by which keyless ones would be routed
                records = [record._replace(event_id=None) for record in records]
            topics.setdefault(topic, []).extend(records)
        for topic, records in topics.items():
            append_and_tell(self._engine, self._log, storage, topic, records, now_ms)
        for letter in commit.dead:
            if letter.record.offset not in lost:
                self._bury(storage, letter, ordered=ordered)
        self._trimmer.trim_if_due(storage, partition_id, now_ms)

    def write_late(self, storage: Storage, cursor: Cursor, records: Sequence[NewRecord]) -> None:
        """Append records that came too late to the companion of their partition."""
        if records:
            now_ms = self._engine.clock.now_ms()
            topic = ensure_topic(storage, cursor.topic + LATE_SUFFIX, now_ms)
            partition = topic.partitions[cursor.partition % len(topic.partitions)]
            self._log.append_partition(storage, partition, records, now_ms)
            self._engine.grown.add(partition.partition_id)

    def _bury(self, storage: Storage, letter: DeadLetter, *, ordered: bool) -> None:
        record = letter.record
        topic = ensure_topic(storage, record.topic + DEAD_LETTER_SUFFIX, letter.dead_at_ms)
        partition = topic.partitions[record.partition % len(topic.partitions)]
        stored = NewRecord(record.raw_key, record.value, encode_letter(letter, ordered=ordered))
        self._log.append_partition(storage, partition, [stored], letter.dead_at_ms)
        self._engine.grown.add(partition.partition_id)


class Trimmer:
    """Trims a partition at most once a second; `trim` bounds each step."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._limits = engine.limits
        self._due_ms: dict[int, int] = {}

    def trim_if_due(self, storage: Storage, partition_id: int, now_ms: int) -> None:
        monotonic_ms = self._engine.clock.monotonic_ms()
        if monotonic_ms >= self._due_ms.get(partition_id, 0):
            trimmed = trim(storage, partition_id, self._limits, now_ms)
            self._due_ms[partition_id] = monotonic_ms + (0 if trimmed else _TRIM_EVERY_MS)


def append_and_tell(
    engine: Engine, log: Log, storage: Storage, topic: str, records: Sequence[NewRecord], now_ms: int
) -> None:
    """Append inside a commit, which makes records exactly once without their event_ids; let waiting polls know."""
    found = ensure_topic(storage, topic, now_ms)
    engine.grown.update(partition.partition_id for partition in log.append_all(storage, found, records, now_ms))
