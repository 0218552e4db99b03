"""Ready aggregations: Count, Sum, Mean and others, without a handler.

    stream.window("bids", TumblingWindow(10_000), emit="final", to="hot")({"bids": Count(), "top": Max("price")})

A field is named, or given as a function of the event. A value that is missing or None is passed over,
as SQL does. `take` gets the value out of an event and may refuse it; after that nothing can fail, so that
a state is never left half changed. States know how to merge, which sessions and sliding windows need:
what depends on the order of arrival keeps the records' offsets, so that merging can't change it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from operator import itemgetter
from typing import Any, Final

import orjson

from pspf.errors import ConfigurationError, SchemaError
from pspf.events import codec

Field = str | Callable[[Any], Any]

MISSING: Final = object()
"""What `take` returns for an event that does not count."""


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
        """What it computes, as JSON: states of another shape are none of its own. A function is known by its name."""
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


class _OfField(Aggregation):
    """An aggregation of one field."""

    def __init__(self, field: Field) -> None:
        if not field or not (callable(field) or isinstance(field, str)):
            raise ConfigurationError(f"{type(self).__name__}({field!r:.80}): name a field, or give a function")
        self.field = field
        self.name = f"{type(self).__name__.lower()}-{_field_name(field)}"
        self._get = _make_getter(field)
        self._takes_integers = type(self).check is _OfField.check  # as they are: a call less

    @property
    def fields(self) -> Sequence[str]:
        return [self.field] if isinstance(self.field, str) else []

    def take(self, event: Any, offset: int) -> Any:
        value = self._get(event)
        if value is None:
            return MISSING
        return value if type(value) is int and self._takes_integers else self.check(value)

    def make_fold(self) -> FoldFunction:
        if type(self).take is not _OfField.take:
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
        raise SchemaError(f"{self.name}: {_field_name(self.field)} is no number but {value!r:.80}")


def _make_getter(field: Field) -> Callable[[Any], Any]:
    """Return what gets a field out of an event, None where there is none."""
    if not isinstance(field, str):
        return field
    name = field
    return lambda event: event.get(name) if isinstance(event, dict) else getattr(event, name, None)


def _field_name(field: Field) -> str:
    return field if isinstance(field, str) else getattr(field, "__name__", "value").strip("<>")


class Count(Aggregation):
    """How many events; with a field, those that have it."""

    def __init__(self, field: Field | None = None) -> None:
        self.field = field
        self.name = "count" if field is None else f"count-{_field_name(field)}"
        self._get = None if field is None else _make_getter(field)

    @property
    def fields(self) -> Sequence[str]:
        return [self.field] if isinstance(self.field, str) else []

    def take(self, event: Any, offset: int) -> Any:
        return 1 if self._get is None or self._get(event) is not None else MISSING

    def make_fold(self) -> FoldFunction:
        if self._get is not None:
            return super().make_fold()
        return lambda event, offset, state: 1 if state is None else state + 1

    def start(self) -> int:
        return 0

    def add(self, state: int, value: Any) -> int:
        return state + 1

    def merge(self, one: int, other: int) -> int:
        return one + other


class Sum(_OfField):
    """The sum of a field; 0 without values."""

    def start(self) -> Any:
        return 0

    def add(self, state: Any, value: Any) -> Any:
        return state + value

    def merge(self, one: Any, other: Any) -> Any:
        return one + other


NOTHING: Final = ()
"""The state of aggregations of one value that had none; None would be no state at all."""


class _OfOne(_OfField):
    """An aggregation that keeps one of the values."""

    def start(self) -> Any:
        return NOTHING

    def merge(self, one: Any, other: Any) -> Any:
        return one if other == NOTHING else self.add(one, other)

    def result(self, state: Any) -> Any:
        return None if state == NOTHING else state

    def dump(self, state: Any) -> Any:
        return None if state == NOTHING else state

    def load(self, tree: Any) -> Any:
        return NOTHING if tree is None else tree


class Min(_OfOne):
    """The least value of a field; None without values."""

    def add(self, state: Any, value: Any) -> Any:
        return value if state is NOTHING or value < state else state


class Max(_OfOne):
    """The greatest value of a field; None without values."""

    def add(self, state: Any, value: Any) -> Any:
        return value if state is NOTHING or value > state else state


class Mean(_OfField):
    """The mean of a field; None without values. The state is (sum, count)."""

    def start(self) -> tuple[Any, int]:
        return 0, 0

    def add(self, state: tuple[Any, int], value: Any) -> tuple[Any, int]:
        return state[0] + value, state[1] + 1

    def merge(self, one: tuple[Any, int], other: tuple[Any, int]) -> tuple[Any, int]:
        return one[0] + other[0], one[1] + other[1]

    def result(self, state: tuple[Any, int]) -> Any:
        return state[0] / state[1] if state[1] else None

    def load(self, tree: Any) -> tuple[Any, int]:
        return tree[0], tree[1]


class _Placed(_OfField):
    """An aggregation of values that keep their places: its values are (offset, value)."""

    def check(self, value: Any) -> Any:
        try:
            return orjson.loads(codec.dumps(value))  # a copy, as it will be after a restart
        except ValueError as error:
            raise SchemaError(f"{self.name}: {_field_name(self.field)}: {error}") from error

    def take(self, event: Any, offset: int) -> Any:
        value = super().take(event, offset)
        return MISSING if value is MISSING else (offset, value)


Placed = tuple[int, Any]


def _dump_placed(placed: Placed) -> list[Any]:
    return [str(placed[0]), placed[1]]  # an offset may have more than 64 bits


def _load_placed(tree: list[Any]) -> Placed:
    return int(tree[0]), tree[1]


class Last(_Placed):
    """The value of a field in the record that came last; None without values."""

    def start(self) -> Any:
        return NOTHING

    def add(self, state: Any, value: Placed) -> Placed:
        return value

    def merge(self, one: Any, other: Any) -> Any:
        if NOTHING in (one, other):
            return one or other
        return max(one, other, key=itemgetter(0))

    def result(self, state: Any) -> Any:
        return None if state == NOTHING else state[1]

    def dump(self, state: Any) -> Any:
        return None if state == NOTHING else _dump_placed(state)

    def load(self, tree: Any) -> Any:
        return NOTHING if tree is None else _load_placed(tree)


class Distinct(_OfField):
    """How many different values a field has, exactly: each is remembered."""

    changes_states = True

    def check(self, value: Any) -> Any:
        if isinstance(value, bool | int | float | str):
            return orjson.dumps(value).decode()
        raise SchemaError(f"{self.name}: {_field_name(self.field)} is no text or number but {value!r:.80}")

    def start(self) -> set[str]:
        return set()

    def add(self, state: set[str], value: str) -> set[str]:
        state.add(value)
        return state

    def merge(self, one: set[str], other: set[str]) -> set[str]:
        return one | other

    def result(self, state: set[str]) -> int:
        return len(state)

    def dump(self, state: set[str]) -> Any:
        return sorted(state)

    def load(self, tree: Any) -> set[str]:
        return set(tree)


Ranked = tuple[Any, int, Any]
"""A value, its record's offset negated (so that of equal values the earlier is greater), and the kept event."""


