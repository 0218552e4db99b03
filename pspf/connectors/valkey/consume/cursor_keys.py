"""Keys of a cursor's entries, for counting, renaming and deleting them."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from pspf.connectors.valkey.connection.scripts import Command
from pspf.connectors.valkey.connection.wire import Lane
from pspf.connectors.valkey.log.keys import CursorKeys

_PAGE: Final = 1_000


@dataclass(frozen=True, slots=True)
class StoredKeys:
    """Namespaces of a cursor that have entries, all of them or some."""

    keys: CursorKeys
    namespaces: Sequence[bytes]

    @property
    def names(self) -> list[bytes]:
        """All keys that go with these namespaces."""
        return [name_of(each) for name_of in (self.keys.entries, self.keys.order) for each in self.namespaces]


async def read_all(lane: Lane, keys: CursorKeys) -> tuple[bytes, StoredKeys]:
    """Return all namespaces of a cursor, and its sequence, which is still this one while these are all."""
    replies = await lane.call_many([("HGET", keys.meta, "seq"), ("SMEMBERS", keys.spaces)])
    sequence, namespaces = [lane.check(reply, "a cursor's entries") for reply in replies]
    return sequence or b"", StoredKeys(keys, namespaces)


async def read_some(lane: Lane, keys: CursorKeys, most: int) -> StoredKeys:
    """Return up to `most` of the namespaces of a cursor."""
    return StoredKeys(keys, await lane.call("SRANDMEMBER", keys.spaces, most))


async def count_namespaces(lane: Lane, keys: CursorKeys) -> int:
    """Return how many namespaces of a cursor have entries."""
    return int(await lane.call("SCARD", keys.spaces))


async def count_entries(lane: Lane, keys: CursorKeys) -> int:
    """Return how many entries a cursor has; about, where it is at work."""
    count = 0
    async for page in _scan(lane, keys.spaces):
        commands: list[Command] = [("HLEN", keys.entries(each)) for each in page]
        count += sum(int(lane.check(reply, "HLEN")) for reply in await lane.call_many(commands))
    return count


async def _scan(lane: Lane, name: bytes) -> AsyncIterator[list[bytes]]:
    """Yield the members of a set in pages; one may come twice where the set changes meanwhile."""
    at: bytes | str = "0"
    while True:
        at, members = await lane.call("SSCAN", name, at, "COUNT", _PAGE)
        yield members
        if at == b"0":
            return
