"""Who consumes a partition, and which of them live."""

from typing import Final

import orjson

from pspf.connectors.valkey.core import Core
from pspf.connectors.valkey.keys import PartitionKeys
from pspf.connectors.valkey.scripts import load_script
from pspf.connectors.valkey.wire import Lane

_MEMBERS: Final = load_script("members")


class Roll:
    """The sessions of one partition, as they were when it was last asked for: one command, as a rule."""

    def __init__(self, core: Core, keys: PartitionKeys) -> None:
        self._core = core
        self._keys = keys
        self._entries: dict[str, bytes] = {}
        self._alive: set[str] = set()
        self._read_ms: int | None = None

    async def refresh(self, lane: Lane, *, max_age_ms: int = 0) -> None:
        """Ask again, unless that was less than `max_age_ms` ago."""
        now_ms = self._core.clock.monotonic_ms()
        if self._read_ms is not None and now_ms - self._read_ms < max_age_ms:
            return
        while True:  # until we have asked for the lease of each one that is listed
            asked = list(self._entries)
            keys = [self._keys.sessions, *(self._keys.live(session) for session in asked)]
            alive, raw = await lane.run(_MEMBERS, keys, (self._core.now(),))
            self._entries = {
                session.decode(): entry for session, entry in zip(raw[::2], raw[1::2], strict=True)
            }
            self._alive = {session for session, lives in zip(asked, alive, strict=True) if lives}
            if self._entries.keys() <= set(asked):
                break
        self._read_ms = now_ms

    async def is_alive(self, lane: Lane, session: str) -> bool:
        """Ask whether a session lives."""
        keys = [self._keys.sessions, self._keys.live(session)]
        alive, _ = await lane.run(_MEMBERS, keys, (self._core.now(),))
        return bool(alive[0])

    @property
    def live(self) -> dict[str, list[tuple[str, str | None]]]:
        """What each live session consumes: (group, handler)."""
        return {
            session: [(group, handler or None) for group, handler in orjson.loads(entry)]
            for session, entry in self._entries.items()
            if session in self._alive
        }

    @property
    def dead(self) -> list[str]:
        """The sessions whose lease has ended."""
        return [session for session in self._entries if session not in self._alive]

    def members(self, group: str, handler: str | None) -> list[str]:
        """Return the live sessions that consume a cursor, sorted."""
        return sorted(session for session, cursors in self.live.items() if (group, handler) in cursors)
