"""The limits of a broker: sizes and times in force."""

from collections.abc import Sequence
from dataclasses import dataclass

from pspf.errors import EventRejected
from pspf.records import NewRecord


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings that a broker needs. Sizes are bytes, times milliseconds."""

    lease_ms: int = 10_000
    """After how long without a renewal others may take what a session holds."""
    renew_ms: int = 3_000
    """How often a session is renewed."""
    dedup_window_ms: int = 3_600_000
    dedup_max_ids: int = 1_000_000
    """How many event ids a partition keeps for the de-duplication at most."""
    retention_ms: int = 7 * 24 * 3_600_000
    """For topics that were made without one of their own; -1: for ever, 0: until all groups are done."""
    emit_timeout_ms: int = 30_000
    """How long an append may wait, for a lock or for the broker."""
    max_record_bytes: int = 1 << 20
    max_key_bytes: int = 1 << 10
    max_headers_bytes: int = 16 << 10
    max_crashes: int = 3
    """How often a record may end its process before it is dead."""
    synchronous: str = "FULL"
    """SQLite's: FULL or NORMAL."""

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
