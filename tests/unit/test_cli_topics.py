"""Handlers of several topics as commands show and choose them."""

from pspf import BaseEvent, Stream
from pspf.cli.services.topology import as_dot, as_json_handler, as_mermaid, as_row
from pspf.runtime.app.loader import _shape, _topic_groups
from pspf.runtime.app.plan import AppPlan, describe_plan
from pspf.runtime.app.work import CursorName


def make_app() -> Stream:
    stream = Stream(topic="orders", group="billing")

    @stream.subscribe(topics=["orders", "payments"], ordering="key", name="match")
    async def match(event: BaseEvent) -> None: ...

    @stream.subscribe("clicks", name="count")
    async def count(event: BaseEvent) -> None: ...

    return stream


def make_plan() -> AppPlan:
    return AppPlan("app:stream", "/app", _topic_groups(make_app().subscriptions))


def test_show_has_all_topics_beside_the_first_one() -> None:
    match, count = make_app().subscriptions
    told = as_json_handler(match)
    assert (told["topic"], told["topics"]) == ("orders", ["orders", "payments"])
    assert as_json_handler(count)["topics"] == ["clicks"]
    assert as_row(match)[1] == "orders, payments"
    assert _shape(match).topics == ("orders", "payments")


def test_a_graph_leads_from_each_topic_to_the_handler() -> None:
    subscriptions = make_app().subscriptions
    drawn = list(as_mermaid(subscriptions))
    assert [line for line in drawn if line.endswith("==> h0")] == ["  t0 ==> h0", "  t2 ==> h0"]
    assert any("payments-dlq" in line for line in drawn)
    assert len([line for line in as_dot(subscriptions) if "-> h0 " in line]) == 2


def test_a_burst_waits_for_all_topics_and_a_line_of_the_plan_names_them() -> None:
    plan = make_plan()
    assert set(plan.work.cursors) == {
        CursorName("orders", "billing", "match"),
        CursorName("payments", "billing", "match"),
        CursorName("clicks", "billing", None),
    }
    assert "topics: orders, payments, clicks" in describe_plan(plan, broker="memory://", in_process=True)
    assert AppPlan.from_json(plan.to_json()) == plan


def test_only_finds_a_handler_by_each_of_its_topics() -> None:
    for topic in ("orders", "payments"):
        assert [group.label for group in make_plan().only([topic]).groups] == ["orders/billing"]
    assert [group.label for group in make_plan().only(["clicks"]).groups] == ["clicks/billing"]
