"""Which functions are handlers, what they take, and the policies around them."""

import functools
from collections.abc import Callable
from typing import Annotated, Any

import pytest

from pspf import BaseEvent, Context, RetryPolicy
from pspf.context import SyncContext
from pspf.errors import ConfigurationError
from pspf.stream.registration import choose_model
from pspf.subscription import Subscription, Takes, inspect_fold, inspect_handler


class Order(BaseEvent):
    """A model."""


async def event(event: Order) -> None: ...
async def event_context(event: Order, ctx: Context) -> None: ...
async def bare(event): ...  # type: ignore[no-untyped-def]
async def raw(msg_id, raw_data): ...  # type: ignore[no-untyped-def]
async def raw_context(msg_id, raw_data, ctx): ...  # type: ignore[no-untyped-def]
async def raw_annotated_context(msg_id, raw_data, ctx: Context): ...  # type: ignore[no-untyped-def]
async def batch(events: list[Order]) -> None: ...
async def batch_context(events: list[Order], ctx: Context) -> None: ...
async def bare_batch(events: list) -> None: ...  # type: ignore[type-arg]
async def with_default(event: Order, factor: int = 2, *, other: int = 3) -> None: ...
def plain(event: Order, ctx: SyncContext) -> None: ...
async def annotated_context(event: Order, ctx: Annotated[Context, "of the batch"]) -> None: ...
async def quoted(event: "Order", ctx: "Context") -> None: ...


@pytest.mark.parametrize(
    ("function", "takes", "takes_context", "is_async", "annotation"),
    [
        (event, Takes.EVENT, False, True, Order),
        (event_context, Takes.EVENT, True, True, Order),
        (bare, Takes.EVENT, False, True, None),
        (raw, Takes.RAW, False, True, None),
        (raw_context, Takes.RAW, True, True, None),
        (raw_annotated_context, Takes.RAW, True, True, None),
        (batch, Takes.BATCH, False, True, Order),
        (batch_context, Takes.BATCH, True, True, Order),
        (bare_batch, Takes.BATCH, False, True, None),
        (with_default, Takes.EVENT, False, True, Order),
        (plain, Takes.EVENT, True, False, Order),
        (annotated_context, Takes.EVENT, True, True, Order),
        (quoted, Takes.EVENT, True, True, Order),
        (functools.partial(event_context), Takes.EVENT, True, True, Order),
    ],
)
def test_a_handlers_shape_is_read_from_its_signature(
    function: Callable[..., Any], takes: Takes, takes_context: bool, is_async: bool, annotation: Any
) -> None:
    handler = inspect_handler(function)
    found = (handler.takes, handler.takes_context, handler.is_async, handler.annotation)
    assert found == (takes, takes_context, is_async, annotation)


async def none() -> None: ...
async def four(a, b, c, d): ...  # type: ignore[no-untyped-def]
async def two_events(a: Order, b: Order) -> None: ...
async def keyword_only(event: Order, *, clock: int) -> None: ...
async def anything(*arguments: Any, **options: Any) -> None: ...
async def generator(event: Order) -> Any:
    yield 1


def plain_generator(event: Order) -> Any:
    yield 1


async def context_not_annotated(event, ctx): ...  # type: ignore[no-untyped-def]
async def sync_context(event: Order, ctx: SyncContext) -> None: ...
async def unknown_model(event: "Missing") -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (none, "takes 0 parameters"),
        (anything, "put functools.wraps into the decorator"),
        (four, "takes 4 parameters"),
        (two_events, "no known shape"),
        (keyword_only, "'clock' is keyword-only"),
        (generator, "yields"),
        (plain_generator, "yields"),
        (context_not_annotated, "annotate 'ctx' as Context"),
        (sync_context, "annotate its context as Context"),
        (unknown_model, "define its model at the top"),
        ("text", "a handler is a function"),
    ],
)
def test_what_is_no_handler_is_refused_with_the_reason(function: Any, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        inspect_handler(function)


def test_so_is_a_windowed_handler_that_does_not_say_what_it_takes() -> None:
    with pytest.raises(ConfigurationError, match=r"put functools\.wraps into the decorator"):
        inspect_fold(anything)


def test_a_handlers_name_is_its_functions_or_its_own() -> None:
    assert inspect_handler(event).name == f"{__name__}.event"
    assert inspect_handler(event, "billing").name == "billing"


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"batch_size": True},
        {"concurrency": 0},
        {"concurrency": 1.5},
        {"timeout_ms": 0},
        {"ordering": "total"},
        {"topic": "a b"},
        {"group": ""},
        {"own_retry": 3},
    ],
)
def test_a_policy_that_can_not_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Subscription(**{"topic": "t", "group": "g", "handler": inspect_handler(event), **options})


def test_whole_batches_know_no_concurrency() -> None:
    with pytest.raises(ConfigurationError, match="whole batches"):
        Subscription("t", "g", inspect_handler(batch), concurrency=2)


def test_the_handlers_name_belongs_to_ordered_cursors_only() -> None:
    handler = inspect_handler(event, "h")
    assert Subscription("t", "g", handler).cursor_handler is None
    assert Subscription("t", "g", handler, ordering="key").cursor_handler == "h"


def test_the_model_is_the_schema_then_the_annotation_then_the_streams() -> None:
    class Other(BaseEvent):
        pass

    assert choose_model(inspect_handler(event), Other, None) is Other
    assert choose_model(inspect_handler(event), None, Other) is Order
    assert choose_model(inspect_handler(bare), None, Other) is Other
    assert choose_model(inspect_handler(bare), None, None) is None
    assert choose_model(inspect_handler(raw), Other, Other) is dict


def test_waits_double_up_to_their_most() -> None:
    policy = RetryPolicy(initial_ms=100, max_ms=1_000, jitter=0)
    assert [policy.wait_ms(attempts) for attempts in (1, 2, 3, 4, 5, 500)] == [100, 200, 400, 800, 1_000, 1_000]


def test_waits_are_spread_by_the_jitter_and_no_more() -> None:
    policy = RetryPolicy(initial_ms=1_000, max_ms=1_000, jitter=0.2)
    waits = {policy.wait_ms(1) for _ in range(500)}
    assert 800 <= min(waits) < 900
    assert 1_100 < max(waits) <= 1_200


@pytest.mark.parametrize(
    "options", [{"max_attempts": 0}, {"initial_ms": -1}, {"max_ms": 1}, {"jitter": 1}, {"jitter": -0.1}]
)
def test_a_retry_policy_that_can_not_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        RetryPolicy(**options)
