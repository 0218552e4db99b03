"""Retention: a partition is trimmed in bounded steps, never above a group's floor."""

from typing import Final

from pspf.connectors.contract.limits import Limits
from pspf.connectors.contract.values import FOREVER
from pspf.connectors.sqlite.replayed import FLOOR
from pspf.connectors.sqlite.storage import Storage
from pspf.connectors.sqlite.topics import OFFSET_BITS

_TRIM_STEP: Final = 2_000
_FLOOR_SAMPLES: Final = 100


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
        if retention_ms == 0:
            return 0  # no group has consumed anything
        floor = end  # without groups retention counts from the append
    cut = floor if retention_ms == 0 else _old_floor(storage, partition_id, floor, retention_ms, now_ms)
    cut = min(cut, first + _TRIM_STEP)
    return cut_records(storage, partition_id, first, cut)[0] if cut > first else 0


def lowest_floor(storage: Storage, partition_id: int) -> int | None:
    """Return the first offset that some group is not done with; None without groups."""
    row = storage.row(
        f"SELECT min({FLOOR}) FROM cursors c JOIN partitions p USING (partition_id)"  # noqa: S608 (a text of ours)
        " WHERE c.partition_id = ?",
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


def cut_records(storage: Storage, partition_id: int, first: int, cut: int) -> tuple[int, int]:
    """Remove the records from `first` up to, not including, `cut`; return how many, and their payloads' bytes."""
    base = partition_id << OFFSET_BITS
    row = storage.row(
        "SELECT count(*), coalesce(sum(length(value)), 0) FROM records WHERE place >= ? AND place < ?",
        (base | first, base | cut),
    )
    assert row is not None
    storage.run("DELETE FROM records WHERE place >= ? AND place < ?", (base | first, base | cut))
    storage.run(
        "UPDATE partitions SET first_offset = ?, records = records - ?, size_bytes = size_bytes - ?"
        " WHERE partition_id = ?",
        (cut, row[0], row[1], partition_id),
    )
    return row[0], row[1]
