"""The state of a key: what a handler remembers, read and changed in a call."""

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import orjson

from pspf import faults
from pspf.context.scope import StateSource
from pspf.errors import EventRejected, StateUnreadable
from pspf.events.state_values import encode_value

if TYPE_CHECKING:
    from pspf.context.context import Context


def check_state_name(name: object) -> None:
    """Raise EventRejected for what can't name a value: anything but text that UTF-8 can hold."""
    if not isinstance(name, str):
        raise EventRejected(f"state is named by text, not {name!r:.80}")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise EventRejected(f"state name {name!r:.80} can't be written as UTF-8") from error


class State:
    """The state of one key. Values are JSON; what `get` gives is a copy."""

    __slots__ = ("_context", "_key", "_source")

    def __init__(self, context: "Context", source: StateSource, key: bytes) -> None:
        self._context = context
        self._source = source
        self._key = key

    async def get(self, name: str, default: Any = None) -> Any:
        """Return the value of `name`, `default` where there is none."""
        self._context.check_open()
        if name not in self._context.changes and not self._source.is_loaded(self._key, name):
            check_state_name(name)  # what is asked for is read for other records, too
            await self._source.load(self._key, name)
        return self._get(name, default)

    async def put(self, name: str, value: object) -> None:
        """Remember `value`, any JSON value or pydantic model."""
        self._put(name, value)

    async def delete(self, name: str) -> None:
        """Forget `name`."""
        self._delete(name)

    async def read(self, key: str, name: str, default: Any = None) -> Any:
        """Return the value of another key of this handler and partition; it can't be changed from here."""
        raw_key = key.encode()
        self._context.check_open()
        if not self._source.is_loaded(raw_key, name):
            check_state_name(name)
            await self._source.load(raw_key, name)
        self._context.check_open()  # it may have ended while this waited
        return _decode(self._source.get(raw_key, name), default, raw_key, name)

    def _get(self, name: str, default: Any) -> Any:
        self._context.check_open()  # it may have ended while this waited
        if name in self._context.changes:
            return _decode(self._context.changes[name], default, self._key, name)
        return _decode(self._source.get(self._key, name), default, self._key, name)

    def _put(self, name: str, value: object) -> None:
        if faults.is_armed("handler.mid"):
            faults.reach("handler.mid")
        check_state_name(name)
        encoded = encode_value(name, value)
        self._context.count(len(encoded))
        self._context.changes[name] = encoded

    def _delete(self, name: str) -> None:
        check_state_name(name)
        self._context.count(0)
        self._context.changes[name] = None


def _decode(value: bytes | None, default: Any, key: bytes, name: str) -> Any:
    if value is None:
        return default
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise StateUnreadable(
            f"what is remembered as {name!r} of key {key!r:.80} is damaged, no JSON ({error}; {value!r:.40}): look at"
            " it with `pspf state get`, put or delete it in the handler (ctx.state), or seek with --reset-state"
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

    def put(self, name: str, value: object) -> None:
        """Remember `value`, any JSON value or pydantic model."""
        self._state._put(name, value)

    def delete(self, name: str) -> None:
        """Forget `name`."""
        self._state._delete(name)

    def read(self, key: str, name: str, default: Any = None) -> Any:
        """Return the value of another key of this handler and partition."""
        return self._wait(lambda: self._state.read(key, name, default))
