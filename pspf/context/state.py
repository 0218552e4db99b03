"""The state of a key: what a handler remembers, read and changed in a call."""

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import orjson

from pspf import faults
from pspf.context.scope import StatePage, StateSource
from pspf.context.typed_state import SyncTypedState, TypedState, name_for
from pspf.errors import EventRejected, StateUnreadable
from pspf.events.expiring_values import MARK, Ttl, due_of, pack, ttl_ms, unpack
from pspf.events.state_values import encode_value
from pspf.events.typed_values import value_type

if TYPE_CHECKING:
    from pspf.context.context import Context

T = TypeVar("T")

MAX_NAME_BYTES: Final = 1 << 10
_TYPED: Final = ", or give it its type: ctx.state.model(Decimal, name=...)"
_FIRST_PAGE: Final = 100
_LARGEST_PAGE: Final = 1_000
_PAGE_BYTES: Final = 1 << 20
_MOST_EXPIRED: Final = 1_000
"""How many expired values one call forgets at most, of those that it meets; the others go when the cursor frees
them."""


def check_state_name(name: object) -> None:
    """Raise EventRejected for what can't name a value: anything but text that UTF-8 can hold, of at most 1 KiB."""
    if not isinstance(name, str):
        raise EventRejected(f"state is named by text, not {name!r:.80}")
    try:
        size_bytes = len(name.encode())
    except UnicodeEncodeError as error:
        raise EventRejected(f"state name {name!r:.80} can't be written as UTF-8") from error
    if size_bytes > MAX_NAME_BYTES:
        raise EventRejected(
            f"state name {name!r:.80} has {size_bytes:,} bytes; at most {MAX_NAME_BYTES:,} are stored: put what is long"
            " into the value"
        )


