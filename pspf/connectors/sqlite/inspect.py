"""Inspection of the embedded broker: reads for the command line and for tests."""

from collections.abc import Callable, Sequence

from pspf.clock import Clock
from pspf.connectors.contract.limits import Limits
from pspf.connectors.contract.values import ConsumerInfo, CursorInfo, PartitionInfo, TopicInfo
from pspf.connectors.sqlite.replayed import FIRST_CLAIM, FIRST_RETRY
from pspf.connectors.sqlite.storage import Row, Storage
from pspf.connectors.sqlite.topics import OFFSET_BITS, Topic, get_topic
from pspf.records import Cursor


def list_topics(storage: Storage, limits: Limits) -> list[TopicInfo]:
    """Return all topics, by name."""
    return [
        TopicInfo(topic, partitions, records, size_bytes, limits.retention_ms if retention_ms is None else retention_ms)
        for topic, partitions, records, size_bytes, retention_ms in storage.rows(
            "SELECT t.topic, t.partitions, sum(p.records), sum(p.size_bytes), t.retention_ms"
            " FROM topics t JOIN partitions p USING (topic_id) GROUP BY t.topic_id ORDER BY t.topic"
        )
    ]


def read_topic(storage: Storage, topic: str, limits: Limits) -> tuple[TopicInfo, Sequence[PartitionInfo]]:
    """Return a topic and its partitions' bounds."""
    found: Topic = get_topic(storage, topic)
    partitions = [PartitionInfo(p.partition, p.first, p.next, p.records) for p in found.partitions]
    records = sum(p.records for p in found.partitions)
    size_bytes = sum(p.size_bytes for p in found.partitions)
    retention_ms = limits.retention_ms if found.retention_ms is None else found.retention_ms
    return TopicInfo(topic, len(partitions), records, size_bytes, retention_ms), partitions


_CURSORS = f"""
SELECT t.topic, p.partition, c.group_name, c.handler, c.cursor_id, c.partition_id, c.position, p.first_offset,
    p.next_offset, p.records, c.session, c.last_commit_ms,
    (SELECT count(*) FROM retries r WHERE r.cursor_id = c.cursor_id AND r.due_ms IS NOT NULL),
    (SELECT count(*) FROM retries r WHERE r.cursor_id = c.cursor_id AND r.due_ms IS NULL),
    {FIRST_RETRY},
    (SELECT coalesce(sum(last - first + 1), 0) FROM claims m WHERE m.cursor_id = c.cursor_id),
    {FIRST_CLAIM},
    (SELECT min(claimed_ms) FROM claims m WHERE m.cursor_id = c.cursor_id),
    (SELECT watermark_ms FROM operators o WHERE o.cursor_id = c.cursor_id)
FROM cursors c JOIN partitions p USING (partition_id) JOIN topics t USING (topic_id)
WHERE (?1 IS NULL OR c.group_name = ?1) AND (?2 IS NULL OR t.topic = ?2)
ORDER BY c.group_name, t.topic, c.handler, p.partition
"""  # noqa: S608 (texts of ours)


def list_cursors(storage: Storage, group: str | None, topic: str | None, clock: Clock) -> list[CursorInfo]:
    """Return how far each cursor is."""
    return [_cursor_info(storage, row, clock.now_ms()) for row in storage.rows(_CURSORS, (group, topic))]


def _cursor_info(storage: Storage, row: Row, now_ms: int) -> CursorInfo:
    topic, number, group, handler, _, partition_id, position, first, end, records, session, last_commit_ms = row[:12]
    waiting, parked, first_retry, pending, first_claim, claimed_ms, watermark_ms = row[12:]
    floor = min(offset for offset in (position, first_retry, first_claim) if offset is not None)
    unread = end - max(position, first)
    if unread > 0 and records != end - first:  # dead letters are taken out of the middle of their log
        unread = _count(storage, partition_id, position, end)
    is_ordered = handler != ""
    return CursorInfo(
        Cursor(topic, group, handler or None, number),
        committed=floor - 1 if floor > first else None,
        end=end - 1 if end > 1 else None,
        unread=unread,
        pending=pending,
        held_back=parked if is_ordered else 0,
        retries=waiting,
        oldest_pending_ms=None if claimed_ms is None else max(0, now_ms - claimed_ms),
        owner=session,
        watermark_ms=watermark_ms,
        last_commit_ms=last_commit_ms,
    )


def _count(storage: Storage, partition_id: int, first: int, end: int) -> int:
    base = partition_id << OFFSET_BITS
    row = storage.row("SELECT count(*) FROM records WHERE place >= ? AND place < ?", (base | first, base | end))
    assert row is not None
    count: int = row[0]
    return count


def list_consumers(
    storage: Storage, group: str | None, clock: Clock, is_dead: Callable[[str], bool]
) -> list[ConsumerInfo]:
    """Return the live members of groups, with what is pending on them."""
    now_ms = clock.now_ms()
    return [
        ConsumerInfo(session, topic, name, handler or None, pending, max(0, now_ms - renewed_ms))
        for session, topic, name, handler, renewed_ms, pending in storage.rows(
            "SELECT m.session, t.topic, m.group_name, m.handler, s.renewed_ms,"
            " (SELECT coalesce(sum(k.last - k.first + 1), 0) FROM claims k JOIN cursors c USING (cursor_id)"
            "  JOIN partitions p USING (partition_id) WHERE k.session = m.session AND p.topic_id = m.topic_id"
            "  AND c.group_name = m.group_name AND c.handler = m.handler)"
            " FROM members m JOIN sessions s USING (session) JOIN topics t USING (topic_id)"
            " WHERE ?1 IS NULL OR m.group_name = ?1 ORDER BY m.group_name, t.topic, m.handler, m.session",
            (group,),
        )
        if not is_dead(session)
    ]


def list_ordered(storage: Storage, handler: str | None, group: str | None) -> list[Cursor]:
    """Return the ordered cursors of a handler and a group, or of all."""
    return [
        Cursor(*row)
        for row in storage.rows(
            "SELECT t.topic, c.group_name, c.handler, p.partition FROM cursors c JOIN partitions p USING (partition_id)"
            " JOIN topics t USING (topic_id) WHERE c.handler <> '' AND (?1 IS NULL OR c.handler = ?1)"
            " AND (?2 IS NULL OR c.group_name = ?2)",
            (handler, group),
        )
    ]
