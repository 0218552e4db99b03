"""A cursor's state as its batch sees it: what is committed, cached, under what the batch has changed."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote_from_bytes

import orjson

from pspf.clock import Clock, SystemClock
from pspf.compact import compact
from pspf.context import StatePage
from pspf.engine.state_expiry import Reader, Scanner, StateExpiry
from pspf.errors import NotAvailable
from pspf.events.expiring_values import EXPIRY, due_of, unpack
from pspf.records import (
    STATE,
    NamespaceEntries,
    StateKey,
    before_state,
    state_key,
    state_prefix,
)
from pspf.state.base import StateStore
from pspf.windowing.spans import NEVER

_MOST_NAMES: Final = 8
"""How many names are read for all keys of a batch; and how many new ones, at most, a batch adds to them."""


class BatchState:
    """The state source of the contexts of one cursor. Lives as long as the lease.

    A value is read with those of the same name of all keys of the batch, and with other names that were asked for
    lately: a handler with one name reads once a batch, and of a key with many names only what is asked for.
    """

    def __init__(self, read: Reader, max_entries: int, scan: Scanner | None = None, clock: Clock | None = None) -> None:
        self._read = read
        self._scan = scan or _scan_nothing
        self._max_entries = max_entries
        self._expiry = StateExpiry(read, self._scan, clock or SystemClock())
        self._cache: OrderedDict[StateKey, bytes | None] = OrderedDict()
        """What is committed, also that there is nothing, the entries not used for longest first."""
        self._changes: dict[StateKey, bytes | None] = {}
        self._batch_keys: set[bytes] = set()
        self._names: OrderedDict[str, None] = OrderedDict()
        """The names that are read for whole batches, those not asked for the longest first."""
        self._new_names = 0
        """How many of them were added in this batch."""
        self._commits = 0
        self._changed_names: dict[bytes, list[str]] | None = None
        """The names that the batch has changed, by key; kept from its first scan on."""

    def begin(self, keys: Iterable[bytes | None]) -> None:
        """Start a batch of records with these keys."""
        self._batch_keys = {key for key in keys if key is not None}
        self._new_names = 0

    def is_loaded(self, key: bytes, name: str) -> bool:
        return (key, name) in self._cache

    async def load(self, key: bytes, *names: str) -> None:
        for name in names:
            self._note(name)
        wanted = [(other, each) for other in self._batch_keys for each in self._names]
        wanted += [(key, name) for name in names]
        await self._load_all(wanted)

    async def _load_all(self, wanted: Iterable[StateKey]) -> None:
        missing = [place for place in set(wanted) if place not in self._cache]
        if not missing:
            return
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

    async def scan(self, key: bytes, prefix: str, after: str | None, most: int) -> StatePage:
        begin, start = state_prefix(key), state_prefix(key) + prefix.encode()
        stored = await self._scan(STATE, _just_before(key, prefix) if after is None else begin + after.encode(), most)
        mine = [(name[len(begin) :].decode(), value) for name, value in stored if name.startswith(start)]
        last = mine[-1][0] if len(mine) == most else None
        page = StatePage(dict(mine), last, after, most, sum(len(value) for _, value in stored))
        if self._changed_names is None:
            self._changed_names = {}
            for record_key, name in self._changes:
                self._changed_names.setdefault(record_key, []).append(name)
        for name in self._changed_names.get(key, ()):
            if name.startswith(prefix) and page.covers(name):
                page.values[name] = self._changes[key, name]
        return page

    def now_ms(self) -> int:
        return self._expiry.now_ms()

    def forget(self, key: bytes, name: str) -> None:
        self.merge(key, {name: None})

    def expect(self, due_ms: int) -> None:
        self._expiry.expect(due_ms)

    def merge(self, key: bytes, changes: Mapping[str, bytes | None]) -> None:
        """Take over what a call changed, now that it has succeeded."""
        for name, value in changes.items():
            self._changes[key, name] = value
        if self._changed_names is not None:
            self._changed_names.setdefault(key, []).extend(changes)

    def get_changes(self) -> dict[StateKey, bytes | None]:
        """Return what the batch has changed so far."""
        return dict(self._changes)

    @property
    def due_ms(self) -> int:
        """The wall-clock time at which a value may have to be freed."""
        return self._expiry.due_ms

    async def prepare(self) -> None:
        """Find what the commit of the batch does beside its changes: to values that expire."""
        await self._expiry.prepare(self._changes, self._load_committed)

    async def _load_committed(self, places: Sequence[StateKey]) -> Mapping[StateKey, bytes | None]:
        """Return values as the last commit left them."""
        await self._load_all(places)
        return {place: self._cache[place] for place in places}

    @property
    def frees(self) -> bool:
        """Whether the commit of the batch frees values, as `prepare` found."""
        return self._expiry.has_changes

    def as_entries(self) -> NamespaceEntries:
        """Return all that the commit of the batch does to the cursor's entries."""
        state = {state_key(*place): value for place, value in self._changes.items()}
        if not self._expiry.has_changes:
            return {STATE: state} if state else {}
        state.update((state_key(*place), None) for place in self._expiry.freed)
        return {STATE: state, EXPIRY: self._expiry.get_changes()}

    async def write(self) -> None:
        """Nothing: the changes are in the commit."""

    def settle(self) -> None:
        """The batch is committed: its changes are the state; forget the entries not used for longest."""
        self._commits += 1
        cache = self._cache
        cache.update((place, value) for place, value in self._changes.items() if place in cache)
        cache.update((place, None) for place in self._expiry.freed if place in cache)
        self._expiry.settle()
        self._changes.clear()
        self._changed_names = None
        for name in self._names:
            for key in self._batch_keys:
                if (key, name) in cache:
                    cache.move_to_end((key, name))
        while len(cache) > self._max_entries:
            cache.popitem(last=False)


