"""What a scrape shows of a snapshot."""

import re
from collections.abc import Sequence

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from pspf.admin.broker import GroupLag, Lag
from pspf.admin.link import Seen
from pspf.admin.metrics import METRICS, render
from pspf.connectors.contract.values import CursorInfo
from pspf.connectors.views import GroupView
from pspf.observability.instruments import HANDLER_US, Histogram
from pspf.observability.snapshots import HandlerShape, Snapshot
from pspf.observability.telemetry import HandlerCounters
from pspf.observability.worker_status import WorkerStatus
from pspf.records import Cursor

TOTAL = HandlerShape("app.total", "orders", "billing", "key", "Order", None, None, 1)
GONE = ("orders", "billing", "app.old")


def seen(*counters: HandlerCounters, processes: Sequence[dict[str, object]] = (), age_ms: int = 0) -> Seen:
    status = WorkerStatus.from_fields({"state": "running", "ready": True, "processes": list(processes)})
    return Seen(Snapshot(status, counters, (("orders", "billing", 2),), (TOTAL,), "INFO"), age_ms)


def lag(unread: int | None, seconds: float | None, watermark_delay_ms: int | None = None) -> Lag:
    cursor = Cursor("orders", "billing", "app.total", 0)
    info = CursorInfo(cursor, 1, 1 + (unread or 0), unread, 1, 0, 2)
    view = GroupView("billing", "orders", "app.total", [info], ())
    return Lag([GroupLag(view, TOTAL, {0: seconds}, watermark_delay_ms)])


def scrape(of: Seen | None, behind: Lag | None = None) -> dict[str, list[Sample]]:
    """Return the samples by name, as a Prometheus reads them."""
    content, content_type = render(of, behind, broker="sqlite:///b.db", accept="")
    assert content_type.startswith("text/plain")
    found: dict[str, list[Sample]] = {}
    for family in text_string_to_metric_families(content.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample)
    return found


def test_every_metric_is_there_before_anything_has_happened() -> None:
    names = {re.sub("_(bucket|count|sum)$", "", name) for name in scrape(seen(), lag(0, 0, 0))}
    assert names == set(METRICS)


@pytest.mark.parametrize("version", ["abc", "1", "", "0.0.1", "1.0.0", "1.x.0", "99999999999999999999", "-1", "\xff"])
@pytest.mark.parametrize("kind", ["application/openmetrics-text", "text/plain", "*/*"])
def test_whatever_a_client_says_it_accepts_it_gets_metrics(kind: str, version: str) -> None:
    content, content_type = render(seen(), None, broker="memory://", accept=f"{kind}; version={version};q=0.5, ;;=")
    assert b"pspf_up 1.0" in content
    assert content_type.startswith(("text/plain", "application/openmetrics-text"))


def test_outcomes_of_runs_are_disjoint() -> None:
    counters = HandlerCounters(*TOTAL.key, processed=10, failed=5, retried=3, dead=2, late=4)
    events = {sample.labels["status"]: sample.value for sample in scrape(seen(counters))["pspf_events_total"]}
    assert events == {"processed": 6, "retried": 3, "dead": 2, "late": 4}


def test_a_histogram_s_buckets_add_up_in_seconds() -> None:
    histogram = Histogram(HANDLER_US)
    for value in (5, 70, 70, 90_000_000):
        histogram.add(value)
    found = scrape(seen(HandlerCounters(*TOTAL.key, handler_us=histogram.read())))
    buckets = {sample.labels["le"]: sample.value for sample in found["pspf_handler_seconds_bucket"]}
    assert (buckets["1e-05"], buckets["0.0001"], buckets["60.0"], buckets["+Inf"]) == (1, 3, 3, 4)
    assert found["pspf_handler_seconds_count"][0].value == 4
    assert found["pspf_handler_seconds_sum"][0].value == 90.000145


def test_the_series_are_the_same_whatever_was_counted() -> None:
    busy = {"topic": "orders", "group": "billing", "handler": "app.total", "for_ms": 2_000}
    full = scrape(
        seen(HandlerCounters(*TOTAL.key, 9, 9, 9, 9, 9, 9, 9, 9), processes=[{"state": "running", "busy": [busy]}])
    )
    empty = scrape(seen())
    assert {name: [s.labels for s in samples] for name, samples in full.items()} == {
        name: [s.labels for s in samples] for name, samples in empty.items()
    }
    assert full["pspf_busy_seconds"][0].value == 2.0


def test_a_handler_that_the_app_no_longer_has_keeps_its_counts() -> None:
    found = scrape(seen(HandlerCounters(*GONE, processed=5)))
    counts = {(s.labels["handler"], s.labels["status"]): s.value for s in found["pspf_events_total"]}
    assert (counts["app.old", "processed"], counts["app.total", "processed"]) == (5, 0)


def test_processes_are_counted_by_state() -> None:
    found = scrape(seen(processes=[{"state": state, "busy": []} for state in ("running", "running", "crashing")]))
    states = {sample.labels["state"]: sample.value for sample in found["pspf_processes"]}
    assert (states["running"], states["crashing"], states["paused"]) == (2, 1, 0)
    assert found["pspf_worker_restarts_total"][0].value == 2


def test_lag_is_told_where_it_is_known() -> None:
    known, unknown = scrape(seen(), lag(5, 1.5, 2_500)), scrape(seen(), lag(None, None))
    assert known["pspf_lag_events"][0].value == 8
    assert known["pspf_lag_seconds"][0].value == 1.5
    assert known["pspf_watermark_delay_seconds"][0].value == 2.5
    assert known["pspf_pending"][0].value == unknown["pspf_pending"][0].value == 3
    assert "pspf_lag_events" not in unknown
    assert "pspf_lag_seconds" not in unknown


def test_a_worker_that_is_silent_is_down_and_its_counts_stay() -> None:
    found = scrape(seen(HandlerCounters(*TOTAL.key, processed=5), age_ms=60_000))
    assert (found["pspf_up"][0].value, found["pspf_ready"][0].value) == (0, 0)
    assert found["pspf_events_total"][0].value == 5


def test_a_name_with_quotes_and_lines_can_not_forge_a_series() -> None:
    odd = HandlerCounters("orders", "billing", 'x"} 1\npspf_up 7 {a="\\')
    found = scrape(seen(odd))
    assert [sample.value for sample in found["pspf_up"]] == [1]
    assert odd.handler in {sample.labels["handler"] for sample in found["pspf_retries_total"]}


def test_openmetrics_is_spoken_where_it_is_asked_for() -> None:
    content, content_type = render(seen(), None, broker="memory://", accept="application/openmetrics-text")
    assert content_type.startswith("application/openmetrics-text")
    assert content.endswith(b"# EOF\n")
