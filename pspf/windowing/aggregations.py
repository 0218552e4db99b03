"""Aggregations that compute a number: Count, Sum, Min, Max, Mean, Distinct.

stream.window("bids", TumblingWindow(10_000), emit="final", to="hot")({"bids": Count(), "top": Max("price")})
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from math import isfinite
from typing import Any, Final

import orjson

from pspf.errors import SchemaError
from pspf.windowing.aggregation import (
    MISSING,
    NOTHING,
    Aggregation,
    Field,
    FieldAggregation,
    FoldFunction,
    field_name,
    make_getter,
)


class Count(Aggregation):
    """How many events; with a field, those that have it."""

    def __init__(self, field: Field | None = None) -> None:
        self.field = field
        self.name = "count" if field is None else f"count-{field_name(field)}"
        self._get = None if field is None else make_getter(field)

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


class Sum(FieldAggregation):
    """The sum of a field; 0 without values."""

    def start(self) -> Any:
        return 0

    def add(self, state: Any, value: Any) -> Any:
        return state + value

    def merge(self, one: Any, other: Any) -> Any:
        return one + other


class _OfOne(FieldAggregation):
    """An aggregation that keeps one of the values, which may be of any kind that has an order.

    Numbers and Decimals have theirs, text has its own, times are compared as times; of a field that has several kinds,
    numbers are least and text is greatest. Times are kept as ISO text of UTC, Decimals exactly.
    """

    def __init__(self, field: Field) -> None:
        super().__init__(field)
        self._takes_integers = True

    def check(self, value: Any) -> Any:
        if type(value) is int or (type(value) is float and isfinite(value)) or isinstance(value, str):
            return value
        if isinstance(value, Decimal) and value.is_finite():
            return value
        if isinstance(value, datetime):
            utc = value.astimezone(UTC) if value.tzinfo is not None else value.replace(tzinfo=UTC)
            return utc.isoformat(timespec="microseconds").replace("+00:00", "Z")
        if isinstance(value, date):
            return value.isoformat()
        raise SchemaError(f"{self.name}: {field_name(self.field)} has no order: {value!r:.80}")

    def start(self) -> Any:
        return NOTHING

    def merge(self, one: Any, other: Any) -> Any:
        return one if other == NOTHING else self.add(one, other)

    def result(self, state: Any) -> Any:
        if isinstance(state, Decimal):
            return str(state)
        return None if state == NOTHING else state

    def dump(self, state: Any) -> Any:
        if isinstance(state, Decimal):
            return {_DECIMAL: str(state)}
        return None if state == NOTHING else state

    def load(self, tree: Any) -> Any:
        if isinstance(tree, dict):
            return Decimal(tree[_DECIMAL])
        return NOTHING if tree is None else tree


_DECIMAL: Final = "decimal"


def _is_less(one: Any, other: Any) -> bool:
    """Return whether one value is before another in order; text is behind all numbers."""
    if isinstance(one, str) is not isinstance(other, str):
        return isinstance(other, str)
    return bool(one < other)


class Min(_OfOne):
    """The least value of a field; None without values."""

    def add(self, state: Any, value: Any) -> Any:
        if type(state) is type(value):  # most are, and a call would double the price
            return value if value < state else state
        return value if state is NOTHING or _is_less(value, state) else state


class Max(_OfOne):
    """The greatest value of a field; None without values."""

    def add(self, state: Any, value: Any) -> Any:
        if type(state) is type(value):
            return value if value > state else state
        return value if state is NOTHING or _is_less(state, value) else state


class Mean(FieldAggregation):
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


class Distinct(FieldAggregation):
    """How many different values a field has, exactly: each is remembered."""

    changes_states = True

    def check(self, value: Any) -> Any:
        if isinstance(value, bool | int | float | str):
            return orjson.dumps(value).decode()
        raise SchemaError(f"{self.name}: {field_name(self.field)} is no text or number but {value!r:.80}")

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