class TopN(_OfField):
    """The `n` greatest values of a field, greatest first; with `keep` as `[value, that field]` pairs.

    Of equal values those that came first stay.
    """

    def __init__(self, field: Field, n: int, keep: Field | None = None) -> None:
        super().__init__(field)
        if type(n) is not int or n < 1:
            raise ConfigurationError(f"TopN: n={n!r}; use a whole number of 1 or more")
        self.n = n
        self._keep = None if keep is None else Last(keep)
        self.name = f"top{n}-{_field_name(field)}"

    @property
    def fields(self) -> Sequence[str]:
        return [*super().fields, *(() if self._keep is None else self._keep.fields)]

    @property
    def shape(self) -> Any:
        return [self.name, None if self._keep is None else _field_name(self._keep.field)]

    @property
    def keeps(self) -> bool:
        """Whether another field is kept with each value."""
        return self._keep is not None

    def take(self, event: Any, offset: int) -> Any:
        value = super().take(event, offset)
        if value is MISSING:
            return value
        kept: Any = MISSING if self._keep is None else self._keep.take(event, offset)
        return value, -offset, None if kept is MISSING else kept[1]

    def start(self) -> list[Ranked]:
        return []

    def add(self, state: list[Ranked], value: Ranked) -> list[Ranked]:
        rank = value[:2]
        if len(state) == self.n and rank < state[-1][:2]:
            return state
        return sorted([*state, value], key=_rank, reverse=True)[: self.n]

    def merge(self, one: list[Ranked], other: list[Ranked]) -> list[Ranked]:
        return sorted(one + other, key=_rank, reverse=True)[: self.n]

    def result(self, state: list[Ranked]) -> Any:
        return [value if self._keep is None else [value, kept] for value, _, kept in state]

    def dump(self, state: list[Ranked]) -> Any:
        return [[value, str(offset), kept] for value, offset, kept in state]

    def load(self, tree: Any) -> list[Ranked]:
        return [(value, int(offset), kept) for value, offset, kept in tree]


