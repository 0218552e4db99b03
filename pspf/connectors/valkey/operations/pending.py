"""Pending records: listed, retried now, or dropped by an administrator."""

from collections.abc import Sequence
from heapq import nsmallest
from itertools import groupby
from typing import Any, Final

from pspf.connectors.contract.operations import PendingRecord, Waiting
from pspf.connectors.valkey.connection.scripts import Argument, load_script
from pspf.connectors.valkey.connection.wire import Lane
from pspf.connectors.valkey.consume.replayed import read_replayed, unpack_replayed
from pspf.connectors.valkey.log.core import Core
from pspf.connectors.valkey.log.cursors import find_cursors
from pspf.connectors.valkey.log.fields import decode_entries, format_entry_id, parse_entry_id, unpack_retry
from pspf.connectors.valkey.log.keys import CursorKeys
from pspf.errors import NotFound
from pspf.records import Cursor

_RETRY: Final = load_script("retry_pending")
_DROP: Final = load_script("drop_pending")
_PAGE: Final = 1_000


async def list_pending(core: Core, group: str, topic: str | None, max_records: int) -> list[PendingRecord]:
    """Return what a group has not done of what was delivered, by topic, handler, partition and offset."""
    now_ms, server_ms = await _read_clocks(core)
    found: list[PendingRecord] = []
    for cursor, keys in await find_cursors(core, group, topic):
        found += await _pending_of(core, cursor, keys, max_records, now_ms, server_ms)
    return found


async def _read_clocks(core: Core) -> tuple[int, int]:
    """Return the time by the clock that counts, and by the server's."""
    seconds, micros = await core.commands.call("TIME")
    server_ms = int(seconds) * 1_000 + int(micros) // 1_000
    return core.clock.now_ms() if core.has_own_clock else server_ms, server_ms


async def _pending_of(
    core: Core, cursor: Cursor, keys: CursorKeys, max_records: int, now_ms: int, server_ms: int
) -> list[PendingRecord]:
    stream = keys.partition.stream
    lane = core.lane_for(stream)
    in_hand: dict[bytes, tuple[str, int | None]] = {}
    owner: str | None = None
    if cursor.handler is None:
        for raw_id, consumer, idle_ms, _ in await _read_in_hand(core, stream, keys.group, max_records):
            # Its delivery was stamped by the clock that counts; the server took its own now to compare.
            in_hand[raw_id] = (consumer.decode(), max(0, now_ms - (server_ms - idle_ms)))
        lent = await lane.call("HGETALL", keys.lent)
        in_hand |= {raw_id: (session.decode(), None) for raw_id, session in zip(lent[::2], lent[1::2], strict=True)}
    else:
        owner = ((await lane.call("HGET", keys.meta, "session")) or b"").decode() or None
    scores = await _read_first_due(lane, keys, max_records)
    chosen = sorted({*in_hand, *scores}, key=parse_entry_id)[:max_records]
    found: list[PendingRecord] = []
    for start in range(0, len(chosen), _PAGE):
        ids = chosen[start : start + _PAGE]
        replies = await lane.call_many([("XRANGE", stream, raw_id, raw_id) for raw_id in ids])
        packed = await lane.call("HMGET", keys.retry, *ids)
        missing = [raw_id for raw_id, reply in zip(ids, replies, strict=True) if lane.check(reply, "XRANGE") == []]
        replayed = await read_replayed(lane, keys, missing)
        for raw_id, reply, retry in zip(ids, replies, packed, strict=True):
            records = decode_entries(cursor.topic, cursor.partition, reply)
            if raw_id in replayed:
                records = [unpack_replayed(cursor.topic, cursor.partition, parse_entry_id(raw_id), replayed[raw_id])]
            attempts, _, retry_key, error = (0, None, None, "") if retry is None else unpack_retry(retry)
            consumer, age_ms = in_hand.get(
                raw_id, (owner, max(0, now_ms - records[0].timestamp_ms) if records else None)
            )
            waiting = Waiting.IN_HAND if raw_id in in_hand else _waiting(scores[raw_id])
            due_ms = int(scores[raw_id]) if waiting is Waiting.RETRY else None
            key = records[0].raw_key if records else retry_key
            offset = parse_entry_id(raw_id)
            found.append(PendingRecord(cursor, offset, key, waiting, attempts, error, due_ms, age_ms, consumer))
    return found


async def _read_in_hand(core: Core, stream: bytes, group: str, max_records: int) -> list[Any]:
    rows: list[Any] = []
    start = b"-"
    while len(rows) < max_records:
        page = await core.lane_for(stream).call(
            "XPENDING", stream, group, start, "+", min(_PAGE, max_records - len(rows))
        )
        rows += page
        if len(page) < _PAGE:
            break
        start = b"(" + page[-1][0]
    return rows


async def _read_first_due(lane: Lane, keys: CursorKeys, most: int) -> dict[bytes, float]:
    """Return the first of what waits, by offset, and when each is due: the server has it in the order of that."""
    first: dict[bytes, float] = {}
    start = 0
    while rows := await lane.call("ZRANGE", keys.due, start, start + _PAGE - 1, "WITHSCORES"):
        first.update(zip(rows[::2], map(float, rows[1::2]), strict=True))
        if len(first) > 2 * most + _PAGE:
            first = {raw_id: first[raw_id] for raw_id in nsmallest(most, first, parse_entry_id)}
        start += _PAGE
    return first


def _waiting(score: float) -> Waiting:
    if score < 0:
        return Waiting.GIVEN_BACK
    return Waiting.HELD_BACK if score == float("inf") else Waiting.RETRY


async def retry_pending(core: Core, records: Sequence[PendingRecord]) -> int:
    """Make what waits for a retry due now; return how many did."""
    retried = 0
    for _, keys, ids in await _by_cursor(core, records):
        for start in range(0, len(ids), _PAGE):
            arguments = [core.now(), *ids[start : start + _PAGE]]
            retried += await core.lane_for(keys.meta).run(_RETRY, [keys.meta, keys.due], arguments)
    return retried


async def drop_pending(core: Core, records: Sequence[PendingRecord]) -> int:
    """Finish records without handling them; return how many were there."""
    dropped = 0
    for cursor, keys, ids in await _by_cursor(core, records):
        partition = keys.partition
        script_keys = [
            partition.stream,
            partition.meta,
            keys.meta,
            keys.due,
            keys.retry,
            keys.key(b"suspects"),
            keys.lent,
        ]
        group = keys.group if cursor.handler is None else ""
        for start in range(0, len(ids), _PAGE):
            dropped += await core.lane_for(keys.meta).run(_DROP, script_keys, [group, *ids[start : start + _PAGE]])
    return dropped


async def _by_cursor(core: Core, records: Sequence[PendingRecord]) -> list[tuple[Cursor, CursorKeys, list[Argument]]]:
    ordered = sorted(records, key=lambda record: (str(record.cursor), record.offset))
    found: list[tuple[Cursor, CursorKeys, list[Argument]]] = []
    for cursor, of_cursor in groupby(ordered, key=lambda record: record.cursor):
        topic = await core.topics.find(cursor.topic)
        if topic is None or cursor.partition >= topic.count:
            raise NotFound(f"no cursor {cursor} any more")
        keys = topic.partition(cursor.partition).cursor(cursor.group, cursor.handler)
        found.append((cursor, keys, [format_entry_id(record.offset) for record in of_cursor]))
    return found
