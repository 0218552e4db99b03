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
from pspf.events.step_places import STEPS, split_step_key, step_key
from pspf.records import Commit, EntryChanges, EntryPlace

Reader = Callable[[Sequence[EntryPlace]], Awaitable[Mapping[EntryPlace, bytes]]]
Scanner = Callable[[int, bytes | None, int], Awaitable[Sequence[tuple[bytes, bytes]]]]
Writer = Callable[[Commit], Awaitable[None]]
"""Commits, behind what is being committed; again while the outcome is unknown."""

_PAGE: Final = 100


class StepLog:
    """The finished steps of one cursor's records. Lives as long as the lease."""

    def __init__(self, read: Reader, scan: Scanner, write: Writer) -> None:
        self.error: CommitFenced | None = None
        """Why a step could not be kept: the cursor is another owner's, or was moved. No batch may be committed then."""
        self.on_refusal: Callable[[], None] = _nothing
        """Called when that happens: the batch has to end."""
        self._read = read
        self._scan = scan
        self._write = write
        self._names: dict[int, set[str]] | None = None
        """The names of stored steps by offset: of records that are not done, so that they are few."""
        self._orphans: list[int] = []
        """Records among them that are done, without a commit of their owner."""
        self._under_way: set[asyncio.Task[Any]] = set()

    async def load(self, is_open: Callable[[int], bool]) -> None:
        """Read which records have finished steps, once; `is_open` tells whether a record is not done.

        Steps of records that were dropped from outside go with the next commit.
        """
        if self._names is not None:
            return
        names: dict[int, set[str]] = {}
        after: bytes | None = None
        while page := await self._scan(STEPS, after, _PAGE):
            for key, _ in page:
                offset, name = split_step_key(key)
                names.setdefault(offset, set()).add(name)
            after = page[-1][0]
        self._names = names
        self._orphans = [offset for offset in names if not is_open(offset)]

    async def find(self, offset: int, name: str) -> bytes | None:
        """Return the stored result of a step, None where it has not finished."""
        if name not in (self._names or {}).get(offset, ()):
            return None
        place = (STEPS, step_key(offset, name))
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
        changes = EntryChanges((), {STEPS: {step_key(offset, name): result}})
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
        self._names.setdefault(offset, set()).add(name)

    async def close(self) -> None:
        """Give up the steps that are being kept for calls that were cancelled."""
        for task in list(self._under_way):
            await end(task)

    def drops(self, done: Iterable[int]) -> dict[bytes, bytes | None]:
        """Return the changes that remove the steps of records that are done."""
        if not self._names:
            return {}
        gone = [*self._orphans, *(offset for offset in done if offset in self._names)]
        return {step_key(offset, name): None for offset in gone for name in self._names.get(offset, ())}

    def settle(self, done: Iterable[int]) -> None:
        """These records are done, and their steps gone."""
        if self._names:
            for offset in (*self._orphans, *done):
                self._names.pop(offset, None)
            self._orphans = []


def _nothing() -> None:
    pass