_rank: Final[Callable[[Ranked], Any]] = itemgetter(0, 1)


class Collect(_Placed):
    """All values of a field, in the order that their records came in."""

    changes_states = True

    def start(self) -> list[Placed]:
        return []

    def add(self, state: list[Placed], value: Placed) -> list[Placed]:
        state.append(value)
        return state

    def merge(self, one: list[Placed], other: list[Placed]) -> list[Placed]:
        return sorted(one + other, key=itemgetter(0))

    def result(self, state: list[Placed]) -> Any:
        return [value for _, value in state]

    def dump(self, state: list[Placed]) -> Any:
        return [_dump_placed(placed) for placed in state]

    def load(self, tree: Any) -> list[Placed]:
        return [_load_placed(each) for each in tree]


class Several(Aggregation):
    """Named aggregations side by side; the value is an object of theirs."""

    def __init__(self, parts: Mapping[str, Aggregation]) -> None:
        if not parts or not all(isinstance(part, Aggregation) for part in parts.values()):
            raise ConfigurationError(f"aggregations by name, as in {{'bids': Count()}}, not {parts!r:.120}")
        self.parts = dict(parts)
        self._in_order = tuple(self.parts.values())
        self.name = "-".join(self.parts)
        self.changes_states = any(part.changes_states for part in self._in_order)
        self._fold_alone = not self.changes_states

    @property
    def fields(self) -> Sequence[str]:
        return [name for part in self._in_order for name in part.fields]

    @property
    def shape(self) -> Any:
        return [[name, part.shape] for name, part in self.parts.items()]

    def take(self, event: Any, offset: int) -> Any:
        return [part.take(event, offset) for part in self._in_order]

    def start(self) -> Any:
        return tuple([part.start() for part in self._in_order])

    def add(self, state: Any, value: Any) -> Any:
        return tuple(
            [
                old if new is MISSING else part.add(old, new)
                for part, old, new in zip(self._in_order, state, value, strict=True)
            ]
        )

    def make_fold(self) -> FoldFunction:
        if self._fold_alone:
            return self._make_parallel_fold()
        takes, adds = [part.take for part in self._in_order], [part.add for part in self._in_order]
        start = self.start

        def fold(event: Any, offset: int, state: Any) -> Any:
            values = [take(event, offset) for take in takes]  # all of them, before any state changes
            olds = start() if state is None else state
            return tuple(
                [
                    old if value is MISSING else add(old, value)
                    for add, old, value in zip(adds, olds, values, strict=False)  # strict costs a lookup
                ]
            )

        return fold

    def _make_parallel_fold(self) -> FoldFunction:
        """Return a fold of each part alone: where one refuses an event, the new states of the others are dropped."""
        folds = [part.make_fold() for part in self._in_order]
        nothing = (None,) * len(folds)

        def fold(event: Any, offset: int, state: Any) -> Any:
            olds = nothing if state is None else state
            return tuple([add(event, offset, old) for add, old in zip(folds, olds, strict=False)])

        return fold

    def merge(self, one: Any, other: Any) -> Any:
        return tuple([part.merge(a, b) for part, a, b in zip(self._in_order, one, other, strict=True)])

    def result(self, state: Any) -> Any:
        return {name: part.result(each) for (name, part), each in zip(self.parts.items(), state, strict=True)}

    def dump(self, state: Any) -> Any:
        return [part.dump(each) for part, each in zip(self._in_order, state, strict=True)]

    def load(self, tree: Any) -> Any:
        return tuple([part.load(each) for part, each in zip(self._in_order, tree, strict=True)])


def as_aggregation(given: object) -> Aggregation | None:
    """Return an aggregation, or a mapping of them by name, as one; None for anything else.

    Raises:
        ConfigurationError: The mapping holds something else.
    """
    if isinstance(given, Aggregation):
        return given
    return Several(given) if isinstance(given, Mapping) else None
