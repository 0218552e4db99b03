"""Seeking and deleting cursors by an administrator, and the live workers that this concerns."""

from collections.abc import Callable, Sequence

from pspf.connectors.contract.operations import Seek, describe_missing, describe_taken
from pspf.connectors.sqlite.engine.base import Engine
from pspf.connectors.sqlite.entries import count_entries, forget_entries
from pspf.connectors.sqlite.replayed import FIRST_CLAIM, FIRST_RETRY
from pspf.connectors.sqlite.storage import Storage
from pspf.connectors.sqlite.topics import ids_used_once
from pspf.errors import NotFound, Refused
from pspf.records import Cursor

IsDead = Callable[[str], bool]

_CURSOR = f"""
SELECT c.cursor_id, c.partition_id, t.topic_id, p.first_offset, p.next_offset, c.position,
    {FIRST_RETRY},
    {FIRST_CLAIM},
    (SELECT count(*) FROM retries r WHERE r.cursor_id = c.cursor_id AND NOT EXISTS
        (SELECT 1 FROM claims m WHERE m.cursor_id = r.cursor_id AND r.offset BETWEEN m.first AND m.last)),
    (SELECT coalesce(sum(last - first + 1), 0) FROM claims m WHERE m.cursor_id = c.cursor_id),
    (SELECT count(*) FROM operators o WHERE o.cursor_id = c.cursor_id)
FROM cursors c JOIN partitions p USING (partition_id) JOIN topics t USING (topic_id)
WHERE t.topic = ? AND p.partition = ? AND c.group_name = ? AND c.handler = ?
"""  # noqa: S608 (texts of ours)


def plan_seek(
    storage: Storage, cursor: Cursor, offset: int, keep_state: bool | None, force: bool, is_dead: IsDead
) -> tuple[Seek, int, int]:
    """Return what a seek would do, the cursor's id and its partition's. Errors: see `Operations.seek`."""
    row = storage.row(_CURSOR, (cursor.topic, cursor.partition, cursor.group, cursor.handler or ""))
    if row is None:
        raise NotFound(f"no cursor {cursor}")
    cursor_id, partition_id, topic_id, first, end, position, first_retry, first_claim, waiting, claimed, values = row
    values += count_entries(storage, cursor_id)
    before = min(place for place in (position, first_retry, first_claim) if place is not None)
    consumers = live_members(storage, is_dead, topic_id=topic_id, group=cursor.group, handler=cursor.handler or "")
    seek = Seek(cursor, max(before, first), min(max(offset, first), end), waiting + claimed, values, consumers)
    if values and keep_state is None:
        raise Refused(
            f"{cursor} remembers {values:,} values, which fit the records it has handled;\n"
            "  add --reset-state to forget them, or --keep-state to keep them and handle records again on top"
        )
    refuse_in_use(cursor.group, consumers, force)
    return seek, cursor_id, partition_id


def move(storage: Storage, engine: Engine, cursor_id: int, partition_id: int, offset: int, *, reset: bool) -> None:
    """Move a cursor. Its lease ends: an owner with nothing to do would not find out by a commit."""
    _forget_unfinished(storage, cursor_id)
    if reset:
        forget_entries(storage, cursor_id)
    storage.run(
        "UPDATE cursors SET position = ?, sequence = sequence + 1, session = NULL, token = NULL, is_clean = 1,"
        " intent = NULL WHERE cursor_id = ?",
        (offset, cursor_id),
    )
    # What it passes again, it has passed now and not before: retention counts again.
    storage.run("DELETE FROM floors WHERE partition_id = ? AND floor > ?", (partition_id, offset))
    engine.grown.add(partition_id)


def plan_delete(
    storage: Storage, group: str, topic: str | None, handler: str | None, force: bool, is_dead: IsDead
) -> list[tuple[int, int]]:
    """Return (cursor id, partition id) of a group on one topic or all. Errors: see `Operations.delete_group`."""
    rows = find_cursors(storage, group, topic, handler)
    if not rows:
        raise NotFound(describe_missing(group, topic, handler))
    refuse_in_use(group, live_members(storage, is_dead, topic=topic, group=group, handler=handler), force)
    return rows


