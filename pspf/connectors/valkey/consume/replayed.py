"""Replayed records: retries that carry their own bytes, because the stream no longer has them.

They stand in the cursor's hash `retry`, in the field `+` and id, as `time key-length headers-length key headers
payload`, a length of -1 for none. Who removes a retry removes that field as well.
"""

from collections.abc import Sequence

from pspf.connectors.contract.values import StoredDeadLetter
from pspf.connectors.letters import as_replayed
from pspf.connectors.valkey.connection.wire import Lane
from pspf.connectors.valkey.log.fields import Entry, decode_entries, parse_entry_id
from pspf.connectors.valkey.log.keys import CursorKeys
from pspf.records import Record


def pack_replayed(letter: StoredDeadLetter) -> bytes:
    """Return a dead letter's record as `retry` hashes hold it."""
    raw_key, value, raw_headers, timestamp_ms, _ = as_replayed(letter)
    sizes = [b"-1" if part is None else b"%d" % len(part) for part in (raw_key, raw_headers)]
    return b" ".join([b"%d" % (timestamp_ms or 0), *sizes, (raw_key or b"") + (raw_headers or b"") + value])


def unpack_replayed(topic: str, partition: int, offset: int, packed: bytes) -> Record:
    """Return the record at `offset`."""
    raw_time, *raw_sizes, rest = packed.split(b" ", 3)
    key_size, headers_size = map(int, raw_sizes)
    key_end = max(key_size, 0)
    value_at = key_end + max(headers_size, 0)
    raw_key = None if key_size < 0 else rest[:key_end]
    raw_headers = None if headers_size < 0 else rest[key_end:value_at]
    return Record(topic, partition, offset, raw_key, rest[value_at:], raw_headers, int(raw_time))


async def read_replayed(lane: Lane, keys: CursorKeys, ids: Sequence[bytes]) -> dict[bytes, bytes]:
    """Return the packed records of ids; ids of records that were not replayed are missing."""
    if not ids:
        return {}
    found = await lane.call("HMGET", keys.retry, *[b"+" + raw_id for raw_id in ids])
    return {raw_id: packed for raw_id, packed in zip(ids, found, strict=True) if packed is not None}


def decode_taken(topic: str, partition: int, entries: Sequence[Entry]) -> list[Record]:
    """Return the records that take.lua gives: of the stream, and, as entries of three parts, replayed ones."""
    records = decode_entries(topic, partition, [entry for entry in entries if len(entry) == 2])
    records += [
        unpack_replayed(topic, partition, parse_entry_id(entry[0]), entry[1][1]) for entry in entries if len(entry) == 3
    ]
    return records
