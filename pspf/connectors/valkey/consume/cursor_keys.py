"""Keys of a cursor's state, for counting and for deleting it."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from pspf.connectors.valkey.connection.scripts import Argument, Command
from pspf.connectors.valkey.connection.wire import Lane
from pspf.connectors.valkey.log.keys import CursorKeys

_PAGE: Final = 1_000


@dataclass(frozen=True, slots=True)
class StoredKeys:
    """Record keys that have state, and slots of windows that have states: of one cursor, all of them or some."""

    keys: CursorKeys
    record_keys: Sequence[bytes]
    slots: Sequence[bytes]

    @property
    def values(self) -> list[bytes]:
        """The hashes of values: of each record key, then of each slot."""
        keys = self.keys
        return [*[keys.state(key) for key in self.record_keys], *[keys.window(slot) for slot in self.slots]]

    @property
    def names(self) -> list[bytes]:
        """All keys that go with these record keys and slots."""
        return [*self.values, *[self.keys.window_keys(slot) for slot in self.slots]]

    @property
    def arguments(self) -> list[Argument]:
        """What scripts take: the number of record keys, these, the slots."""
        return [len(self.record_keys), *self.record_keys, *self.slots]


async def read_all(lane: Lane, keys: CursorKeys) -> tuple[bytes, StoredKeys]:
    """Return all that a cursor remembers, and its sequence, which is still this one while that is all."""
    commands: list[Command] = [("HGET", keys.meta, "seq"), ("SMEMBERS", keys.keys), ("SMEMBERS", keys.slots)]
    replies = await lane.call_many(commands)
    sequence, record_keys, slots = [lane.check(reply, "a cursor's state") for reply in replies]
    return sequence or b"", StoredKeys(keys, record_keys, slots)


async def read_some(lane: Lane, keys: CursorKeys, most: int) -> StoredKeys:
    """Return up to `most` of the record keys and of the slots."""
    commands: list[Command] = [("SRANDMEMBER", keys.keys, most), ("SRANDMEMBER", keys.slots, most)]
    record_keys, slots = [lane.check(reply, "SRANDMEMBER") for reply in await lane.call_many(commands)]
    return StoredKeys(keys, record_keys, slots)


async def count_kept(lane: Lane, keys: CursorKeys) -> int:
    """Return of how many record keys and slots a cursor has state."""
    replies = await lane.call_many([("SCARD", keys.keys), ("SCARD", keys.slots)])
    return sum(int(lane.check(reply, "SCARD")) for reply in replies)


async def scan_members(lane: Lane, name: bytes) -> AsyncIterator[list[bytes]]:
    """Yield the members of a set in pages; one may come twice where the set changes meanwhile."""
    at: bytes | str = "0"
    while True:
        at, members = await lane.call("SSCAN", name, at, "COUNT", _PAGE)
        yield members
        if at == b"0":
            return


async def count_values(lane: Lane, keys: CursorKeys) -> int:
    """Return how many values and states of windows a cursor remembers; about, where it is at work."""
    count = 0
    for members, key_of in ((keys.keys, keys.state), (keys.slots, keys.window)):
        async for page in scan_members(lane, members):
            replies = await lane.call_many([("HLEN", key_of(each)) for each in page])
            count += sum(int(lane.check(reply, "HLEN")) for reply in replies)
    return count
