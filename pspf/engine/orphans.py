"""Orphaned cursors: how far handlers are that the app no longer has, which others in their place would do again."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from shlex import quote

from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.values import CursorInfo
from pspf.errors import NotFound, OrphanedCursors
from pspf.subscription import Subscription

Place = tuple[str, str]
"""A topic and a group."""


@dataclass(frozen=True, slots=True)
class Orphan:
    """A cursor of all partitions that has got on and that no handler of the app continues.

    `handler` is None for the shared one. `done` counts the records that are retained and that it has finished,
    None where the broker can't tell. `heirs` are the app's ordered handlers there that have got nowhere yet: one
    of them may be this one under a new name.
    """

    topic: str
    group: str
    handler: str | None
    done: int | None
    heirs: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "the shared cursor" if self.handler is None else f"the cursor of handler {self.handler!r}"


async def find_orphans(
    broker: Broker, subscriptions: Sequence[Subscription], places: Collection[Place]
) -> list[Orphan]:
    """Return the cursors in `places` that belong to none of `subscriptions`, by topic, group and handler."""
    known = {(topic, each.group, each.cursor_handler) for each in subscriptions for topic in each.topics}
    cursors: dict[tuple[str, str, str | None], list[CursorInfo]] = {}
    # Schedules of several apps of a group have one topic, and one that is gone leaves nothing undone.
    shared = {(each.topic, each.group) for each in subscriptions if each.timers is not None and each.timers.schedule}
    for topic, group in sorted(set(places) - shared):
        for info in await broker.list_cursors(group=group, topic=topic):
            if _has_got_on(info):
                cursors.setdefault((topic, group, info.cursor.handler), []).append(info)
    names = sorted({name for *_, name in known if name is not None})
    return [
        Orphan(
            *found,
            await _count_done(broker, found[0], infos),
            tuple(name for name in names if (*found[:2], name) in known and (*found[:2], name) not in cursors),
        )
        for found, infos in cursors.items()
        if found not in known
    ]


def _has_got_on(info: CursorInfo) -> bool:
    """Return whether a cursor is more than made: nothing is lost with one that has not moved."""
    return info.committed is not None or info.last_commit_ms is not None


async def _count_done(broker: Broker, topic: str, infos: Sequence[CursorInfo]) -> int | None:
    try:
        partitions = (await broker.read_topic(topic))[1]
    except NotFound:  # deleted since
        return 0
    stored = {each.partition: each.records for each in partitions}
    lags = [info.lag for info in infos]
    if None in lags:
        return None
    done = sum(stored.get(info.cursor.partition, 0) for info in infos) - sum(lag for lag in lags if lag is not None)
    return max(0, done)


def refuse_orphans(orphans: Sequence[Orphan], subscriptions: Sequence[Subscription]) -> None:
    """Raise OrphanedCursors where there are some: what would be done again, and what to do about it."""
    if not orphans:
        return
    orphan, others = orphans[0], len(orphans) - 1
    done = "the records" if orphan.done is None else f"{orphan.done:,} record{'' if orphan.done == 1 else 's'}"
    raise OrphanedCursors(
        f"group {orphan.group!r} has {orphan} on topic {orphan.topic!r}, which this app lacks"
        f"{f' (and {others} more)' if others else ''}\n"
        f"  another handler in its place would do {done} that it has done again, and start without what it remembers\n"
        f"{_way_out(orphan, subscriptions)}\n"
        f"  not needed any more? pspf groups delete {quote(orphan.group)} --topic {orphan.topic}"
        f" --handler {quote(orphan.handler or '')} --execute\n"
        "  meant so? start with --accept-orphans (PSPF_ACCEPT_ORPHANS=1)"
    )


def _way_out(orphan: Orphan, subscriptions: Sequence[Subscription]) -> str:
    mine = [each for each in subscriptions if orphan.topic in each.topics and each.group == orphan.group]
    shared = {each.name for each in mine if not each.is_ordered}
    if orphan.handler is None or orphan.handler in shared or len(shared) == len(mine):
        before, now = ("key", "none") if orphan.handler is not None else ("none", "key")
        return (
            f'  was ordering="{before}" changed to "{now}"? that is a cursor of its own: put it back, or let a worker\n'
            "  of the old code finish all, then start this one behind it: start='end', or start= a record's id"
        )
    elsewhere = "  another app's? give each app a group= of its own"
    if not orphan.heirs:
        return elsewhere
    new = quote(orphan.heirs[0]) if len(orphan.heirs) == 1 else "NEW"
    return (
        f"  renamed? pass name={orphan.handler!r}, or: pspf groups rename-handler {quote(orphan.group)}"
        f" {quote(orphan.handler)} {new} --topic {orphan.topic} --execute\n{elsewhere}"
    )
