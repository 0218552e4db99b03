"""Replayed records: retries that carry their own bytes, because the topic no longer has them."""

from array import array
from collections.abc import Mapping
from operator import attrgetter
from typing import Final

import apsw

from pspf.connectors.contract.values import StoredDeadLetter
from pspf.connectors.letters import as_replayed
from pspf.connectors.sqlite.log import read_places
from pspf.connectors.sqlite.storage import Storage
from pspf.records import Cursor, Record

_offset_of: Final = attrgetter("offset")

FIRST_RETRY: Final = (
    "(SELECT min(offset) FROM retries r WHERE r.cursor_id = c.cursor_id AND r.offset >= p.first_offset)"
)
"""The first record of the topic that waits in the cursor `c` of the partition `p`; replayed ones are before it."""

FIRST_CLAIM: Final = (
    "max(p.first_offset, (SELECT min(first) FROM claims m"
    " WHERE m.cursor_id = c.cursor_id AND m.last >= p.first_offset))"
)
"""The first record of the topic that is claimed; a claim may begin with replayed ones."""

FLOOR: Final = f"min(c.position, coalesce({FIRST_RETRY}, c.position), coalesce({FIRST_CLAIM}, c.position))"
"""The first record of the topic that the cursor is not done with."""


def keep(storage: Storage, cursor_id: int, offset: int, letter: StoredDeadLetter) -> None:
    """Keep the bytes of a dead letter for its retry; they go with the row in `retries`."""
    raw_key, value, raw_headers, timestamp_ms, _ = as_replayed(letter)
    storage.run(
        "INSERT OR REPLACE INTO replayed VALUES (?, ?, ?, ?, ?, ?)",
        (cursor_id, offset, raw_key, value, raw_headers, timestamp_ms),
    )


def read_replayed(storage: Storage, cursor: Cursor, cursor_id: int, attempts: Mapping[int, int]) -> list[Record]:
    """Return the replayed records at the offsets that `attempts` names, with their attempts; others are missing."""
    if not attempts:
        return []
    rows = storage.rows(
        "SELECT offset, key, value, headers, timestamp_ms FROM replayed"
        " WHERE cursor_id = ? AND offset IN (SELECT value FROM carray(?))",
        (cursor_id, apsw.carray(array("q", attempts))),
    )
    return [
        Record(cursor.topic, cursor.partition, offset, raw_key, value, raw_headers, timestamp_ms, attempts[offset])
        for offset, raw_key, value, raw_headers, timestamp_ms in rows
    ]


def read_waiting(
    storage: Storage, cursor: Cursor, cursor_id: int, partition_id: int, attempts: dict[int, int]
) -> list[Record]:
    """Return the records at the offsets that `attempts` names, in order, of the topic or replayed."""
    records = read_places(storage, cursor.topic, partition_id, cursor.partition, attempts)
    return records if len(records) == len(attempts) else with_replayed(storage, cursor, cursor_id, records, attempts)


def with_replayed(
    storage: Storage, cursor: Cursor, cursor_id: int, records: list[Record], attempts: Mapping[int, int]
) -> list[Record]:
    """Return records, and the replayed ones of those that `attempts` names beside them, in order."""
    found = {record.offset for record in records}
    missing = {offset: count for offset, count in attempts.items() if offset not in found}
    replayed = read_replayed(storage, cursor, cursor_id, missing)
    return sorted([*records, *replayed], key=_offset_of) if replayed else records
