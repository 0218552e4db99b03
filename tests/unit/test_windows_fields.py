"""Fields that a window names and its events can't have; and event times of text."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest
from pydantic import BaseModel
from typing_extensions import TypedDict

from pspf import BaseEvent, Count, Stream, Sum, TopN, TumblingWindow
from pspf.errors import ConfigurationError, SchemaError
from pspf.events.timestamps import ms_of


class Bid(BaseModel):
    price: int
    colour: str = ""

    @property
    def shade(self) -> str:
        return self.colour


@dataclass
class Plain:
    price: int
    colour: str = ""


class Typed(TypedDict):
    price: int
    colour: str


def declare(model: Any, fold: Any, **options: Any) -> None:
    Stream(topic="in", group="g").window("in", TumblingWindow(1), schema=model, **options)(fold)


@pytest.mark.parametrize("model", [Bid, Plain, Typed])
@pytest.mark.parametrize(
    ("fold", "options"),
    [
        (Sum("prize"), {}),
        (Count("prize"), {}),
        ({"a": Count(), "b": Sum("prize")}, {}),
        (TopN("price", 2, keep="prize"), {}),
        (Count(), {"key": "prize"}),
    ],
)
def test_a_field_that_the_model_has_not_is_refused_with_the_nearest_one(
    model: Any, fold: Any, options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationError, match=r"has no field 'prize'; did you mean 'price'"):
        declare(model, fold, **options)


@pytest.mark.parametrize("model", [BaseEvent, dict, None, Bid])
def test_a_field_that_an_event_may_have_is_taken(model: Any) -> None:
    declare(model, Sum("price"), key="shade" if model is Bid else "anything")


@pytest.mark.parametrize(
    ("text", "time_ms"),
    [
        ("1700000000", 1_700_000_000_000),
        ("1700000000.5", 1_700_000_000_500),
        ("1612011230000", 1_612_011_230_000),
        ("2023-11-14T22:13:20Z", 1_700_000_000_000),
        ("2023-11-14t22:13:20z", 1_700_000_000_000),
        ("20231114T221320Z", 1_700_000_000_000),
    ],
)
def test_text_is_read_as_models_read_it(text: str, time_ms: int) -> None:
    assert ms_of(text) == time_ms
    if "T2213" not in text:
        (at,) = [BaseEvent.model_validate({"timestamp": text}).timestamp]
        assert round(at.timestamp() * 1000) == time_ms


@pytest.mark.parametrize("value", ["", "now", "22:13:20", [1], True, 1e300, datetime])
def test_what_is_no_time_says_so(value: Any) -> None:
    with pytest.raises(SchemaError, match="timestamp"):
        ms_of(value)
