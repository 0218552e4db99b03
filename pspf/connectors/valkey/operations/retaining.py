"""Change of a topic's retention by an administrator."""

from dataclasses import replace
from typing import Final

from pspf.connectors.valkey.connection.scripts import ScriptCall, load_script
from pspf.connectors.valkey.log.core import Core
from pspf.connectors.valkey.log.keys import TOPICS_KEY
from pspf.connectors.valkey.log.topics import format_topic
from pspf.errors import Refused

_SET_FIELD: Final = load_script("set_field")
_TRIES: Final = 5


async def set_retention(core: Core, name: str, retention_ms: int | None, dry_run: bool) -> int | None:
    """Change a topic's retention; return what it was. See `Operations.set_retention`.

    The topic is changed first and its partitions after it. Whoever opens the topic sets these right, so that a change
    that was interrupted is completed by that, or by a second one.
    """
    for _ in range(_TRIES):
        before = await core.topics.get(name)
        if dry_run:
            return before.retention_ms
        after = replace(before, retention_ms=retention_ms)
        change = [name, format_topic(before), format_topic(after)]
        if await core.commands.run(_SET_FIELD, [TOPICS_KEY], change) == 1:
            break
    else:
        raise Refused(f"topic {name!r} is changed by somebody else at this moment; try again")
    value = "-" if retention_ms is None else str(retention_ms)
    calls = [ScriptCall(_SET_FIELD, [keys.meta], ["retention", "", value]) for keys in before.partitions]
    for reply in await core.lanes.run_many(calls):
        core.commands.check(reply, "HSET")
    core.topics.forget(name)
    return before.retention_ms
