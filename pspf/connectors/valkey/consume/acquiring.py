"""Leases of ordered cursors: taken where they are free, with what the owner starts from."""

import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from pspf.connectors.contract.values import Lease
from pspf.connectors.suspicion import Suspicion
from pspf.connectors.valkey.connection.scripts import Argument, load_script
from pspf.connectors.valkey.consume.forgetting import finish_forgetting
from pspf.connectors.valkey.consume.liveness import Member
from pspf.connectors.valkey.consume.lost_stream import forget_cursor
from pspf.connectors.valkey.consume.ordered import Grant, OrderedConsumer, marker_group
from pspf.connectors.valkey.consume.waiting import read_waiting, set_right
from pspf.connectors.valkey.log.fields import make_retry, parse_entry_id
from pspf.connectors.valkey.log.keys import CursorKeys
from pspf.errors import CommitFenced
from pspf.loggers import get_logger
from pspf.records import Cursor, Retry

if TYPE_CHECKING:
    from pspf.connectors.valkey.log.core import Core

logger = get_logger(__name__)

_ACQUIRE: Final = load_script("acquire")
_UNKNOWN_BATCH: Final = 1_000
_TRIES: Final = 10


async def acquire(
    core: "Core",
    member: Member,
    cursor: Cursor,
    keys: CursorKeys,
    bells: Sequence[bytes],
    home: OrderedConsumer | None = None,
) -> "OrderedConsumer | None":
    """Take the lease of a cursor, where it is free; None while its owner lives, or where there is no cursor.

    `bells` are rung when it is given back. Beside a `home` it is taken from whoever holds it.

    Raises:
        CommitFenced: `home` is another worker's by now.
    """
    lane = member.lane_for(keys.partition)
    await member.ensure(keys.partition)
    token = secrets.token_bytes(8)
    owner, was_made = b"", False
    sequence, waiting = b"", list[Retry]()
    for _ in range(_TRIES):
        script_keys = [keys.partition.stream, keys.meta, keys.due, keys.retry, keys.partition.live(owner)]
        script_keys.append(keys.partition.meta)
        script_keys += () if home is None else (home.meta,)
        arguments: list[Argument] = [core.now(), marker_group(cursor), member.session, token, owner, _UNKNOWN_BATCH]
        arguments += (sequence, b"" if home is None else home.token)
        reply = await lane.run(_ACQUIRE, script_keys, arguments)
        if reply[0] == b"OK":
            rows = sorted(_parse_waiting(reply) if reply[10] == b"" else waiting, key=_offset_of)
            grant = _parse_grant(token, reply, await set_right(lane, keys, token, rows, core.clock.now_ms()))
            if reply[5]:
                logger.error("%s: %d records were trimmed before they were read", cursor, reply[5])
            return OrderedConsumer(core, member, cursor, keys, grant, bells)
        if reply[0] == b"HELD":
            return None
        if reply[0] == b"FENCED":
            raise CommitFenced(f"{cursor}: the cursor that it is beside is another's by now")
        if reply[0] == b"OWNER":
            owner = reply[1]
        elif reply[0] == b"MANY":
            sequence, waiting = reply[1], await read_waiting(lane, keys)
        elif reply[0] == b"FORGET":
            await finish_forgetting(lane, keys)
        elif was_made or not await _make_again(member, cursor, keys):
            return None  # the next review tries again: it may be deleted again and again
        else:
            was_made = True
    return None


async def _make_again(member: Member, cursor: Cursor, keys: CursorKeys) -> bool:
    """Make a cursor again whose stream is gone; False where this session never joined it."""
    if not member.has_joined(cursor.topic, cursor.group, cursor.handler):
        return False
    await forget_cursor(member, keys, marker_group(cursor))
    return await member.rejoin(cursor.topic, cursor.group, cursor.handler)


def _parse_waiting(reply: Sequence[Any]) -> list[Retry]:
    rows = reply[11:]
    return [make_retry(*row) for row in zip(rows[::3], rows[2::3], rows[1::3], strict=True)]


def _parse_grant(token: bytes, reply: Sequence[Any], waiting: Sequence[Retry]) -> Grant:
    _, epoch, sequence, position, passed, _, limit, left, crashes, intent = reply[:10]
    suspicion = None
    if limit:
        offsets = tuple(parse_entry_id(raw_id) for raw_id in intent.split())
        suspicion = Suspicion(int(limit), int(left), offsets, int(crashes))
    lease = Lease(int(epoch), parse_entry_id(position), tuple(waiting), suspicion is not None)
    return Grant(token, int(sequence), int(passed) if passed else None, lease, suspicion)


def _offset_of(retry: Retry) -> int:
    return retry.offset
