"""Conditions of `pspf tail --where`."""

from typing import Any

import pytest

from pspf.cli.exit_codes import UsageError
from pspf.cli.services.where import parse_condition

EVENT: dict[str, Any] = {
    "amount": 12.5,
    "n": 3,
    "code": "7",
    "ok": True,
    "none": None,
    "place": "Kodiak, Alaska",
    "tags": ["a", "b"],
    "user": {"name": "ann", "pets": [{"kind": "cat"}]},
}


@pytest.mark.parametrize(
    "text",
    [
        "amount>10",
        "amount >= 12.5",
        "amount<13",
        "n=3",
        "n==3",
        "n<=3",
        "n!=4",
        "code=7",
        'code="7"',
        "ok=true",
        "none=null",
        "place~Alaska",
        "place!=Hawaii",
        "place>=K",
        "tags~a",
        "user.name=ann",
        "user.pets.0.kind=cat",
        "missing!=1",
        "user.name.deep!=1",
    ],
)
def test_what_fits_is_found(text: str) -> None:
    assert parse_condition(text).matches(EVENT)


@pytest.mark.parametrize(
    "text",
    [
        "amount>12.5",
        "amount=12",
        "n>x",
        "place>3",
        "ok=1",
        "n=true",
        "missing=1",
        "missing>1",
        "user~b",
        "tags~c",
        "n~3",
    ],
)
def test_what_does_not_fit_is_left_out(text: str) -> None:
    assert not parse_condition(text).matches(EVENT)


def test_an_event_that_is_no_object_fits_nothing_but_unequal() -> None:
    for event in ([1], 3, "x", None):
        assert not parse_condition("n=1").matches(event)
        assert parse_condition("n!=1").matches(event)


@pytest.mark.parametrize("text", ["", "amount", ">3", "1>2", "a b = 3", "__import__('os')"])
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_condition(text)


def test_nothing_is_run_as_code() -> None:
    assert not parse_condition("n=__import__('os').getpid()").matches(EVENT)
