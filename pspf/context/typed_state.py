"""Typed state: one value of a key as a model."""

from collections.abc import Callable, Coroutine
from inspect import iscoroutine
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pspf.errors import ConfigurationError, StateUnreadable
from pspf.events import codec
from pspf.events.expiring_values import Ttl
from pspf.events.typed_values import ValueType, default_name

if TYPE_CHECKING:
    from pspf.context.state import State

T = TypeVar("T")


def name_for(model: object, name: str | None) -> str:
    """Return the name of a typed value: `name`, else the class's.

    Raises:
        ConfigurationError: It has none that tells it from others of its type.
    """
    found = default_name(model) if name is None else name
    if found is None:
        raise ConfigurationError(f"state of type {model!r:.80} has no name of its own: give it name=")
    return found


class TypedState(Generic[T]):
    """One name of a key's state, whose value is read and written as a type."""

    __slots__ = ("_name", "_state", "_type", "_upcast")

    def __init__(
        self, state: "State", value_type: ValueType[T], name: str, upcast: Callable[[Any], Any] | None
    ) -> None:
        self._state = state
        self._type = value_type
        self._name = name
        self._upcast = upcast

    async def get(self) -> T | None:
        """Return the value, None where there is none.

        Raises:
            StateUnreadable: What is stored does not fit the type.
        """
        return self._decode(await self._state._load(self._name))

    async def put(self, value: T, ttl: Ttl | None = None) -> None:
        """Remember `value`; with `ttl` it is gone so much later, as in `State.put`.

        Raises:
            EventRejected: It is of another type, would be read back as something else, or is too large.
            ConfigurationError: `ttl` is none.
        """
        self._put(value, ttl)

    async def delete(self) -> None:
        """Forget the value."""
        self._state._delete(self._name)

    async def read(self, key: str) -> T | None:
        """Return the value of another key of this handler and partition, None where there is none."""
        return self._decode(await self._state._read(key, self._name))

    def _put(self, value: T, ttl: Ttl | None) -> None:
        self._state._store(self._name, self._type.dump(self._name, value), ttl)

    def _decode(self, stored: bytes | None) -> T | None:
        if stored is None:
            return None
        try:
            return self._type.read(stored)
        except Exception as error:  # a validator of the user's may raise anything
            if self._upcast is None:
                raise self._unreadable(error, "read its old form as well (defaults for new fields, or upcast=)") from (
                    codec.cause_of(error)
                )
        return self._lift(stored, self._upcast)

    def _lift(self, stored: bytes, upcast: Callable[[Any], Any]) -> T:
        """Return what `upcast` makes of a stored value. What it raises is the record's failure."""
        try:
            tree = self._type.parse(stored)
        except ValueError as error:
            raise self._unreadable(error, "it is damaged, no JSON") from error
        lifted = upcast(tree)
        if iscoroutine(lifted):
            lifted.close()
            raise ConfigurationError(f"upcast= of state {self._name!r} is async: it is a plain function")
        try:
            return self._type.validate(lifted)
        except Exception as error:  # a validator of the user's may raise anything
            raise self._unreadable(error, "upcast= returned that") from codec.cause_of(error)

    def _unreadable(self, error: Exception, way_out: str) -> StateUnreadable:
        reason = str(codec.schema_error(self._type.name, error)).removeprefix("payload ")
        return StateUnreadable(
            f"what is remembered as {self._name!r} of key {self._state.key!r:.80} {reason}: {way_out}, look at it with"
            " `pspf state get`, put or delete it in the handler (ctx.state), or seek with --reset-state; then `pspf dlq"
            " replay`"
        )


class SyncTypedState(Generic[T]):
    """A typed value, for a handler in a thread."""

    __slots__ = ("_typed", "_wait")

    def __init__(
        self, typed: TypedState[T], wait: Callable[[Callable[[], Coroutine[Any, Any, T | None]]], T | None]
    ) -> None:
        self._typed = typed
        self._wait = wait

    def get(self) -> T | None:
        """Return the value, None where there is none."""
        return self._wait(self._typed.get)

    def put(self, value: T, ttl: Ttl | None = None) -> None:
        """Remember `value`, as `TypedState.put` does."""
        self._typed._put(value, ttl)

    def delete(self) -> None:
        """Forget the value."""
        self._typed._state._delete(self._typed._name)

    def read(self, key: str) -> T | None:
        """Return the value of another key of this handler and partition, None where there is none."""
        return self._wait(lambda: self._typed.read(key))
