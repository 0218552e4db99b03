"""The connection pool of a broker object: which lane a command goes by, chosen by its key."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from pspf.connectors.valkey.connection.connector import ValkeyConnector
from pspf.connectors.valkey.connection.scripts import Command, ScriptCall
from pspf.connectors.valkey.connection.wire import CALL_TIMEOUT_MS, Lane, LoopLanes

_OF_TWO_WORDS: Final = ("MEMORY", "XINFO")


class ConnectionPool:
    """The lanes of one broker object. Making one opens nothing.

    A key belongs to a server: today to the only one; on a Cluster its slot would tell. Whatever is used for one
    purpose has one lane to each server, so that with one server there is one connection for a purpose.
    `on_open` is called before a connection is opened, `worked` when a server did what it was asked for.
    """

    def __init__(
        self, connector: ValkeyConnector, on_open: Callable[[], object] = bool, worked: Callable[[], object] = bool
    ) -> None:
        self._connector = connector
        self._open = LoopLanes(on_open, worked)
        self._shared: dict[str, Lanes] = {}

    def server_of(self, key: bytes) -> ValkeyConnector:
        """Return the server that has a key."""
        return self._connector

    def lane_for(self, key: bytes, purpose: str) -> Lane:
        """Return the lane to a key's server that all who share a purpose use."""
        return self.lanes(purpose).lane_for(key)

    def lanes(self, purpose: str) -> "Lanes":
        """Return the lanes that all who share a purpose use."""
        lanes = self._shared.get(purpose)
        if lanes is None:
            lanes = self._shared[purpose] = self.open_lanes(purpose)
        return lanes

    def open_lanes(self, purpose: str) -> "Lanes":
        """Return lanes of one user's own, one to each server, closed with the pool if not before."""
        return Lanes(self, purpose)

    def open_lane(self, key: bytes, purpose: str, *, gives_way: bool = False) -> Lane:
        """Return a lane of one user's own to a key's server, closed with the pool if not before.

        One that waits on the server for long, and `gives_way` to others where descriptors are few.
        """
        return Lane(self.server_of(key), purpose, self._open, gives_way=gives_way)

    async def close(self) -> None:
        """Close all lanes; a lane that is used afterwards opens again."""
        await self._open.close()


class Lanes:
    """The lanes of one purpose, one to each server that was needed. A command goes by the lane of its first key."""

    def __init__(self, pool: ConnectionPool, purpose: str) -> None:
        self._pool = pool
        self._purpose = purpose
        self._by_server: dict[ValkeyConnector, Lane] = {}

    def lane_for(self, key: bytes) -> Lane:
        """Return the lane to a key's server."""
        lane = self._by_server.get(self._pool.server_of(key))
        if lane is None:
            lane = self._by_server[self._pool.server_of(key)] = self._pool.open_lane(key, self._purpose)
        return lane

    async def call_many(self, commands: Sequence[Command], *, timeout_ms: int = CALL_TIMEOUT_MS) -> list[Any]:
        """Send commands, whose first argument is their key, at once to each server. Replies and errors as `Lane`'s."""
        lanes = [self.lane_for(_key_of(command)) for command in commands]
        return await _by_lane(lanes, commands, lambda lane, some: lane.call_many(some, timeout_ms=timeout_ms))

    async def run_many(self, calls: Sequence[ScriptCall], *, timeout_ms: int = CALL_TIMEOUT_MS) -> list[Any]:
        """Run scripts at once on each server, by their first key. Replies and errors as `Lane`'s."""
        lanes = [self.lane_for(call.keys[0]) for call in calls]
        return await _by_lane(lanes, calls, lambda lane, some: lane.run_many(some, timeout_ms=timeout_ms))

    async def close(self) -> None:
        """Close the connections; the next calls open others."""
        for lane in list(self._by_server.values()):
            await lane.close()


def _key_of(command: Command) -> bytes:
    key = command[2] if command[0] in _OF_TWO_WORDS else command[1]
    assert isinstance(key, bytes), f"{command[0]!r} has no key"
    return key


async def _by_lane(
    lanes: Sequence[Lane], asked: Sequence[Any], send: Callable[[Lane, Sequence[Any]], Any]
) -> list[Any]:
    """Send what is asked, each by its lane; return the replies in the order of what was asked."""
    different = list(dict.fromkeys(lanes))
    if len(different) == 1:
        return list(await send(different[0], asked))
    replies: list[Any] = [None] * len(asked)
    places = [[index for index, lane in enumerate(lanes) if lane is each] for each in different]
    sent = await asyncio.gather(
        *(send(lane, [asked[index] for index in mine]) for lane, mine in zip(different, places, strict=True)),
        return_exceptions=True,
    )
    for mine, some in zip(places, sent, strict=True):
        if isinstance(some, BaseException):
            raise some
        for index, reply in zip(mine, some, strict=True):
            replies[index] = reply
    return replies
