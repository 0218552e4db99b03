"""Inspection of a server: reads for the command line and for tests."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from pspf.connectors.contract.values import ConsumerInfo, CursorInfo, PartitionInfo, TopicInfo
from pspf.connectors.valkey.connection.failures import ReplyError
from pspf.connectors.valkey.connection.pool import Lanes
from pspf.connectors.valkey.connection.scripts import ScriptCall, load_script
from pspf.connectors.valkey.connection.wire import Lane
from pspf.connectors.valkey.consume.members import Roll, are_alive
from pspf.connectors.valkey.consume.waiting import find_first_waiting
from pspf.connectors.valkey.log.core import Core
from pspf.connectors.valkey.log.cursors import find_cursors
from pspf.connectors.valkey.log.fields import format_entry_id, parse_entry_id
from pspf.connectors.valkey.log.keys import CursorKeys
from pspf.connectors.valkey.log.topics import Topic
from pspf.errors import BackendCorrupt
from pspf.loggers import get_logger
from pspf.records import Cursor

logger = get_logger(__name__)

_SURVEY: Final = load_script("survey")
_SURVEY_CURSOR: Final = load_script("survey_cursor")
_COUNT: Final = load_script("count")
_MOST_COUNTED: Final = 1_000_000


async def list_topics(core: Core) -> list[TopicInfo]:
    """Return all topics, by name."""
    found: list[TopicInfo] = []
    for topic in await core.topics.list():
        try:
            found.append(await _topic_info(core, topic))
        except BackendCorrupt as error:
            leave_out(f"topic {topic.name!r}", error)
            retention_ms = core.limits.retention_ms if topic.retention_ms is None else topic.retention_ms
            found.append(TopicInfo(topic.name, topic.count, 0, None, retention_ms))
    return found


def leave_out(what: str, error: BackendCorrupt) -> None:
    """Say that something can't be listed: what is damaged, or another program's, is no reason to show nothing else."""
    logger.warning(
        "%s can't be read: %s; pspf topics delete removes the topic, and no key of another program", what, error
    )


async def _topic_info(core: Core, topic: Topic) -> TopicInfo:
    lanes, streams = core.lanes, [keys.stream for keys in topic.partitions]
    asked = [command for stream in streams for command in (("XLEN", stream), ("MEMORY", "USAGE", stream))]
    replies = await lanes.call_many(asked)
    lengths = zip(streams, replies[::2], strict=True)
    records = sum(core.commands.check(length, f"XLEN {stream.decode()}") for stream, length in lengths)
    retention_ms = core.limits.retention_ms if topic.retention_ms is None else topic.retention_ms
    return TopicInfo(topic.name, topic.count, records, _sum_sizes(replies[1::2]), retention_ms)


def _sum_sizes(replies: Sequence[Any]) -> int | None:
    """Return the bytes of streams, 0 of missing ones; None where the user may not ask, or the server can't tell."""
    if any(isinstance(reply, ReplyError) for reply in replies):
        return None
    return sum(reply or 0 for reply in replies)


async def read_topic(core: Core, name: str) -> tuple[TopicInfo, Sequence[PartitionInfo]]:
    """Return a topic and its partitions' bounds."""
    topic = await core.topics.get(name)
    surveys = await _run_all(core.lanes, [ScriptCall(_SURVEY, (keys.stream,), ()) for keys in topic.partitions])
    partitions = []
    for number, (length, first, last) in enumerate(surveys):
        end = parse_entry_id(last) + 1
        partitions.append(PartitionInfo(number, parse_entry_id(first) if first else end, end, length))
    return await _topic_info(core, topic), partitions


async def find_offset(core: Core, name: str, partition: int, at_ms: int) -> int:
    """Return the first offset whose record was stored at or after `at_ms`: ids begin with that time."""
    keys = (await core.topics.get(name)).partition(partition)
    found = await core.lane_for(keys.stream).call("XRANGE", keys.stream, max(0, at_ms), "+", "COUNT", 1)
    if found:
        return parse_entry_id(found[0][0])
    return parse_entry_id((await core.lane_for(keys.stream).run(_SURVEY, (keys.stream,), ()))[2]) + 1


