"""Histograms, and what they are told of a batch."""

from pspf.observability.instruments import HANDLER_US, Distribution, Histogram
from pspf.observability.telemetry import BatchTimes, HandlerCounters, TelemetryManager


def test_a_value_counts_below_the_first_bound_that_holds_it() -> None:
    histogram = Histogram((10, 100))
    for value in (0, 10, 11, 100, 101):
        histogram.add(value)
    assert histogram.read() == Distribution((2, 2, 1), 222)


def test_events_share_the_mean_of_their_batch() -> None:
    histogram = Histogram((10, 100))
    histogram.add_shared(201, 4)
    assert histogram.read() == Distribution((0, 4, 0), 201)


def test_distributions_add_up() -> None:
    assert Distribution((1, 2), 5) + Distribution((0, 1), 7) == Distribution((1, 3), 12)


def test_a_batch_is_told_in_events_and_commits() -> None:
    telemetry = TelemetryManager()
    telemetry.record_batch(
        "orders", "g", "h", processed=3, commit_ms=9, times=BatchTimes(4, 400, 2_000, 3, oldest_ms=90, newest_ms=20)
    )
    (counters,) = telemetry.snapshot()
    assert (sum(counters.handler_us.counts), counters.handler_us.total) == (4, 400)
    assert (sum(counters.batch_events.counts), counters.batch_events.total) == (1, 4)
    assert (sum(counters.commit_us.counts), counters.commit_us.total) == (1, 2_000)
    assert (sum(counters.end_to_end_ms.counts), counters.end_to_end_ms.total) == (3, 90 + 90 + 20)


def test_a_commit_of_nothing_but_closed_windows_has_no_events() -> None:
    telemetry = TelemetryManager()
    telemetry.record_batch("orders", "g", "h", commit_ms=9, times=BatchTimes(0, 0, 2_000, 0, 0, 0))
    (counters,) = telemetry.snapshot()
    assert (sum(counters.commit_us.counts), sum(counters.batch_events.counts)) == (1, 0)
    assert counters.handler_us == Distribution.empty(HANDLER_US)


def test_a_record_from_the_future_is_no_negative_age() -> None:
    telemetry = TelemetryManager()
    telemetry.record_batch("orders", "g", "h", times=BatchTimes(1, 1, 1, 1, oldest_ms=-5, newest_ms=-5))
    assert telemetry.snapshot()[0].end_to_end_ms.total == 0


def test_the_topics_that_commits_wrote_to_are_few() -> None:
    telemetry = TelemetryManager()
    telemetry.record_batch("orders", "g", "h", emits=[f"t{n:03}" for n in range(50)])
    telemetry.record_batch("orders", "g", "h", emits=["t000", "late"])
    assert telemetry.snapshot()[0].emits == tuple(f"t{n:03}" for n in range(20))


def test_counters_of_two_processes_add_up() -> None:
    first = HandlerCounters("orders", "g", "h", 3, 1, 1, 0, 0, 2, 50, 1, ("a",))
    second = HandlerCounters("orders", "g", "h", 4, 0, 0, 1, 2, 1, None, 0, ("b",))
    assert first + second == HandlerCounters("orders", "g", "h", 7, 1, 1, 1, 2, 3, 50, 1, ("a", "b"))
