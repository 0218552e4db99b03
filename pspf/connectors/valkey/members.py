"""Who consumes a partition, and which of them live."""

from collections.abc import Sequence
from typing import Final

import orjson

from pspf.connectors.valkey.core import Core
from pspf.connectors.valkey.keys import PartitionKeys
from pspf.connectors.valkey.scripts import ScriptCall, load_script
from pspf.connectors.valkey.wire import Lane

_MEMBERS: Final = load_script("members")


class Roll:
    """The sessions of one partition, as they were when it was last asked for: one command, as a rule."""

    def __init__(self, core: Core, keys: PartitionKeys) -> None:
        self._core = core
        self._keys = keys
        self._entries: dict[str, bytes] = {}
        self._left_ms: dict[str, int] = {}
        self._read_ms: int | None = None

    async def refresh(self, lane: Lane, *, max_age_ms: int = 0) -> None:
        """Ask again, unless that was less than `max_age_ms` ago."""
        now_ms = self._core.clock.monotonic_ms()
        if self._read_ms is not None and now_ms - self._read_ms < max_age_ms:
            return
        entries = self._entries
        while True:  # until we have asked for the lease of each one that is listed
            asked = list(entries)
            keys = [self._keys.sessions, *(self._keys.live(session) for session in asked)]
            left, raw = await lane.run(_MEMBERS, keys, (self._core.now(),))
            entries = {session.decode(): entry for session, entry in zip(raw[::2], raw[1::2], strict=True)}
            if entries.keys() <= set(asked):
                break
        # All at once: several subscriptions share it, and one may look while another waits for a reply.
        self._entries, self._left_ms, self._read_ms = entries, dict(zip(asked, left, strict=True)), now_ms

    @property
    def live(self) -> dict[str, list[tuple[str, str | None]]]:
        """What each live session consumes: (group, handler)."""
        return {
            session: [(group, handler or None) for group, handler in orjson.loads(entry)]
            for session, entry in self._entries.items()
            if self._left_ms[session] > 0
        }

    @property
    def dead(self) -> list[str]:
        """The sessions whose lease has ended."""
        return [session for session in self._entries if self._left_ms[session] <= 0]

    def idle_ms(self, session: str) -> int:
        """Return how long ago a listed session was last renewed."""
        return max(0, self._core.limits.lease_ms - self._left_ms[session])

    def members(self, group: str, handler: str | None) -> list[str]:
        """Return the live sessions that consume a cursor, sorted."""
        return sorted(session for session, cursors in self.live.items() if (group, handler) in cursors)


async def are_alive(core: Core, lane: Lane, sessions: Sequence[tuple[PartitionKeys, str]]) -> list[bool]:
    """Return whether each session has a lease beside each partition's stream."""
    calls = [ScriptCall(_MEMBERS, (keys.sessions, keys.live(session)), (core.now(),)) for keys, session in sessions]
    alive: list[bool] = []
    for reply in await lane.run_many(calls):
        if isinstance(reply, Exception):
            raise reply
        alive.append(reply[0][0] > 0)
    return alive
