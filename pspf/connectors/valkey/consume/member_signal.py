"""Signals between the members of an ordered handler: one came, left or gave a partition back.

A bell is a stream of one entry beside the handler's first cursor, which expires soon. Who misses it
finds out at the next review.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from pspf.connectors.valkey.connection.pool import Lanes
from pspf.connectors.valkey.connection.wire import BLOCK_MARGIN_MS
from pspf.errors import BackendUnavailable

if TYPE_CHECKING:
    from pspf.connectors.valkey.log.core import Core

_BLOCK_MS: Final = 20_000
_LASTS_MS: Final = 60_000
_START: Final = b"0-0"


class MemberSignal:
    """One listener's ear, with a connection of its own, which waits on the server."""

    def __init__(self, core: "Core", key: bytes) -> None:
        self._lane = core.pool.open_lane(key, "bell")
        self._key = key
        self._heard = _START

    async def wait(self) -> None:
        """Return when it rang, or had rung since the last time.

        Raises:
            BackendUnavailable: The connection is lost, and what rang meanwhile.
        """
        while True:
            command = ("XREAD", "BLOCK", _BLOCK_MS, "STREAMS", self._key, self._heard)
            try:
                reply = await self._lane.call(*command, timeout_ms=_BLOCK_MS + BLOCK_MARGIN_MS)
            except BackendUnavailable:
                self._heard = _START  # the server may be another one, whose ids are lower
                raise
            if reply:
                self._heard = reply[0][1][-1][0]
                return


async def ring(lanes: Lanes, keys: Sequence[bytes]) -> None:
    """Signal the members; while the server takes no writes the signal is lost."""
    commands: list[tuple[bytes | str | int, ...]] = []
    for key in keys:
        commands += [("XADD", key, "MAXLEN", 1, "*", "", ""), ("PEXPIRE", key, _LASTS_MS)]
    with suppress(BackendUnavailable):
        await lanes.call_many(commands)
