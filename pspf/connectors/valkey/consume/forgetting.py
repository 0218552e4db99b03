"""Deletion of a cursor's entries in bounded steps: by namespace, whatever it holds."""

from typing import Final

from pspf.connectors.valkey.connection.scripts import load_script
from pspf.connectors.valkey.connection.wire import Lane
from pspf.connectors.valkey.consume.cursor_keys import read_some
from pspf.connectors.valkey.log.keys import CursorKeys

_FORGET: Final = load_script("forget_entries")
_AT_ONCE: Final = 1_000


async def forget_state(lane: Lane, keys: CursorKeys) -> None:
    """Forget all of a cursor's state, and end its lease."""
    await _forget(lane, keys, "")


async def finish_forgetting(lane: Lane, keys: CursorKeys) -> None:
    """Forget the state that a seek has marked; the next owner finishes what an administrator's seek has not."""
    await _forget(lane, keys, "1")


async def _forget(lane: Lane, keys: CursorKeys, only_marked: str) -> None:
    left = 1
    while left > 0:
        some = await read_some(lane, keys, _AT_ONCE)
        left = await lane.run(_FORGET, [keys.meta, keys.spaces, *some.names], [only_marked, *some.namespaces])
