"""Folds: how the state of a window and key grows, merges and is stored.

Of a user's handler only the JSON of its state is kept: each call gets a fresh copy, so that one that fails
leaves nothing behind, and a state looks the same before and after a restart. Bytes also stay out of the
garbage collector's sight, which at several 100,000 keys costs more than parsing them.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, get_args

import orjson
from pydantic import BaseModel, TypeAdapter
from pydantic_core import from_json, to_jsonable_python

from pspf.compact import compact
from pspf.errors import ConfigurationError, StateUnreadable
from pspf.events import codec
from pspf.events.round_trips import why_no_way_back
from pspf.events.state_values import encode_value
from pspf.windowing.aggregation import Aggregation
from pspf.windowing.definitions import Windowing


class Fold(ABC):
    """A way to aggregate. A state in memory is whatever `decode` gives; None is no state."""

    owner: str = "a handler"
    """Whose states these are, for messages."""
    name: str
    shape: Any
    """Of what kind states are, as JSON; it has to stay the same for stored ones to be read."""
    keeps_values: bool = False
    """Whether a state grows with what its events hold."""
    can_merge: bool
    """Whether two states can become one without the records."""

    @abstractmethod
    def encode(self, state: Any) -> bytes:
        """Return a state as it is stored."""

    def encode_all(self, states: Sequence[Any]) -> Sequence[bytes]:
        """Return states as they are stored."""
        return [self.encode(state) for state in states]

    @abstractmethod
    def decode(self, stored: bytes) -> Any:
        """Return the state that `encode` gave."""

    def check(self, state: Any) -> None:  # noqa: B027 (most have read it when it was loaded)
        """Raise StateUnreadable for a state in memory that can't be aggregated with."""

    def unreadable(self, error: BaseException) -> StateUnreadable:
        """Return what to raise where a stored state can't be read."""
        return StateUnreadable(
            f"a stored state of the windows of {self.owner} can't be read ({type(error).__name__}: {str(error)[:300]}):"
            " read it as its old form too (defaults for new fields, or upcast=), give the new form another name=, or"
            " seek with --reset-state"
        )

    @abstractmethod
    def merge(self, one: Any, other: Any) -> Any:
        """Return the state of both, `one` being the earlier; neither is changed."""

    @abstractmethod
    def to_json(self, state: Any) -> bytes:
        """Return what users see of a state, as JSON."""

    def to_json_all(self, states: Sequence[Any]) -> Sequence[bytes]:
        """Return what users see of states."""
        return [self.to_json(state) for state in states]


class ReadyFold(Fold):
    """A ready aggregation: states are its own objects."""

    can_merge = True

    def __init__(self, aggregation: Aggregation) -> None:
        self.name = aggregation.name
        self.shape = aggregation.shape
        self.keeps_values = aggregation.changes_states
        self._aggregation = aggregation
        self.add = aggregation.make_fold()
        """From an event, its record's offset and a state to the next state. SchemaError: it can't be aggregated."""

    def encode(self, state: Any) -> bytes:
        return _dumps(self._aggregation.dump(state))

    def decode(self, stored: bytes) -> Any:
        try:
            return self._aggregation.load(from_json(stored))
        except (ValueError, TypeError, IndexError, KeyError) as error:
            raise self.unreadable(error) from error

    def merge(self, one: Any, other: Any) -> Any:
        return self._aggregation.merge(one, other)

    def to_json(self, state: Any) -> bytes:
        return _dumps(self._aggregation.result(state))


def _dumps(tree: Any) -> bytes:
    try:
        return compact(orjson.dumps(tree))
    except orjson.JSONEncodeError:  # a sum of more than 64 bits
        return json.dumps(tree).encode()


class HandlerFold(Fold):
    """A user's handler: states are JSON, `load` and `dump` stand around each call."""

    def __init__(self, windowing: Windowing) -> None:
        self.name = self.shape = "handler"
        self.load = make_loader(windowing.state_model, windowing.upcast)
        self.dump = dump_state if make_loader(windowing.state_model) is orjson.loads else dump_typed_state
        self._merge = windowing.merge
        self.can_merge = self._merge is not None

    def check(self, state: Any) -> None:
        if state is not None:
            try:
                self.load(state)
            except Exception as error:  # whatever the model's own validators raise
                raise self.unreadable(error) from error

    def encode(self, state: Any) -> bytes:
        stored: bytes = state
        return stored

    def encode_all(self, states: Sequence[Any]) -> Sequence[bytes]:
        return states

    def decode(self, stored: bytes) -> Any:
        return stored

    def merge(self, one: Any, other: Any) -> Any:
        if self._merge is None:
            raise ConfigurationError("states of a handler can't be merged without merge=")
        return self.dump(self._merge(self.load(one), self.load(other)))

    def to_json(self, state: Any) -> bytes:
        return self.encode(state)

    def to_json_all(self, states: Sequence[Any]) -> Sequence[bytes]:
        return states


def make_dumper(default: Callable[[Any], Any] | None) -> Callable[[Any], bytes | None]:
    """Return the writer of a handler's state as JSON, None for none; `default` converts other values to JSON.

    It raises EventRejected where JSON can't hold it.
    """

    def dump(state: Any) -> bytes | None:
        if state is None:
            return None
        if type(state) is dict or type(state) is int or type(state) is list:
            try:
                stored = orjson.dumps(state)  # most states are JSON already
            except orjson.JSONEncodeError:
                return encode_value("of a window", state, default)  # or raises the reason
            if stored.find(b"null") >= 0:  # orjson writes NaN as null
                codec.check_finite({"state": state})
            return compact(stored)
        return encode_value("of a window", state, default)

    return dump


dump_state = make_dumper(None)
dump_typed_state = make_dumper(to_jsonable_python)
"""For a state that is read back as its annotation says: a value that is no JSON is written by pydantic."""


def make_loader(model: Any, upcast: Callable[[Any], Any] | None = None) -> Callable[[bytes], Any]:
    """Return what reads a state's JSON as `model`; None reads it as it is.

    What does not fit is given to `upcast`, and what that returns is read as the model.

    Raises:
        ConfigurationError: Pydantic can't validate `model`.
    """
    load = _make_loader(model)
    if upcast is None:
        return load
    lift, validate = upcast, TypeAdapter(model).validate_python

    def load_or_lift(stored: bytes) -> Any:
        try:
            return load(stored)
        except ValueError:
            return validate(lift(orjson.loads(stored)))

    return load_or_lift


def _make_loader(model: Any) -> Callable[[bytes], Any]:
    chosen = [each for each in get_args(model) if each is not type(None)] if type(None) in get_args(model) else [model]
    if len(chosen) == 1 and chosen[0] in (None, Any, dict, list, int, float, str, object):
        return orjson.loads
    if (problem := why_no_way_back(model)) is not None:
        raise ConfigurationError(f"a window's state could not be read back as {model!r:.120}: {problem}")
    if len(chosen) == 1 and isinstance(chosen[0], type) and issubclass(chosen[0], BaseModel):
        return chosen[0].__pydantic_validator__.validate_json
    try:
        return TypeAdapter(model).validator.validate_json
    except Exception as error:  # whatever pydantic says of an annotation that is no type
        raise ConfigurationError(f"a window's state can't be read as {model!r:.120}: {error}") from error


def make_fold(windowing: Windowing) -> ReadyFold | HandlerFold:
    """Return how a subscription aggregates."""
    return HandlerFold(windowing) if windowing.aggregation is None else ReadyFold(windowing.aggregation)
