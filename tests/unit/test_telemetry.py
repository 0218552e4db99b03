"""Counters."""

import threading

from pspf.observability.telemetry import HandlerCounters, TelemetryManager


def test_batches_add_up_by_handler() -> None:
    telemetry = TelemetryManager()
    assert telemetry.snapshot() == ()
    telemetry.record_batch("orders", "g", "b", processed=3, failed=1, retried=1, commit_ms=5)
    telemetry.record_batch("orders", "g", "a", late=2)
    telemetry.record_batch("orders", "g", "b", processed=2, dead=1, commit_ms=7)
    assert telemetry.snapshot() == (
        HandlerCounters("orders", "g", "a", 0, 0, 0, 0, 2, 0, None),
        HandlerCounters("orders", "g", "b", 5, 1, 1, 1, 0, 2, 7),
    )


def test_a_snapshot_does_not_change() -> None:
    telemetry = TelemetryManager()
    telemetry.record_batch("orders", "g", "a", processed=1)
    before = telemetry.snapshot()
    telemetry.record_batch("orders", "g", "a", processed=1)
    assert before[0].processed == 1


def test_making_one_starts_no_thread() -> None:
    before = threading.active_count()
    TelemetryManager()
    assert threading.active_count() == before
