"""Internal topics: what goes with a windowed handler whose grouping key is not its records' key.

Its records go from its topic through one of these, on several partitions. What an administrator does to the handler's
topic or group is to be done to both.
"""

from pspf.connectors.contract.broker import Broker
from pspf.errors import Refused
from pspf.records import Cursor
from pspf.subscription import repartition_topic


def is_behind_hop(cursor: Cursor) -> bool:
    """Return whether a cursor is one of an internal topic, and its windows' own."""
    return cursor.handler is not None and cursor.topic == repartition_topic(cursor.group, cursor.handler)


async def find_hops(broker: Broker, *, group: str | None = None, topic: str | None = None) -> list[str]:
    """Return the internal topics of the handlers of a group, of those on a topic, or of both."""
    infos = await broker.list_cursors(group=group)
    on_topic = {(info.cursor.group, info.cursor.handler) for info in infos if topic in (None, info.cursor.topic)}
    return sorted(
        {
            info.cursor.topic
            for info in infos
            if is_behind_hop(info.cursor)
            and info.cursor.topic != topic
            and (info.cursor.group, info.cursor.handler) in on_topic
        }
    )


def hops_of(hops: list[str], group: str, handler: str) -> list[str]:
    """Return those of internal topics that are one handler's."""
    return [hop for hop in hops if hop == repartition_topic(group, handler)]


async def check_idle(broker: Broker, hops: list[str], *, reset_state: bool) -> None:
    """Raise Refused where something is on its way through internal topics, or would be forgotten with them."""
    for hop in hops:
        if any(info.lag != 0 for info in await broker.list_cursors(topic=hop)):
            raise Refused(f"internal topic {hop!r} has records that are not done: let the worker drain it")
        if not reset_state and any(kept.namespaces for kept in await broker.list_operators(topic=hop)):
            raise Refused(f"windows behind {hop!r} remember something: forget it with --reset-state")