async def _scan_nothing(namespace: int, after: bytes | None, most: int) -> Sequence[tuple[bytes, bytes]]:
    return ()


def _just_before(key: bytes, prefix: str) -> bytes:
    """Return an entry key behind all that stand before the names of a key that begin with `prefix`, and before these.

    No name in UTF-8 has the byte 0xFF.
    """
    if not prefix:
        return before_state(key)
    first = state_prefix(key) + prefix.encode()
    return first[:-1] if first[-1] == 0 else first[:-1] + bytes((first[-1] - 1, 0xFF))


class StoreState:
    """The state of a shared cursor, in a store of the user's: written before the commit, at-least-once.

    Values are kept under `handler/key/name`, with `%` and `/` in the key escaped.
    """

    due_ms = NEVER
    """The store frees what has expired."""
    frees = False

    def __init__(self, store: StateStore, handler: str, clock: Clock | None = None) -> None:
        self._store = store
        self._handler = handler
        self._clock = clock or SystemClock()
        self._loaded: dict[StateKey, bytes | None] = {}
        self._changes: dict[StateKey, bytes | None] = {}

    def begin(self, keys: Iterable[bytes | None]) -> None:
        """Start a batch: other workers may have written since the last one."""
        self._loaded = {}

    def is_loaded(self, key: bytes, name: str) -> bool:
        return (key, name) in self._changes or (key, name) in self._loaded

    async def load(self, key: bytes, *names: str) -> None:
        loaded = self._loaded  # of this batch: what comes later is for nobody
        for name in names:
            value = await self._store.get(self._place(key, name))
            loaded[key, name] = None if value is None else compact(orjson.dumps(value))

    async def scan(self, key: bytes, prefix: str, after: str | None, most: int) -> StatePage:
        raise NotAvailable(
            f"handler {self._handler} keeps its state in a StateStore, which can't list names: use ctx.state.get_many,"
            ' keep the names in a value, or subscribe(..., ordering="key")'
        )

    def now_ms(self) -> int:
        return self._clock.now_ms()

    def forget(self, key: bytes, name: str) -> None:
        self.merge(key, {name: None})

    def expect(self, due_ms: int) -> None:
        """Do nothing: the store knows when a value expires."""

    async def prepare(self) -> None:
        """Do nothing: the changes are not in the commit."""

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

    def as_entries(self) -> NamespaceEntries:
        """Return nothing: the commit holds none of it."""
        return {}

    async def write(self) -> None:
        """Write what the batch changed; a value that expires with what is left of its time."""
        now_ms = self.now_ms()
        kept: dict[int | None, dict[str, Any]] = {}
        gone: list[str] = []
        for place, stored in self._changes.items():
            value = None if stored is None else unpack(stored, now_ms)
            if value is None:
                gone.append(self._place(*place))
            else:
                kept.setdefault(due_of(stored), {})[self._place(*place)] = orjson.loads(value)
        for due_ms, values in kept.items():
            await self._store.put_batch(values, None if due_ms is None else (due_ms - now_ms) / 1_000)
        for name in gone:
            await self._store.delete(name)

    def settle(self) -> None:
        """The batch is committed."""
        self._changes.clear()

    def _place(self, key: bytes, name: str) -> str:
        return f"{self._handler}/{quote_from_bytes(key, safe='')}/{name}"
