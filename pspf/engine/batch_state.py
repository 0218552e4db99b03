"""A cursor's state as its batch sees it: what is committed, cached, under what the batch has changed."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final
from urllib.parse import quote_from_bytes

import orjson

from pspf.compact import compact
from pspf.records import STATE, EntryPlace, StateKey, state_key
from pspf.state.base import StateStore

Reader = Callable[[Sequence[EntryPlace]], Awaitable[Mapping[EntryPlace, bytes]]]

_MOST_NAMES: Final = 8
"""How many names are read for all keys of a batch; and how many new ones, at most, a batch adds to them."""


class BatchState:
    """The state source of the contexts of one cursor. Lives as long as the lease.

    A value is read with those of the same name of all keys of the batch, and with other names that were asked for
    lately: a handler with one name reads once a batch, and of a key with many names only what is asked for.
    """

    def __init__(self, read: Reader, max_entries: int) -> None:
        self._read = read
        self._max_entries = max_entries
        self._cache: OrderedDict[StateKey, bytes | None] = OrderedDict()
        """What is committed, also that there is nothing, the entries not used for longest first."""
        self._changes: dict[StateKey, bytes | None] = {}
        self._batch_keys: set[bytes] = set()
        self._names: OrderedDict[str, None] = OrderedDict()
        """The names that are read for whole batches, those not asked for the longest first."""
        self._new_names = 0
        """How many of them were added in this batch."""
        self._commits = 0

    def begin(self, keys: Iterable[bytes | None]) -> None:
        """Start a batch of records with these keys."""
        self._batch_keys = {key for key in keys if key is not None}
        self._new_names = 0

    def is_loaded(self, key: bytes, name: str) -> bool:
        return (key, name) in self._cache

    async def load(self, key: bytes, name: str) -> None:
        self._note(name)
        wanted = [(other, each) for other in self._batch_keys for each in self._names]
        missing = [place for place in {(key, name), *wanted} if place not in self._cache]
        places = [(STATE, state_key(*each)) for each in missing]
        commits = self._commits
        found = await self._read(places)
        if commits != self._commits:
            return  # asked for by a call that is over; it may be old by now
        self._cache.update(zip(missing, map(found.get, places), strict=True))

    def _note(self, name: str) -> None:
        """Note that a name was asked for. A handler that has a new one for each record does not read all for each."""
        if name in self._names:
            self._names.move_to_end(name)
        elif self._new_names < _MOST_NAMES:
            self._new_names += 1
            self._names[name] = None
            if len(self._names) > _MOST_NAMES:
                self._names.popitem(last=False)

    def get(self, key: bytes, name: str) -> bytes | None:
        if (key, name) in self._changes:
            return self._changes[key, name]
        return self._cache[key, name]

    def merge(self, key: bytes, changes: Mapping[str, bytes | None]) -> None:
        """Take over what a call changed, now that it has succeeded."""
        for name, value in changes.items():
            self._changes[key, name] = value

    def get_changes(self) -> dict[StateKey, bytes | None]:
        """Return what the batch has changed so far."""
        return dict(self._changes)

    async def write(self) -> None:
        """Nothing: the changes are in the commit."""

    def settle(self) -> None:
        """The batch is committed: its changes are the state; forget the entries not used for longest."""
        self._commits += 1
        cache = self._cache
        cache.update((place, value) for place, value in self._changes.items() if place in cache)
        self._changes.clear()
        for name in self._names:
            for key in self._batch_keys:
                if (key, name) in cache:
                    cache.move_to_end((key, name))
        while len(cache) > self._max_entries:
            cache.popitem(last=False)


class StoreState:
    """The state of a shared cursor, in a store of the user's: written before the commit, at-least-once.

    Values are kept under `handler/key/name`, with `%` and `/` in the key escaped.
    """

    def __init__(self, store: StateStore, handler: str) -> None:
        self._store = store
        self._handler = handler
        self._loaded: dict[StateKey, bytes | None] = {}
        self._changes: dict[StateKey, bytes | None] = {}

    def begin(self, keys: Iterable[bytes | None]) -> None:
        """Start a batch: other workers may have written since the last one."""
        self._loaded = {}

    def is_loaded(self, key: bytes, name: str) -> bool:
        return (key, name) in self._changes or (key, name) in self._loaded

    async def load(self, key: bytes, name: str) -> None:
        loaded = self._loaded  # of this batch: what comes later is for nobody
        value = await self._store.get(self._place(key, name))
        loaded[key, name] = None if value is None else compact(orjson.dumps(value))

    def get(self, key: bytes, name: str) -> bytes | None:
        if (key, name) in self._changes:
            return self._changes[key, name]
        return self._loaded[key, name]

    def merge(self, key: bytes, changes: Mapping[str, bytes | None]) -> None:
        """Take over what a call changed, now that it has succeeded."""
        for name, value in changes.items():
            self._changes[key, name] = value

    def get_changes(self) -> dict[StateKey, bytes | None]:
        """Return nothing: the commit holds none of it."""
        return {}

    async def write(self) -> None:
        """Write what the batch changed."""
        kept = {self._place(*place): orjson.loads(v) for place, v in self._changes.items() if v is not None}
        if kept:
            await self._store.put_batch(kept)
        for place, value in self._changes.items():
            if value is None:
                await self._store.delete(self._place(*place))

    def settle(self) -> None:
        """The batch is committed."""
        self._changes.clear()

    def _place(self, key: bytes, name: str) -> str:
        return f"{self._handler}/{quote_from_bytes(key, safe='')}/{name}"
