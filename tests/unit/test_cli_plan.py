"""What a worker runs: topic groups, processes, and what a child is told."""

import pytest

from pspf.errors import ConfigurationError
from pspf.runtime.app.plan import AppPlan, ChildSpec, TopicGroup, Totals, WorkerOptions, describe_plan
from pspf.runtime.app.work import CursorName, Work


def group(topic: str, name: str) -> TopicGroup:
    return TopicGroup(topic, name, ("app.h",), (CursorName(topic, name, None),))


PLAN = AppPlan("app:stream", "/app", (group("orders", "bill"), group("orders", "audit"), group("clicks", "stats")))


@pytest.mark.parametrize(
    ("text", "processes"),
    [
        ("4", [4, 4, 4]),
        ("orders=2", [2, 2, 1]),
        ("orders=2,clicks/stats=3", [2, 2, 3]),
        ("2, orders/audit=1", [2, 1, 2]),
        ("orders/audit=3,orders=2,4", [2, 3, 4]),
    ],
)
def test_processes_are_counted_for_all_a_topic_or_a_group(text: str, processes: list[int]) -> None:
    assert [g.processes for g in PLAN.with_processes(text).groups] == processes


@pytest.mark.parametrize(
    "text",
    [
        *("", "0", "-1", "x", "²", "orders", "orders=", "=3", "orders=0", "oders=2", "orders/x=2", "999"),
        *("2,3", "orders=2,orders=3", "orders=2,"),
    ],
)
def test_a_count_of_processes_that_fits_nothing_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        PLAN.with_processes(text)


def test_a_near_topic_is_proposed() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'orders'"):
        PLAN.with_processes("oders=2")
    with pytest.raises(ConfigurationError, match="did you mean 'clicks'"):
        PLAN.only(["click"])


def test_only_leaves_other_topics_out() -> None:
    assert [g.label for g in PLAN.only(["orders"]).groups] == ["orders/bill", "orders/audit"]
    assert PLAN.only([]) == PLAN


def test_a_childs_orders_survive_the_way_to_it() -> None:
    work = Work(PLAN.cursors, (PLAN.cursors[:1], PLAN.cursors[1:]))
    spec = ChildSpec("a:b", "/x y", "t", "g", work, WorkerOptions(backend="sqlite:///ü.db", burst=True))
    line = spec.to_json()
    assert "\n" not in line
    assert ChildSpec.from_json(line) == spec


def test_totals_add_up_and_an_unknown_lag_is_no_number() -> None:
    both = Totals(1, 2, 3) + Totals(10, 20, 30)
    assert both.describe(0) == "handled 11, failed 22, dead 33, lag 0"
    assert both.describe(None).endswith("lag ?")


def test_the_plan_names_each_topic_and_group_once() -> None:
    lines = describe_plan(PLAN.with_processes("orders/bill=2"), broker="sqlite:///b.db", in_process=False)
    assert "topics: orders, clicks" in lines
    assert "processes: 4 (orders/bill x 2, orders/audit x 1, clicks/stats x 1)" in lines


def test_the_plan_of_an_app_without_handlers_has_no_empty_lines() -> None:
    plan = AppPlan("a:b", "/x", ())
    assert describe_plan(plan, broker="sqlite:///b.db", in_process=False) == ["app: a:b", "broker: sqlite:///b.db"]
