"""The update of a database's format: state and windows of formats 1 to 3 become entries, in bounded steps.

Each step is a script of its own. One that was interrupted is done again by the next process that connects, and several
may do it at once: what is moved is moved. Nothing else is done before all of it is, and `pspf:format` says so.

    workers of an older version live ──> refused
    each ordered cursor: sealed ──> state moved ──> windows renamed
    all of them ──> the format of now

A worker of an older version that nobody saw alive, as it was stopped for longer than its lease, can't commit any state
or windows to a cursor that is sealed.
"""

from typing import Final

from pspf.connectors.valkey.connection.format import FORMAT, FORMAT_KEY
from pspf.connectors.valkey.connection.scripts import load_script
from pspf.connectors.valkey.connection.wire import Lane
from pspf.connectors.valkey.consume.members import Roll
from pspf.connectors.valkey.log.core import Core
from pspf.connectors.valkey.log.cursors import find_cursors
from pspf.connectors.valkey.log.keys import CursorKeys
from pspf.errors import BackendUnavailable
from pspf.loggers import get_logger
from pspf.records import STATE

logger = get_logger(__name__)

_SEAL: Final = load_script("upgrade_seal")
_MOVE_STATE: Final = load_script("upgrade_state")
_RENAME_WINDOWS: Final = load_script("upgrade_windows")
_RECORD_KEYS: Final = 1_000
_SLOTS: Final = 250
_SEALED_S: Final = 30 * 86_400
"""How long a cursor is sealed: a worker that was stopped does not go on after as much."""


async def upgrade(core: Core) -> None:
    """Bring what is stored to the format of now, unless it is.

    Raises:
        BackendUnavailable: Workers of an older version are at work; nothing was done.
    """
    raw = await core.commands.call("GET", FORMAT_KEY)
    if raw is None or int(raw) >= FORMAT:
        return
    await _refuse_workers(core, int(raw))
    logger.info("%s: format %d becomes %d", core.commands.name, int(raw), FORMAT)
    for cursor, keys in await find_cursors(core, None, None):
        if cursor.handler is not None:
            await bring_up_to_date(core.lane_for(keys.meta), keys)
    await core.commands.call("SET", FORMAT_KEY, FORMAT)


async def _refuse_workers(core: Core, version: int) -> None:
    """Raise where sessions live: they are of an older version, and would go on where nothing is any more."""
    for topic in await core.topics.list():
        roll = Roll(core, topic.partitions[0])
        await roll.refresh(core.lanes)
        if roll.live:
            shown = ", ".join(sorted(roll.live)[:3]) + (", ..." if len(roll.live) > 3 else "")
            raise BackendUnavailable(
                f"{core.commands.name} holds format {version}, and workers of an older PSPF use it: {shown}\n"
                f"  stop them; then this version brings it to format {FORMAT}"
            )


async def bring_up_to_date(lane: Lane, keys: CursorKeys) -> None:
    """Move the state and the windows of an ordered cursor to where they are now; what is moved is left alone."""
    await _seal(lane, keys)
    await _move_state(lane, keys)
    await _rename_windows(lane, keys)


async def _seal(lane: Lane, keys: CursorKeys) -> None:
    names = [keys.meta, keys.key(b"keys"), keys.key(b"keys-old"), keys.key(b"slots"), keys.key(b"slots-old")]
    await lane.run(_SEAL, names, [f"moved: this is format {FORMAT} by now", _SEALED_S])


async def _move_state(lane: Lane, keys: CursorKeys) -> None:
    old, left = keys.key(b"keys-old"), 1
    while left and (record_keys := await lane.call("SRANDMEMBER", old, _RECORD_KEYS)):
        names = [old, keys.spaces, keys.entries(STATE), keys.order(STATE)]
        names += [keys.key(b"st", record_key) for record_key in record_keys]
        left = await lane.run(_MOVE_STATE, names, [STATE, *record_keys])


async def _rename_windows(lane: Lane, keys: CursorKeys) -> None:
    old, left = keys.key(b"slots-old"), 1
    while left and (slots := await lane.call("SRANDMEMBER", old, _SLOTS)):
        names = [old, keys.spaces]
        for slot in slots:
            names += [keys.key(b"win", slot), keys.key(b"wkeys", slot), keys.entries(slot), keys.order(slot)]
        left = await lane.run(_RENAME_WINDOWS, names, slots)
