"""Interface of aggregations, and the base of those that look at one field.

A field is named, or given as a function of the event. A value that is missing or None is passed over, as SQL does.
`take` gets the value out of an event and may refuse it; after that nothing can fail, so that a state is never left half
changed. States know how to merge, which sessions and sliding windows need: an aggregation that depends on the order of
arrival keeps the records' offsets, so that merging can't change it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any, Final

from pspf.errors import ConfigurationError, SchemaError

Field = str | Callable[[Any], Any]

MISSING: Final = object()
"""What `take` returns for an event that does not count."""
NOTHING: Final = ()
"""The state of an aggregation that keeps one value and had none; None would be no state at all."""


FoldFunction = Callable[[Any, int, Any], Any]
"""It raises what `Aggregation.take` does; then the state is as it was."""


class Aggregation(ABC):
    """How events become a value. States are the aggregation's own; `add` may change the one it is given."""

    name: str
    """What it computes, in a word: part of the default handler name."""

    @property
    def fields(self) -> Sequence[str]:
        """The names of the fields that it looks at, as far as it knows them."""
        return ()

    @property
    def shape(self) -> Any:
        """What it computes, as JSON: it can't read states of another shape. A function is known by its name."""
        return self.name

    changes_states: bool = False
    """Whether `add` changes the state that it is given, instead of returning another one."""

    @abstractmethod
    def take(self, event: Any, offset: int) -> Any:
        """Return what counts of an event, MISSING where nothing does; `offset` is its record's.

        Raises:
            SchemaError: The field has a value that can't be aggregated.
        """

    @abstractmethod
    def start(self) -> Any:
        """Return the state of no events."""

    @abstractmethod
    def add(self, state: Any, value: Any) -> Any:
        """Return the state with one more value."""

    def make_fold(self) -> "FoldFunction":
        """Return what takes an event, its record's offset and a state (None: none yet) to the next state."""
        take, start, add = self.take, self.start, self.add

        def fold(event: Any, offset: int, state: Any) -> Any:
            value = take(event, offset)
            if state is None:
                state = start()
            return state if value is MISSING else add(state, value)

        return fold

    @abstractmethod
    def merge(self, one: Any, other: Any) -> Any:
        """Return the state of both, `one` being the earlier; neither is changed."""

    def result(self, state: Any) -> Any:
        """Return the value that users see, as JSON has it."""
        return state

    def dump(self, state: Any) -> Any:
        """Return the state as JSON has it."""
        return state

    def load(self, tree: Any) -> Any:
        """Return the state that `dump` gave."""
        return tree


class FieldAggregation(Aggregation):
    """An aggregation of one field."""

    def __init__(self, field: Field) -> None:
        if not field or not (callable(field) or isinstance(field, str)):
            raise ConfigurationError(f"{type(self).__name__}({field!r:.80}): name a field, or give a function")
        self.field = field
        self.name = f"{type(self).__name__.lower()}-{field_name(field)}"
        self._get = make_getter(field)
        self._takes_integers = type(self).check is FieldAggregation.check  # as they are: a call less

    @property
    def fields(self) -> Sequence[str]:
        return [self.field] if isinstance(self.field, str) else []

    def take(self, event: Any, offset: int) -> Any:
        value = self._get(event)
        if value is None:
            return MISSING
        return value if type(value) is int and self._takes_integers else self.check(value)

    def make_fold(self) -> FoldFunction:
        if type(self).take is not FieldAggregation.take:
            return super().make_fold()
        get, check, start, add, takes_integers = self._get, self.check, self.start, self.add, self._takes_integers

        def fold(event: Any, offset: int, state: Any) -> Any:  # `take` with nothing called in between
            value = get(event)
            if value is None:
                return start() if state is None else state
            if type(value) is not int or not takes_integers:
                value = check(value)
            return add(start() if state is None else state, value)

        return fold

    def check(self, value: Any) -> Any:
        """Return a value that is not None as it counts, or raise SchemaError."""
        if type(value) is int or (type(value) is float and isfinite(value)):
            return value
        raise SchemaError(f"{self.name}: {field_name(self.field)} is no number but {value!r:.80}")


def make_getter(field: Field) -> Callable[[Any], Any]:
    """Return what gets a field out of an event, None where there is none."""
    if not isinstance(field, str):
        return field
    name = field
    return lambda event: event.get(name) if isinstance(event, dict) else getattr(event, name, None)


def field_name(field: Field) -> str:
    """Return what a field is called."""
    return field if isinstance(field, str) else getattr(field, "__name__", "value").strip("<>")
