"""Stored entries of one operator: `(namespace, key) -> bytes`, read here, written by the commit of a batch."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol, TypeVar

from pspf.connectors.contract.cursors import Consumer
from pspf.records import EntryPlace, kind_of

T = TypeVar("T")

_PAGE: Final = 1_000


class RetryingCall(Protocol):
    """Does something with the broker, and again while it is not there."""

    def __call__(self, doing: str, act: Callable[[], Awaitable[T]], /) -> Coroutine[Any, Any, T]: ...


class Entries:
    """What the last commit left of an operator's entries. Waits while the broker is away; in a thread it blocks."""

    def __init__(self, consumer: Consumer, insist: RetryingCall) -> None:
        self._consumer = consumer
        self._insist = insist
        self._loop: asyncio.AbstractEventLoop | None = None
        """The loop to ask in, while the operator runs in a thread."""

    @contextmanager
    def asked_from_thread(self) -> Iterator[None]:
        """Let another thread ask, in this loop, until the block ends."""
        self._loop = asyncio.get_running_loop()
        try:
            yield
        finally:
            self._loop = None

    async def read_progress(self) -> bytes | None:
        """Return the stored progress, None before the first commit."""
        return await self._ask(self._consumer.read_progress)

    async def list_namespaces(self, kind: int) -> Sequence[int]:
        """Return the namespaces of a kind that have entries, in order."""
        return [each for each in await self._ask(self._consumer.list_namespaces) if kind_of(each) == kind]

    async def read_entries(self, places: Sequence[EntryPlace]) -> Mapping[EntryPlace, bytes]:
        """Return the entries at places; what is not there is missing."""
        return await self._ask(lambda: self._consumer.read_entries(places))

    async def scan_entries(
        self, namespace: int, *, after: bytes | None = None, max_entries: int = _PAGE
    ) -> Sequence[tuple[bytes, bytes]]:
        """Return the first (key, value) of a namespace behind the key `after`, by key; fewer at its end."""
        return await self._ask(lambda: self._consumer.scan_entries(namespace, after=after, max_entries=max_entries))

    async def read_all(self, namespace: int) -> list[tuple[bytes, bytes]]:
        """Return all (key, value) of a namespace, by key."""
        found: list[tuple[bytes, bytes]] = []
        while True:
            page = await self.scan_entries(namespace, after=found[-1][0] if found else None)
            found += page
            if len(page) < _PAGE:
                return found

    async def _ask(self, act: Callable[[], Awaitable[T]]) -> T:
        if self._loop is None:
            return await self._insist("read windows", act)
        return asyncio.run_coroutine_threadsafe(self._insist("read windows", act), self._loop).result()