class State:
    """The state of one key. Values are JSON; what `get` gives is a copy.

    An expired value reads as none from its time on. Who meets one forgets it in the same commit, so that a clock that
    steps back does not bring it back.
    """

    __slots__ = ("_context", "_key", "_source")

    def __init__(self, context: "Context", source: StateSource, key: bytes) -> None:
        self._context = context
        self._source = source
        self._key = key

    @property
    def key(self) -> bytes:
        """The record's key, as stored."""
        return self._key

    async def get(self, name: str, default: Any = None) -> Any:
        """Return the value of `name`, `default` where there is none.

        Raises:
            StateUnreadable: What is stored is damaged.
        """
        # Written out, as nearly every event comes here: each call of a method costs a tenth of a microsecond.
        context, changes, source = self._context, self._context.changes, self._source
        context.check_open()
        if name not in changes and not source.is_loaded(self._key, name):
            check_state_name(name)  # what is asked for is read for other records, too
            await source.load(self._key, name)
            context.check_open()  # it may have ended while this waited
        value = changes[name] if name in changes else source.get(self._key, name)
        if value is not None and value.startswith(MARK):
            value = self._unexpired(name, value)
        if value is None:
            return default
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return decode_value(value, default, self._key, name)  # says what it is

    async def get_many(self, *names: str) -> dict[str, Any]:
        """Return the values of `names` by name, read in one round trip; a name without a value is left out."""
        await self._load_many(names)
        return self._get_many(names)

    def scan(self, prefix: str = "") -> AsyncIterator[tuple[str, Any]]:
        """Give (name, value) of the names that begin with `prefix`, in order of name, in bounded pages.

        What this call has changed is seen, also when it changes during the scan: a name that is deleted is not given,
        one that is put is given with its new value, unless it is new and stands before names already read.
        """
        return self._scan(prefix)

    async def put(self, name: str, value: object, ttl: Ttl | None = None) -> None:
        """Remember `value`, any JSON value, a pydantic model or a dataclass.

        JSON's own types are read back equal. A model or a dataclass is read back as a dict, a tuple as a list, a
        datetime, date, time, UUID or Enum as text: `model()` gives them back as what they are. What JSON can't hold
        (Decimal, bytes, set, NaN) is refused.

        With `ttl` (seconds, text such as `12h` or `7d`, or a timedelta) the value is gone so much later; a put without
        one keeps it.

        Raises:
            EventRejected: The name or the value can't be stored.
            ConfigurationError: `ttl` is none.
        """
        self._put(name, value, ttl)

    async def delete(self, name: str) -> None:
        """Forget `name`."""
        self._delete(name)

    async def read(self, key: str, name: str, default: Any = None) -> Any:
        """Return the value of another key of this handler and partition; it can't be changed from here."""
        raw_key, stored = key.encode(), await self._read(key, name)
        return decode_value(stored, default, raw_key, name)

    def model(
        self, model: type[T], *, name: str | None = None, upcast: Callable[[Any], Any] | None = None
    ) -> TypedState[T]:
        """Return the value of one name as `model`: a pydantic model, a dataclass, a TypedDict, a msgspec Struct, or any
        type that pydantic can validate, such as Decimal, datetime or `list[Order]`.

        Without `name` it is the class's name. `upcast` gets the stored JSON where `model` can't read it, and returns
        what it can; what that raises is the record's failure.

        Raises:
            ConfigurationError: `model` can't be read, or is no class of yours and has no `name`.
        """
        return TypedState(self, value_type(model), name_for(model, name), upcast)

    # For the views of this, and for threads

    async def _load_many(self, names: Sequence[str]) -> None:
        self._context.check_open()
        changes, source = self._context.changes, self._source
        missing = [name for name in names if name not in changes and not source.is_loaded(self._key, name)]
        if missing:
            for name in missing:
                check_state_name(name)
            await source.load(self._key, *missing)

    def _get_many(self, names: Sequence[str]) -> dict[str, Any]:
        found = [(name, self._stored(name)) for name in names]
        return {name: decode_value(value, None, self._key, name) for name, value in found if value is not None}

    def _stored(self, name: str) -> bytes | None:
        """Return the JSON of a value that is loaded, None where there is none."""
        self._context.check_open()  # it may have ended while this waited
        changes = self._context.changes
        value = changes[name] if name in changes else self._source.get(self._key, name)
        return value if value is None or not value.startswith(MARK) else self._unexpired(name, value)

    def _unexpired(self, name: str, stored: bytes) -> bytes | None:
        """Return the JSON of a value that expires; an expired one is forgotten."""
        value = unpack(stored, self._source.now_ms())
        if value is None and len(self._context.changes) < _MOST_EXPIRED:
            self._context.count(0)
            self._context.changes[name] = None
        return value

    async def _load(self, name: str) -> bytes | None:
        """Return the JSON of a value, None where there is none."""
        if name not in self._context.changes and not self._source.is_loaded(self._key, name):
            await self._source.load(self._key, name)
        return self._stored(name)

    async def _read(self, key: str, name: str) -> bytes | None:
        """Return the JSON of another key's value."""
        raw_key = key.encode()
        self._context.check_open()
        if not self._source.is_loaded(raw_key, name):
            check_state_name(name)
            await self._source.load(raw_key, name)
        self._context.check_open()  # it may have ended while this waited
        stored = self._source.get(raw_key, name)
        if stored is None or not stored.startswith(MARK):
            return stored
        value = unpack(stored, self._source.now_ms())
        if value is None:
            self._source.forget(raw_key, name)
        return value

    def _put(self, name: str, value: object, ttl: Ttl | None) -> None:
        if faults.is_armed("handler.mid"):
            faults.reach("handler.mid")
        check_state_name(name)
        self._store(name, encode_value(name, value, hint=_TYPED), ttl)

    def _store(self, name: str, encoded: bytes, ttl: Ttl | None) -> None:
        context = self._context
        context.check_value(name, len(encoded))
        if ttl is not None:
            due_ms = self._source.now_ms() + ttl_ms(name, ttl)
            self._source.expect(due_ms)
            encoded = pack(due_ms, encoded)
        context.count(len(encoded))
        context.changes[name] = encoded

    def _delete(self, name: str) -> None:
        check_state_name(name)
        self._context.count(0)
        self._context.changes[name] = None

    async def _scan(self, prefix: str) -> AsyncIterator[tuple[str, Any]]:
        page: StatePage | None = None
        while page is None or page.last is not None:
            page = await self._next_page(prefix, page)
            for found in self._each_of(page):
                yield found

    async def _next_page(self, prefix: str, before: StatePage | None) -> StatePage:
        """Return the stored values behind a page; about a megabyte, as far as the page before tells."""
        self._context.check_open()
        check_state_name(prefix)
        most, after = _FIRST_PAGE, None
        if before is not None:
            after = before.last
            most = min(_LARGEST_PAGE, 2 * before.most) if before.size_bytes < _PAGE_BYTES else max(1, before.most // 2)
        page = await self._source.scan(self._key, prefix, after, most)
        self._context.check_open()  # it may have ended while this waited
        mine = [
            name
            for name in self._context.changes
            if name not in page.values and name.startswith(prefix) and page.covers(name)
        ]
        page.names = sorted((*page.values, *mine))
        return page

    def _each_of(self, page: StatePage) -> Iterator[tuple[str, Any]]:
        for name in page.names:
            self._context.check_open()
            changes = self._context.changes
            stored = changes[name] if name in changes else page.values.get(name)
            if stored is not None and due_of(stored) is not None:
                stored = self._unexpired(name, stored)
            if stored is not None:
                yield name, decode_value(stored, None, self._key, name)


def decode_value(value: bytes | None, default: Any, key: bytes, name: str) -> Any:
    """Return what a value's JSON says.

    Raises:
        StateUnreadable: It is damaged.
    """
    if value is None:
        return default
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise StateUnreadable(
            f"what is remembered as {name!r} of key {key!r:.80} is damaged, no JSON ({error}; {value!r:.40}): look at"
            " it with `pspf state get`, put or delete it in the handler (ctx.state), or seek with --reset-state; then"
            " `pspf dlq replay`"
        ) from error


class SyncState:
    """The state of one key, for a handler in a thread."""

    __slots__ = ("_state", "_wait")

    def __init__(self, state: State, wait: Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]) -> None:
        self._state = state
        self._wait = wait

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of `name`, `default` where there is none."""
        return self._wait(lambda: self._state.get(name, default))

    def get_many(self, *names: str) -> dict[str, Any]:
        """Return the values of `names` by name; a name without a value is left out."""
        return dict(self._wait(lambda: self._state.get_many(*names)))

    def scan(self, prefix: str = "") -> Iterator[tuple[str, Any]]:
        """Give (name, value) of the names that begin with `prefix`, as `State.scan` does."""
        page: StatePage | None = None
        while page is None or page.last is not None:
            before = page
            page = self._wait(partial(self._state._next_page, prefix, before))
            yield from self._state._each_of(page)

    def put(self, name: str, value: object, ttl: Ttl | None = None) -> None:
        """Remember `value`, as `State.put` does."""
        self._state._put(name, value, ttl)

    def delete(self, name: str) -> None:
        """Forget `name`."""
        self._state._delete(name)

    def read(self, key: str, name: str, default: Any = None) -> Any:
        """Return the value of another key of this handler and partition."""
        return self._wait(lambda: self._state.read(key, name, default))

    def model(
        self, model: type[T], *, name: str | None = None, upcast: Callable[[Any], Any] | None = None
    ) -> SyncTypedState[T]:
        """Return the value of one name as `model`, as `State.model` does."""
        return SyncTypedState(self._state.model(model, name=name, upcast=upcast), self._wait)
