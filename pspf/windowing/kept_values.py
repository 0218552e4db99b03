"""Aggregations that keep values of records: Last, TopN, Collect."""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, Final

import orjson

from pspf.errors import ConfigurationError, SchemaError
from pspf.events import codec
from pspf.windowing.aggregation import MISSING, NOTHING, Field, FieldAggregation, field_name


class _Placed(FieldAggregation):
    """An aggregation of values that keep their places: its values are (offset, value)."""

    def check(self, value: Any) -> Any:
        try:
            return orjson.loads(codec.dumps(value))  # a copy, as it will be after a restart
        except ValueError as error:
            raise SchemaError(f"{self.name}: {field_name(self.field)}: {error}") from error

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


Ranked = tuple[Any, int, Any]
"""A value, its record's offset negated (so that of equal values the earlier is greater), and the kept event."""


class TopN(FieldAggregation):
    """The `n` greatest values of a field, greatest first; with `keep` as `[value, that field]` pairs.

    Of equal values those that came first stay.
    """

    def __init__(self, field: Field, n: int, keep: Field | None = None) -> None:
        super().__init__(field)
        if type(n) is not int or n < 1:
            raise ConfigurationError(f"TopN: n={n!r}; use a whole number of 1 or more")
        self.n = n
        self._keep = None if keep is None else Last(keep)
        self.name = f"top{n}-{field_name(field)}"

    @property
    def fields(self) -> Sequence[str]:
        return [*super().fields, *(() if self._keep is None else self._keep.fields)]

    @property
    def shape(self) -> Any:
        return [self.name, None if self._keep is None else field_name(self._keep.field)]

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
