"""Min and Max: of all values that have an order, whatever their kind, and however states are merged."""

import functools
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pspf import Max, Min
from pspf.errors import SchemaError

NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
DECIMALS = st.decimals(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


def fold(aggregation: Any, values: list[Any]) -> Any:
    """Return the state of values, as the fold makes it."""
    step = aggregation.make_fold()
    return functools.reduce(lambda state, value: step({"v": value}, 0, state), values, None)


def order_of(value: Any) -> tuple[bool, Any]:
    return isinstance(value, str), value


@given(st.lists(NUMBERS | TEXTS | DECIMALS, min_size=1), st.data())
def test_the_least_and_the_greatest_are_those_of_python_and_a_restart_changes_none(
    values: list[Any], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(values)))
    for aggregation, choose in ((Min("v"), min), (Max("v"), max)):
        state = fold(aggregation, values)
        expected = choose(values, key=order_of)
        assert order_of(state) == order_of(expected)
        parts = [aggregation.start() if not part else fold(aggregation, part) for part in (values[:cut], values[cut:])]
        stored = [aggregation.load(orjson.loads(orjson.dumps(aggregation.dump(part)))) for part in _storable(parts)]
        if len(stored) == 2:
            assert order_of(aggregation.merge(*stored)) == order_of(expected)


def _storable(parts: list[Any]) -> list[Any]:
    """Leave out integers that JSON's numbers of 64 bits can't hold: events have none."""
    return [] if any(type(part) is int and not -(1 << 63) <= part < 1 << 64 for part in parts) else parts


def test_times_are_compared_as_times_and_kept_as_text_of_utc() -> None:
    early = datetime(2026, 1, 1, 1, 0, tzinfo=timezone(timedelta(hours=2)))  # 23:00 UTC the day before
    late = datetime(2026, 1, 1, 0, 0, tzinfo=UTC)
    assert fold(Min("v"), [late, early]) == "2025-12-31T23:00:00.000000Z"
    assert fold(Max("v"), [late, early]) == "2026-01-01T00:00:00.000000Z"
    assert fold(Max("v"), [date(2026, 1, 31), date(2026, 2, 1)]) == "2026-02-01"


def test_decimals_stay_exact() -> None:
    state = fold(Max("v"), [Decimal("0.10"), Decimal("0.30"), Decimal("0.2")])
    assert Max("v").load(Max("v").dump(state)) == Decimal("0.30")
    assert Max("v").result(state) == "0.30"


@pytest.mark.parametrize("value", [True, float("nan"), float("inf"), Decimal("nan"), [1], {"a": 1}, b"x"])
def test_what_has_no_order_is_refused_before_the_state_changes(value: Any) -> None:
    for aggregation in (Min("v"), Max("v")):
        with pytest.raises(SchemaError, match="no order"):
            aggregation.take({"v": value}, 0)


def test_without_values_there_is_none() -> None:
    for aggregation in (Min("v"), Max("v")):
        state = fold(aggregation, [None])
        assert aggregation.result(state) is None
        assert aggregation.result(aggregation.load(aggregation.dump(state))) is None
