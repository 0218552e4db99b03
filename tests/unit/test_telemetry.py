"""Counters, and the trace context of what is emitted."""

import threading

import pytest

from pspf.telemetry import HandlerCounters, TelemetryManager, find_trace_context


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


def test_without_a_span_headers_stay_the_same_object() -> None:
    headers = {"a": "b"}
    for telemetry in (TelemetryManager(), TelemetryManager(read_trace_context=dict)):
        assert telemetry.inject(headers) is headers
        assert telemetry.inject(None) is None


def test_the_span_s_context_is_added_to_a_copy() -> None:
    telemetry = TelemetryManager(read_trace_context=lambda: {"traceparent": "00-1-2-01"})
    headers = {"a": "b"}
    assert telemetry.is_tracing
    assert telemetry.inject(headers) == {"a": "b", "traceparent": "00-1-2-01"}
    assert telemetry.inject(None) == {"traceparent": "00-1-2-01"}
    assert headers == {"a": "b"}


def test_a_context_of_the_caller_s_is_kept() -> None:
    telemetry = TelemetryManager(read_trace_context=lambda: {"traceparent": "00-1-2-01"})
    assert telemetry.inject({"traceparent": "own"}) == {"traceparent": "own"}


def test_opentelemetry_is_asked_where_it_is_installed() -> None:
    trace = pytest.importorskip("opentelemetry.trace")
    read = find_trace_context()
    assert read is not None
    assert read() == {}
    span = trace.NonRecordingSpan(trace.SpanContext(1, 2, is_remote=False, trace_flags=trace.TraceFlags(1)))
    with trace.use_span(span):
        assert read() == {"traceparent": f"00-{1:032x}-{2:016x}-01"}
