"""Retries and held-back records of an ordered cursor: read in pages, and corrected by a new owner."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from pspf.connectors.valkey.connection.scripts import Argument, load_script
from pspf.connectors.valkey.connection.wire import Lane
from pspf.connectors.valkey.log.fields import format_entry_id, make_retry, parse_entry_id
from pspf.connectors.valkey.log.keys import CursorKeys
from pspf.records import Retry

_SET_RIGHT: Final = load_script("set_right")
_PAGE: Final = 1_000


async def read_waiting(lane: Lane, keys: CursorKeys) -> list[Retry]:
    """Return what waits in a cursor. It is all of it where the cursor's sequence is the same before and after."""
    rows: list[Retry] = []
    start = 0
    while page := await lane.call("ZRANGE", keys.due, start, start + _PAGE - 1, "WITHSCORES"):
        packed = await lane.call("HMGET", keys.retry, *page[::2])
        rows += [
            make_retry(raw_id, retry or b"0 - -1 ", due)
            for raw_id, due, retry in zip(page[::2], page[1::2], packed, strict=True)
        ]
        start += _PAGE
    return rows


async def find_first_waiting(lane: Lane, keys: CursorKeys) -> int | None:
    """Return the lowest offset of the stream's records that wait, None where none does."""
    begin = await find_begin(lane, keys)
    first: int | None = None
    start = 0
    while ids := await lane.call("ZRANGE", keys.due, start, start + _PAGE - 1):
        of_stream = [offset for offset in map(parse_entry_id, ids) if begin is not None and offset >= begin]
        first = min(of_stream if first is None else [first, *of_stream], default=None)
        start += _PAGE
    return first


async def find_begin(lane: Lane, keys: CursorKeys) -> int | None:
    """Return the offset of the stream's first record, None without any. What waits before it is replayed."""
    entries = await lane.call("XRANGE", keys.partition.stream, "-", "+", "COUNT", 1)
    return parse_entry_id(entries[0][0]) if entries else None


async def count_waiting_before(lane: Lane, keys: CursorKeys, offset: int) -> int:
    """Return how many of the stream's records wait before an offset."""
    begin = await find_begin(lane, keys)
    if begin is None:
        return 0
    count = start = 0
    while ids := await lane.call("ZRANGE", keys.due, start, start + _PAGE - 1):
        count += sum(begin <= parse_entry_id(raw_id) < offset for raw_id in ids)
        start += _PAGE
    return count


def find_wrong(rows: Sequence[Retry], now_ms: int) -> Iterator[Retry]:
    """Yield, as they are to be, those of the rows (in order) that wait for the wrong thing.

    An administrator removed or added what they wait for: the first of a key is due at some time, and none before it.
    """
    first_ms: dict[bytes, int] = {}
    for row in rows:
        if row.key is None:
            continue  # it is its own key: nothing holds it back
        if row.key not in first_ms:
            first_ms[row.key] = now_ms if row.due_ms is None else row.due_ms
            if row.due_ms is None:
                yield replace(row, due_ms=now_ms)
        elif row.due_ms is not None and row.due_ms < first_ms[row.key]:
            yield replace(row, due_ms=None)


async def set_right(lane: Lane, keys: CursorKeys, token: bytes, rows: Sequence[Retry], now_ms: int) -> Sequence[Retry]:
    """Return the corrected rows and store them; where this is interrupted, the next owner does the rest."""
    wrong = {row.offset: row for row in find_wrong(rows, now_ms)}
    if not wrong:
        return rows
    changes = list(wrong.values())
    for start in range(0, len(changes), _PAGE):
        arguments: list[Argument] = [token]
        for row in changes[start : start + _PAGE]:
            arguments += ("+inf" if row.due_ms is None else row.due_ms, format_entry_id(row.offset))
        if not await lane.run(_SET_RIGHT, [keys.meta, keys.due], arguments):
            break  # another owner has the lease: the first commit will be FENCED
    return [wrong.get(row.offset, row) for row in rows]
