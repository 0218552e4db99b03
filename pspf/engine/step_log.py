"""Step log of an ordered cursor: the results of finished steps, kept in commits of their own.

    step ──> its function runs ──> its result is committed, the position stays ──> the handler goes on
    again ──> its result is read ──> the handler goes on

The results of a record go in the commit that finishes it, be it done or dead.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from pspf.concurrency.shielding import end, shielded
from pspf.errors import CommitFenced
from pspf.events.step_places import StepPlaces
from pspf.records import OFFSET_BITS, Commit, EntryChanges, EntryPlace

Reader = Callable[[Sequence[EntryPlace]], Awaitable[Mapping[EntryPlace, bytes]]]
Scanner = Callable[[int, bytes | None, int], Awaitable[Sequence[tuple[bytes, bytes]]]]
Writer = Callable[[Commit], Awaitable[None]]
"""Commits, behind what is being committed; again while the outcome is unknown."""

_PAGE: Final = 100
_OFFSET_MASK: Final = (1 << OFFSET_BITS) - 1
_INPUT_MASK: Final = 255

StepOwner = tuple[str, int]
"""Topic and offset of the record that a step is of."""


class StepLog:
    """The finished steps of one cursor's records, and of those of cursors beside it. Lives as long as the lease.

    A record is given by what stands for its offset in the loop; where several topics are read, that is a place with
    the index of its topic (engine/inputs/places).
    """

    def __init__(self, read: Reader, scan: Scanner, write: Writer, places: StepPlaces) -> None:
        self.error: CommitFenced | None = None
        """Why a step could not be kept: the cursor is another owner's, or was moved. No batch may be committed then."""
        self.on_refusal: Callable[[], None] = _nothing
        """Called when that happens: the batch has to end."""
        self._read = read
        self._scan = scan
        self._write = write
        self._places = places
        self._names: dict[StepOwner, set[str]] | None = None
        """The names of stored steps: of records that are not done, so that they are few."""
        self._orphans: list[StepOwner] = []
        """Records among them that are done, without a commit of their owner."""
        self._under_way: set[asyncio.Task[Any]] = set()

    async def load(self, is_open: Callable[[str, int], bool]) -> None:
        """Read which records have finished steps, once; `is_open(topic, offset)` tells whether a record is not done.

        Steps of records that were dropped from outside go with the next commit; those of a topic that is not read
        any more stay.
        """
        if self._names is not None:
            return
        names: dict[StepOwner, set[str]] = {}
        for namespace in self._places.namespaces:
            after: bytes | None = None
            while page := await self._scan(namespace, after, _PAGE):
                for key, _ in page:
                    topic, offset, name = self._places.split(namespace, key)
                    if topic in self._places.topics:
                        names.setdefault((topic, offset), set()).add(name)
                after = page[-1][0]
        self._names = names
        self._orphans = [owner for owner in names if not is_open(*owner)]

    def _owner(self, place: int) -> StepOwner:
        return self._places.topics[place >> OFFSET_BITS & _INPUT_MASK], place & _OFFSET_MASK

    async def find(self, offset: int, name: str) -> bytes | None:
        """Return the stored result of a step, None where it has not finished."""
        owner = self._owner(offset)
        if name not in (self._names or {}).get(owner, ()):
            return None
        place = self._places.place_of(*owner, name)
        return (await self._read([place])).get(place)

    async def keep(self, offset: int, name: str, result: bytes) -> None:
        """Store the result of a step; on return it is durable.

        A caller that is cancelled does not undo it.

        Raises:
            CommitFenced: The cursor is another owner's, or was moved; nothing was stored.
        """
        await shielded(self._keep(offset, name, result))

    async def _keep(self, offset: int, name: str, result: bytes) -> None:
        assert self._names is not None
        owner = self._owner(offset)
        namespace, key = self._places.place_of(*owner, name)
        changes = EntryChanges((), {namespace: {key: result}})
        task = asyncio.current_task()
        assert task is not None
        self._under_way.add(task)
        try:
            await self._write(Commit(secrets.token_bytes(12), changes=changes))
        except CommitFenced as error:
            self.error = error
            self.on_refusal()
            raise
        finally:
            self._under_way.discard(task)
        self._names.setdefault(owner, set()).add(name)

    async def close(self) -> None:
        """Give up the steps that are being kept for calls that were cancelled."""
        for task in list(self._under_way):
            await end(task)

    def drops(self, done: Iterable[int]) -> dict[int, dict[bytes, bytes | None]]:
        """Return the changes, by namespace, that remove the steps of records that are done."""
        if not self._names:
            return {}
        found: dict[int, dict[bytes, bytes | None]] = {}
        for owner in (*self._orphans, *map(self._owner, done)):
            for name in self._names.get(owner, ()):
                namespace, key = self._places.place_of(*owner, name)
                found.setdefault(namespace, {})[key] = None
        return found

    def settle(self, done: Iterable[int]) -> None:
        """These records are done, and their steps gone."""
        if self._names:
            for owner in (*self._orphans, *map(self._owner, done)):
                self._names.pop(owner, None)
            self._orphans = []


def _nothing() -> None:
    pass