def find_cursors(storage: Storage, group: str, topic: str | None, handler: str | None) -> list[tuple[int, int]]:
    """Return (cursor id, partition id) of a group's cursors, of one topic or handler or of all."""
    rows = storage.rows(
        "SELECT c.cursor_id, c.partition_id FROM cursors c JOIN partitions p USING (partition_id)"
        " JOIN topics t USING (topic_id) WHERE c.group_name = ?1 AND (?2 IS NULL OR t.topic = ?2)"
        " AND (?3 IS NULL OR c.handler = ?3)",
        (group, topic, handler),
    )
    return [(row[0], row[1]) for row in rows]


def plan_rename(
    storage: Storage, group: str, old: str, new: str, topic: str | None, is_dead: IsDead
) -> tuple[list[int], list[int]]:
    """Return the ids of a handler's cursors, and those in their place that never got on.

    Errors: see `Operations.rename_handler`.
    """
    found = find_cursors(storage, group, topic, old)
    if not found:
        raise NotFound(describe_missing(group, topic, old))
    partitions = {partition_id for _, partition_id in found}
    untouched = []
    for cursor_id, partition_id in find_cursors(storage, group, topic, new):
        if partition_id in partitions:
            row = storage.row("SELECT sequence = 0 FROM cursors WHERE cursor_id = ?", (cursor_id,))
            if row is None or not row[0]:
                raise Refused(describe_taken(group, new))
            untouched.append(cursor_id)
    for handler in (old, new):
        refuse_in_use(group, live_members(storage, is_dead, topic=topic, group=group, handler=handler), force=None)
    return [cursor_id for cursor_id, _ in found], untouched


def rename(storage: Storage, cursors: Sequence[int], untouched: Sequence[int], new: str) -> None:
    """Give cursors another handler's name. Whether a crash is to be charged goes with them."""
    with ids_used_once(storage):
        for cursor_id in untouched:
            delete_cursor(storage, cursor_id)
    for cursor_id in cursors:
        storage.run(
            "UPDATE cursors SET handler = ?, sequence = sequence + 1, session = NULL, token = NULL WHERE cursor_id = ?",
            (new, cursor_id),
        )


def delete_cursors(
    storage: Storage,
    engine: Engine,
    group: str,
    topic: str | None,
    handler: str | None,
    cursors: Sequence[tuple[int, int]],
) -> None:
    """Forget a group on one topic or all: these cursors of it."""
    with ids_used_once(storage):
        for cursor_id, partition_id in cursors:
            delete_cursor(storage, cursor_id)
            engine.grown.add(partition_id)
    storage.run(
        "DELETE FROM members WHERE group_name = ?1 AND (?3 IS NULL OR handler = ?3)"
        " AND (?2 IS NULL OR topic_id = (SELECT topic_id FROM topics WHERE topic = ?2))",
        (group, topic, handler),
    )


def delete_cursor(storage: Storage, cursor_id: int) -> None:
    """Remove a cursor and all that is its own."""
    _forget_unfinished(storage, cursor_id)
    forget_entries(storage, cursor_id)
    storage.run("DELETE FROM cursors WHERE cursor_id = ?", (cursor_id,))


def _forget_unfinished(storage: Storage, cursor_id: int) -> None:
    storage.run("DELETE FROM claims WHERE cursor_id = ?", (cursor_id,))
    storage.run("DELETE FROM retries WHERE cursor_id = ?", (cursor_id,))


def live_members(
    storage: Storage,
    is_dead: IsDead,
    *,
    topic_id: int | None = None,
    topic: str | None = None,
    group: str | None = None,
    handler: str | None = None,
) -> list[str]:
    """Return the sessions that are members of what is named and have not certainly ended."""
    rows = storage.rows(
        "SELECT DISTINCT m.session FROM members m JOIN sessions s USING (session) JOIN topics t USING (topic_id)"
        " WHERE (?1 IS NULL OR m.topic_id = ?1) AND (?2 IS NULL OR t.topic = ?2) AND (?3 IS NULL OR m.group_name = ?3)"
        " AND (?4 IS NULL OR m.handler = ?4) ORDER BY m.session",
        (topic_id, topic, group, handler),
    )
    return [row[0] for row in rows if not is_dead(row[0])]


def refuse_in_use(group: str, consumers: Sequence[str], force: bool | None) -> None:
    """Raise Refused where live workers consume a group, and it was not said to mean it; None: nobody can."""
    if consumers and not force:
        shown = ", ".join(consumers[:3]) + (f" and {len(consumers) - 3} more" if len(consumers) > 3 else "")
        raise Refused(
            f"group {group!r} is in use by {shown}\n  stop them first{'' if force is None else ', or add --force'}"
        )
