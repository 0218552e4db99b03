"""De-duplication by `event_id`: the window's ids as 64-bit hashes in buckets that are dropped whole.

The times of buckets are of the wall clock, for they outlive a boot. Where it is set while the machine runs, they are
moved with it: `clock_ahead_ms` in `meta` is by how much it was ahead of the monotonic clock in the boot `clock_boot`.
"""

import hashlib
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, Final

import apsw
import orjson

from pspf.clock import Clock
from pspf.connectors.contract.limits import Limits
from pspf.connectors.sqlite.storage import Storage
from pspf.connectors.sqlite.topics import OFFSET_BITS

_BUCKETS: Final = 10
_HOT: Final = 0
"""The bucket that ids enter first. Hashes scatter: in a large bucket each would dirty a page of its own."""
_HOT_IDS: Final = 10_000
_STEP_MS: Final = 1_000
"""By how much the wall clock has to move against the monotonic one to have been set."""


def hash_id(event_id: str) -> int:
    """Return 64 bits of an event_id, signed."""
    return int.from_bytes(hashlib.blake2b(event_id.encode(), digest_size=8).digest(), "little", signed=True)


class Dedup:
    """The de-dup windows of partitions."""

    def __init__(self, limits: Limits, clock: Clock, boot_id: str) -> None:
        self._limits = limits
        self._clock = clock
        self._boot_id = boot_id
        self._ahead_ms: int | None = None
        """`clock_ahead_ms` of this boot, as it was read, not as it was written: that may be rolled back."""

    def follow_clock(self, storage: Storage) -> None:
        """Move the times of the buckets where the wall clock has been set since they were written."""
        now_ms = self._clock.now_ms()
        ahead_ms = now_ms - self._clock.monotonic_ms()
        if self._ahead_ms is not None and abs(ahead_ms - self._ahead_ms) < _STEP_MS:
            return
        stored: dict[str, Any] = dict(
            storage.rows("SELECT name, value FROM meta WHERE name IN ('clock_ahead_ms', 'clock_boot')")
        )
        is_same_boot = stored.get("clock_boot") == self._boot_id
        step_ms = ahead_ms - stored["clock_ahead_ms"] if is_same_boot else 0
        if is_same_boot and abs(step_ms) < _STEP_MS:
            self._ahead_ms = stored["clock_ahead_ms"]
            return
        if step_ms:
            storage.run(
                "UPDATE dedup_buckets SET first_ms = min(first_ms + ?1, ?2), last_ms = min(last_ms + ?1, ?2)",
                (step_ms, now_ms),
            )
        storage.run(
            "INSERT OR REPLACE INTO meta VALUES ('clock_ahead_ms', ?), ('clock_boot', ?)", (ahead_ms, self._boot_id)
        )

    def find(self, storage: Storage, partition_id: int, hashes: Mapping[str, int], now_ms: int) -> dict[str, int]:
        """Return the offsets of the ids that the window holds."""
        numbers = array("q", sorted(hashes.values()))
        oldest_ms = now_ms - self._limits.dedup_window_ms
        found: dict[int, int] = {}
        buckets = storage.rows(
            "SELECT bucket FROM dedup_buckets WHERE partition_id = ? AND last_ms >= ? ORDER BY bucket",
            (partition_id, oldest_ms),
        )
        for (bucket,) in [*buckets, (_HOT,)] if buckets else ():
            found.update(
                storage.rows(
                    "SELECT d.hash, d.offset FROM carray(?) c CROSS JOIN dedup d"
                    " ON d.partition_id = ? AND d.bucket = ? AND d.hash = c.value",
                    (apsw.carray(numbers), partition_id, bucket),
                )
            )
        if not found:
            return {}
        return {
            event_id: found[number]
            for event_id, number in hashes.items()
            if number in found and self._is_same(storage, partition_id, found[number], event_id)
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

    def remember(self, storage: Storage, partition_id: int, ids: Sequence[tuple[int, int]], now_ms: int) -> None:
        """Put (hash, offset) pairs into the window."""
        if not ids:
            return
        bucket, hot = self._current_bucket(storage, partition_id, now_ms)
        if hot >= _HOT_IDS:
            self._cool(storage, partition_id, bucket)
            hot = 0
        rows = [(partition_id, _HOT, number, offset) for number, offset in sorted(ids)]
        storage.insert("dedup", 4, rows, verb="INSERT OR REPLACE")
        storage.run(
            "UPDATE dedup_buckets SET ids = ids + ?, hot = ?, last_ms = ? WHERE partition_id = ? AND bucket = ?",
            (len(ids), hot + len(ids), now_ms, partition_id, bucket),
        )

    @staticmethod
    def _cool(storage: Storage, partition_id: int, bucket: int) -> None:
        """Move the hot ids to their bucket."""
        storage.run(
            "INSERT OR REPLACE INTO dedup SELECT partition_id, ?, hash, offset FROM dedup"
            " WHERE partition_id = ? AND bucket = ?",
            (bucket, partition_id, _HOT),
        )
        storage.run("DELETE FROM dedup WHERE partition_id = ? AND bucket = ?", (partition_id, _HOT))

    def _current_bucket(self, storage: Storage, partition_id: int, now_ms: int) -> tuple[int, int]:
        """Return the newest bucket, made where the last one is full or old, and how many of its ids are hot."""
        row = storage.row(
            "SELECT bucket, ids, first_ms, hot FROM dedup_buckets WHERE partition_id = ? ORDER BY bucket DESC LIMIT 1",
            (partition_id,),
        )
        is_full = row is not None and (
            row[1] >= max(1, self._limits.dedup_max_ids // _BUCKETS)
            or now_ms - row[2] >= max(1, self._limits.dedup_window_ms // _BUCKETS)
        )
        if row is not None and not is_full:
            return row[0], row[3]
        bucket = 1 if row is None else row[0] + 1
        if row is not None:
            self._cool(storage, partition_id, row[0])
        storage.run("INSERT INTO dedup_buckets VALUES (?, ?, 0, 0, ?, ?)", (partition_id, bucket, now_ms, now_ms))
        storage.run(
            "DELETE FROM dedup_buckets WHERE partition_id = ? AND (bucket < ? OR last_ms < ?)",
            (partition_id, bucket - _BUCKETS, now_ms - self._limits.dedup_window_ms),
        )
        storage.run(
            "DELETE FROM dedup WHERE partition_id = ?1 AND bucket > 0"
            " AND bucket < coalesce((SELECT min(bucket) FROM dedup_buckets WHERE partition_id = ?1), 0)",
            (partition_id,),
        )
        return bucket, 0
