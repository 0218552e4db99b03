"""A cursor's state as its batch sees it: what is committed, cached, under what the batch has changed."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from urllib.parse import quote_from_bytes

import orjson

from pspf.compact import compact
from pspf.records import StateKey
from pspf.state.base import StateStore

Reader = Callable[[Sequence[bytes]], Awaitable[Mapping[bytes, Mapping[str, bytes]]]]


class BatchState:
    """The state source of the contexts of one cursor. Lives as long as the lease."""

    def __init__(self, read: Reader, max_keys: int) -> None:
        self._read = read
        self._max_keys = max_keys
        self._cache: OrderedDict[bytes, dict[str, bytes]] = OrderedDict()
        self._changes: dict[StateKey, bytes | None] = {}
        self._batch_keys: set[bytes] = set()
        self._commits = 0

    def begin(self, keys: Iterable[bytes | None]) -> None:
        """Start a batch of records with these keys."""
        self._batch_keys = {key for key in keys if key is not None}

    def is_loaded(self, key: bytes, name: str) -> bool:
        return key in self._cache

    async def load(self, key: bytes, name: str) -> None:
        wanted = [other for other in {key, *self._batch_keys} if other not in self._cache]
        commits = self._commits
        found = await self._read(wanted)
        if commits != self._commits:
            return  # asked for by a call that is over; it may be old by now
        for other in wanted:
            self._cache[other] = dict(found.get(other, {}))

    def get(self, key: bytes, name: str) -> bytes | None:
        if (key, name) in self._changes:
            return self._changes[key, name]
        return self._cache[key].get(name)

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
        """The batch is committed: its changes are the state; forget the keys not used for longest."""
        self._commits += 1
        for (key, name), value in self._changes.items():
            names = self._cache.get(key)
            if names is None:
                continue
            if value is None:
                names.pop(name, None)
            else:
                names[name] = value
        self._changes.clear()
        for key in self._batch_keys:
            if key in self._cache:
                self._cache.move_to_end(key)
        while len(self._cache) > self._max_keys:
            self._cache.popitem(last=False)


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
