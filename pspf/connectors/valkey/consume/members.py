"""Members of a partition: the sessions that consume it, and which of them live."""

from collections.abc import Sequence
from typing import Final

import orjson

from pspf.connectors.valkey.connection.pool import Lanes
from pspf.connectors.valkey.connection.scripts import ScriptCall, load_script
from pspf.connectors.valkey.log.core import Core
from pspf.connectors.valkey.log.keys import PartitionKeys

_MEMBERS: Final = load_script("members")
_FORGET_DEAD: Final = load_script("forget_dead")
_STEP: Final = 1_000
"""Of how many sessions the leases are asked for at once: a server does nothing else while a script runs."""


class Roll:
    """The sessions of one partition, as they were when it was last asked for: one command, as a rule."""

    def __init__(self, core: Core, keys: PartitionKeys) -> None:
        self._core = core
        self._keys = keys
        self._entries: dict[str, bytes] = {}
        self._left_ms: dict[str, int] = {}
        self._read_ms: int | None = None

    async def refresh(self, lanes: Lanes, *, max_age_ms: int = 0) -> None:
        """Ask again, unless that was less than `max_age_ms` ago."""
        now_ms = self._core.clock.monotonic_ms()
        if self._read_ms is not None and now_ms - self._read_ms < max_age_ms:
            return
        entries: dict[str, bytes] = {}
        left_ms: dict[str, int] = {}
        asked, at = list(self._entries)[:_STEP], b"0"
        while True:  # until we have asked for the lease of each one that is listed
            keys = [self._keys.sessions, *(self._keys.live(session) for session in asked)]
            left, at, page = await lanes.lane_for(self._keys.stream).run(_MEMBERS, keys, (self._core.now(), at))
            left_ms.update(zip(asked, left, strict=True))
            entries.update((session.decode(), entry) for session, entry in zip(page[::2], page[1::2], strict=True))
            asked = [session for session in entries if session not in left_ms][:_STEP]
            if not asked and not at:
                break
        # All at once: several subscriptions share it, and one may look while another waits for a reply.
        self._entries, self._left_ms, self._read_ms = entries, left_ms, now_ms

    @property
    def live(self) -> dict[str, list[tuple[str, str | None]]]:
        """What each live session consumes: (group, handler)."""
        return {
            session: [(group, handler or None) for group, handler in orjson.loads(entry)]
            for session, entry in self._entries.items()
            if self._left_ms[session] > 0
        }

    def idle_ms(self, session: str) -> int:
        """Return how long ago a listed session was last renewed."""
        return max(0, self._core.limits.lease_ms - self._left_ms[session])

    def members(self, group: str, handler: str | None) -> list[str]:
        """Return the live sessions that consume a cursor, sorted."""
        return sorted(session for session, cursors in self.live.items() if (group, handler) in cursors)


async def are_alive(core: Core, lanes: Lanes, sessions: Sequence[tuple[PartitionKeys, str]]) -> list[bool]:
    """Return whether each session has a lease beside each partition's stream."""
    calls = [ScriptCall(_MEMBERS, (keys.sessions, keys.live(session)), (core.now(), "")) for keys, session in sessions]
    alive: list[bool] = []
    for reply in await lanes.run_many(calls):
        if isinstance(reply, Exception):
            raise reply
        alive.append(reply[0][0] > 0)
    return alive


async def forget_dead(core: Core, lanes: Lanes, partitions: Sequence[PartitionKeys]) -> None:
    """Remove the entries of sessions whose lease has ended: those that were killed left one beside each stream."""
    pages: list[tuple[PartitionKeys, bytes, Sequence[bytes]]] = [(keys, b"0", ()) for keys in partitions]
    while pages:
        calls = [
            ScriptCall(_FORGET_DEAD, (keys.sessions, *map(keys.live, sessions)), (core.now(), at, *sessions))
            for keys, at, sessions in pages
        ]
        following: list[tuple[PartitionKeys, bytes, Sequence[bytes]]] = []
        for (keys, _, _), reply in zip(pages, await lanes.run_many(calls), strict=True):
            if isinstance(reply, Exception):
                raise reply
            at, sessions = reply
            if at or sessions:
                following.append((keys, at, sessions))
        pages = following
