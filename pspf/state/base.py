"""The contract of a user's state store, and the code that all stores share.

A store implements four calls: `start`, `stop`, `read_entry` and `write_entries`. Encoding, expiry,
transactions and checkpoints are the same for all and stand here.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from enum import StrEnum
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import orjson

from pspf.clock import Clock, SystemClock
from pspf.errors import BackendCorrupt, ConfigurationError, EventRejected
from pspf.events import codec

_BYTES_MARK: Final = b"\x00"
"""Stands before raw bytes; JSON never begins with it."""


class Kind(StrEnum):
    """What a slot holds: state has keys and may expire, a checkpoint has a name and stays."""

    STATE = "state"
    CHECKPOINT = "checkpoint"


class Slot(NamedTuple):
    """A place in a store."""

    kind: Kind
    key: str


class Entry(NamedTuple):
    """What stands in a slot. A `value` of None deletes; `expires_ms` is wall clock, None = never."""

    value: bytes | None
    expires_ms: int | None = None


class _Transaction:
    """The changes of one `transaction()` until it ends."""

    def __init__(self) -> None:
        self.changes: dict[Slot, Entry] = {}
        self.is_open = True


class StateStore(ABC):
    """Values by key, with expiry; checkpoints by name; changes that happen together.

    Values are bytes, or what JSON can hold (tuples come back as lists); a returned value is a
    copy. Every call may raise BackendUnavailable: wait, then call again. Between `start` and
    `stop` one event loop uses the store; several processes may share it.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._transaction: ContextVar[_Transaction | None] = ContextVar("transaction", default=None)
        self._turns: asyncio.Lock | None = None
        self._turns_loop: asyncio.AbstractEventLoop | None = None

    # What a store implements

    @abstractmethod
    async def start(self) -> None:
        """Open the store; a second call does nothing."""

    @abstractmethod
    async def stop(self) -> None:
        """Close the store; what was put stays. A second call does nothing, and `start` works again."""

    @abstractmethod
    async def read_entry(self, slot: Slot) -> Entry | None:
        """Return what stands in a slot, expired or not; None where nothing does."""

    @abstractmethod
    async def write_entries(self, changes: Mapping[Slot, Entry], *, now_ms: int) -> None:
        """Store all of `changes` or nothing of them, durably; what has expired at `now_ms` may go."""

    # What users call

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def get(self, key: str) -> Any:
        """Return the value of `key`, None where there is none or it has expired."""
        return await self._get(Slot(Kind.STATE, _check(key)))

    async def put(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        """Store `value`; with `ttl_seconds` it is gone that much later, without it stays.

        Raises:
            EventRejected: The value is neither bytes nor JSON.
        """
        await self.put_batch({key: value}, ttl_seconds)

    async def put_batch(self, values: Mapping[str, Any], ttl_seconds: float | None = None) -> None:
        """Store many values, all or none, with one time to live.

        Raises:
            EventRejected: One of them is neither bytes nor JSON.
        """
        expires_ms = self._expiry(ttl_seconds)
        await self._apply({Slot(Kind.STATE, _check(key)): Entry(_encode(v), expires_ms) for key, v in values.items()})

    async def delete(self, key: str) -> None:
        """Forget `key`; nothing happens where it is unknown."""
        await self._apply({Slot(Kind.STATE, _check(key)): Entry(None)})

    async def flush(self) -> None:  # noqa: B027 (a default, not a gap)
        """Return when all that was put outside of open transactions is as durable as the store keeps anything.

        Nothing is left to do in a store that writes through, as those that ship do.
        """

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Self]:
        """What the block puts, deletes and checkpoints takes effect at its end, all of it; an exception undoes it.

        The block reads its own changes, others don't. Transactions of one store object run one
        after another; an inner one joins the outer. Writes of other processes may come between.
        """
        outer = self._transaction.get()
        if outer is not None and outer.is_open:
            yield self
            return
        async with self._lock():
            current = _Transaction()
            token = self._transaction.set(current)
            try:
                yield self
            finally:
                # Closed also for tasks that the block started: they hold a copy of the context.
                current.is_open = False
                self._transaction.reset(token)
            if current.changes:
                await self.write_entries(current.changes, now_ms=self._clock.now_ms())

    async def checkpoint(self, name: str, value: Any) -> None:
        """Remember how far `name` is, an offset for example; inside a transaction together with its state."""
        await self._apply({Slot(Kind.CHECKPOINT, _check(name)): Entry(_encode(value))})

    async def get_checkpoint(self, name: str) -> Any:
        """Return what `checkpoint` remembered, None where it never did."""
        return await self._get(Slot(Kind.CHECKPOINT, _check(name)))

    # How

    async def _get(self, slot: Slot) -> Any:
        current = self._transaction.get()
        entry = current.changes.get(slot) if current is not None and current.is_open else None
        if entry is None:
            entry = await self.read_entry(slot)
        if entry is None or entry.value is None:
            return None
        if entry.expires_ms is not None and entry.expires_ms <= self._clock.now_ms():
            return None
        return _decode(slot, entry.value)

    def _lock(self) -> asyncio.Lock:
        """Return the lock of the transactions; a lock works in one event loop only, a store in one after another."""
        loop = asyncio.get_running_loop()
        if self._turns is None or self._turns_loop is not loop:
            self._turns, self._turns_loop = asyncio.Lock(), loop
        return self._turns

    async def _apply(self, changes: Mapping[Slot, Entry]) -> None:
        current = self._transaction.get()
        if current is not None and current.is_open:
            current.changes.update(changes)
        elif changes:
            await self.write_entries(changes, now_ms=self._clock.now_ms())

    def _expiry(self, ttl_seconds: float | None) -> int | None:
        if ttl_seconds is None:
            return None
        if not 0 < ttl_seconds < 1e12:
            raise ConfigurationError(f"ttl_seconds={ttl_seconds!r}: use a number above 0, or None to keep the value")
        return self._clock.now_ms() + max(1, round(ttl_seconds * 1_000))


def _check(key: str) -> str:
    if not isinstance(key, str):
        raise EventRejected(f"a state key is text, not {type(key).__name__}")
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise EventRejected(f"state key {key!r:.80} can't be written as UTF-8") from error
    return key


def _encode(value: Any) -> bytes:
    return _BYTES_MARK + value if isinstance(value, bytes) else codec.dumps(value)


def _decode(slot: Slot, value: bytes) -> Any:
    if value.startswith(_BYTES_MARK):
        return value[1:]
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise BackendCorrupt(f"{slot.kind} {slot.key!r:.80} is no JSON: {value!r:.80}") from error