async def list_cursors(core: Core, group: str | None, topic: str | None) -> list[CursorInfo]:
    """Return how far each cursor is."""
    found = await find_cursors(core, group, topic)
    surveys = await core.lanes.run_many(
        [
            ScriptCall(
                _SURVEY_CURSOR,
                (keys.partition.stream, keys.meta, keys.due, keys.lent),
                (core.now(), "" if keys.handler else keys.group),
            )
            for _, keys in found
        ],
    )
    for (cursor, _), survey in zip(found, surveys, strict=True):
        if isinstance(survey, BackendCorrupt):
            leave_out(str(cursor), survey)
        elif isinstance(survey, Exception):
            raise survey
    owned = [
        (keys.partition, survey[9].decode())
        for (_, keys), survey in zip(found, surveys, strict=True)
        if survey and not isinstance(survey, Exception) and survey[9]
    ]
    alive = iter(await are_alive(core, core.lanes, owned))
    return [
        CursorInfo(cursor, None, None, None, 0, 0, 0)
        if isinstance(survey, Exception)
        else await _cursor_info(
            core.lane_for(keys.meta), cursor, keys, survey, has_owner=survey[9] != b"" and next(alive)
        )
        for (cursor, keys), survey in zip(found, surveys, strict=True)
        if survey
    ]


async def _cursor_info(lane: Lane, cursor: Cursor, keys: CursorKeys, survey: Any, *, has_owner: bool) -> CursorInfo:
    unread, position, done, last, pending, age_ms, returned, waiting, parked, owner, *times = survey
    last_commit_ms, watermark_ms, lowest = times
    if lowest:
        done = await _find_done(lane, keys, lowest)
    is_ordered = cursor.handler is not None
    return CursorInfo(
        cursor,
        committed=parse_entry_id(done) if done else None,
        end=parse_entry_id(last) or None,
        unread=await _count(lane, keys.partition.stream, position) if unread < 0 else unread,
        pending=pending + returned,
        held_back=parked,
        retries=waiting,
        oldest_pending_ms=age_ms if age_ms >= 0 else None,
        owner=owner.decode() if is_ordered and has_owner else None,
        watermark_ms=int(watermark_ms) if watermark_ms else None,
        last_commit_ms=int(last_commit_ms) if last_commit_ms else None,
    )


async def _find_done(lane: Lane, keys: CursorKeys, lowest: bytes) -> bytes:
    """Return the id of the last record before all that wait, and before the lowest of the others; empty for none."""
    waiting = await find_first_waiting(lane, keys)
    floor = min(parse_entry_id(lowest), parse_entry_id(lowest) if waiting is None else waiting)
    before = await lane.call("XREVRANGE", keys.partition.stream, b"(" + format_entry_id(floor), "-", "COUNT", 1)
    found: bytes = before[0][0] if before else b""
    return found


async def _count(lane: Lane, stream: bytes, start: bytes) -> int | None:
    """Return how many records there are from an id on, None for very many."""
    count: int = 0
    while count < _MOST_COUNTED:
        step, start = await lane.run(_COUNT, (stream,), (start,))
        count += int(step)
        if not start:
            return count
    return None


async def list_consumers(core: Core, group: str | None) -> list[ConsumerInfo]:
    """Return the live members of groups, with what is pending on them."""
    found: list[ConsumerInfo] = []
    for topic in await core.topics.list():
        roll = Roll(core, topic.partitions[0])
        await roll.refresh(core.lanes)
        joined = [(session, *cursor) for session, cursors in roll.live.items() for cursor in cursors]
        wanted = [one for one in joined if group is None or one[1] == group]
        try:
            pending = {name: await _read_pending(core, topic, name) for _, name, handler in wanted if handler is None}
        except BackendCorrupt as error:
            leave_out(f"what is pending of topic {topic.name!r}", error)
            continue
        for session, name, handler in wanted:
            count = 0 if handler else pending[name][session]
            found.append(ConsumerInfo(session, topic.name, name, handler, count, roll.idle_ms(session)))
    return sorted(found, key=lambda info: (info.group, info.topic, info.handler or "", info.consumer))


async def _read_pending(core: Core, topic: Topic, group: str) -> Counter[str]:
    replies = await core.lanes.call_many([("XPENDING", keys.stream, group) for keys in topic.partitions])
    pending: Counter[str] = Counter()
    for reply in replies:
        for session, count in core.commands.check(reply, "XPENDING")[3] or ():
            pending[session.decode()] += int(count)
    lent = await core.lanes.call_many([("HGETALL", keys.cursor(group, None).lent) for keys in topic.partitions])
    for reply in lent:
        pending.update(session.decode() for session in core.commands.check(reply, "HGETALL")[1::2])
    return pending


async def list_ordered(core: Core, handler: str | None, group: str | None) -> list[Cursor]:
    """Return the ordered cursors of a handler and a group, or of all."""
    found = [cursor for cursor, _ in await find_cursors(core, group, None) if cursor.handler is not None]
    return [cursor for cursor in found if handler in (None, cursor.handler)]


async def _run_all(lanes: Lanes, calls: list[ScriptCall]) -> list[Any]:
    replies = await lanes.run_many(calls)
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies
