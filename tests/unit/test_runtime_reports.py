"""What a process tells comes through its pipe as it was."""

import json
from dataclasses import replace

import pytest

from pspf.observability.telemetry import HandlerCounters
from pspf.observability.worker_status import BatchStatus
from pspf.runtime.app.plan import AppPlan, TopicGroup, Totals
from pspf.runtime.app.work import CursorName, OperatorCursors
from pspf.runtime.status.reports import (
    Ending,
    Pulse,
    Report,
    SubscriptionStatus,
    Tasks,
    decode_report,
    encode_report,
)

PULSE = Pulse(
    "running",
    12,
    0,
    is_connected=True,
    is_at_work=True,
    session="host-1-abc",
    lease_left_ms=8_000,
    busy=(BatchStatus("orders", "g", "h", 1, 10, 70_000),),
    subscriptions=(
        SubscriptionStatus(
            HandlerCounters("orders", "g", "h", 7, 2, 1, 1, last_commit_ms=1_700_000_000_000, emits=("large",)), (0, 1)
        ),
        SubscriptionStatus(HandlerCounters("orders", "g", "i"), ()),
    ),
)


@pytest.mark.parametrize(
    "report", [PULSE, Tasks("task x"), Ending(Totals(1, 2, 3)), Ending(None, ("AppNotFound", "x"))]
)
def test_a_report_comes_back_as_it_was(report: Report) -> None:
    line = encode_report(report)
    assert line.count(b"\n") == 1
    assert decode_report(line) == report


def test_a_line_that_was_cut_is_no_report() -> None:
    assert decode_report(encode_report(PULSE)[:40]) is None


def test_a_pulse_sums_up() -> None:
    assert PULSE.totals == Totals(handled=7, failed=2, dead=1)
    assert PULSE.has_committed


def test_a_plan_comes_back_as_it_was() -> None:
    operators = (
        OperatorCursors(CursorName("bids", "g", "w"), "totals"),
        OperatorCursors(CursorName("bids", "g", "v"), None),
    )
    plan = AppPlan(
        "app:stream", "/here", (TopicGroup("orders", "g", ("h",), (CursorName("orders", "g", None),), 2),), operators
    )
    assert AppPlan.from_json(plan.to_json()) == plan


def test_a_session_that_is_renewed_in_time_has_not_lapsed() -> None:
    assert PULSE.find_lapse(8_000) is None


def test_a_session_has_lapsed_where_its_process_tells_nothing_for_longer_than_its_lease() -> None:
    assert PULSE.find_lapse(10_400) == "its session is not renewed, and others may take what it holds for 2 s"


def test_a_session_that_can_not_be_lost_does_not_lapse() -> None:
    assert replace(PULSE, lease_left_ms=None).find_lapse(60_000) is None


def test_a_report_with_fields_of_another_version_is_read() -> None:
    ((kind, fields),) = json.loads(encode_report(PULSE)).items()
    fields["of_a_newer_version"] = {"a": 1}
    fields["subscriptions"][0]["counters"]["more"] = 7
    del fields["unread"], fields["busy"][0]["state"]
    assert decode_report(json.dumps({kind: fields}).encode()) == PULSE


def test_a_report_of_an_unknown_kind_is_none() -> None:
    assert decode_report(b'{"Novelty": {}}\n') is None


def test_a_report_that_can_not_be_read_is_none_and_the_log_names_the_field(caplog: pytest.LogCaptureFixture) -> None:
    ((kind, fields),) = json.loads(encode_report(PULSE)).items()
    fields["subscriptions"][0]["counters"]["processed"] = "7"
    assert decode_report(json.dumps({kind: fields}).encode()) is None
    assert "Pulse: subscriptions[0].counters.processed is '7', not of type int" in caplog.text


def test_a_report_that_lacks_a_field_without_a_default_names_it(caplog: pytest.LogCaptureFixture) -> None:
    assert decode_report(b'{"Pulse": {"stage": "running"}}') is None
    assert "Pulse: loop_silent_ms is missing" in caplog.text
