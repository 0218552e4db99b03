"""Metrics of a worker in Prometheus's formats, built from a snapshot and the lag; nothing is counted here.

Labels are topic, group and handler alone, so that the number of series depends on the app and on
nothing that it reads. Counts cover the worker's life, with its processes that ended.
"""

import platform
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from pspf import __version__
from pspf.admin.broker import Lag
from pspf.admin.link import Seen
from pspf.observability.instruments import BATCH_EVENTS, COMMIT_US, END_TO_END_MS, HANDLER_US, Distribution
from pspf.observability.snapshots import HandlerShape
from pspf.observability.telemetry import HandlerCounters
from pspf.observability.worker_status import ProcessStatus

HANDLER: Final = ("topic", "group", "handler")
STATES: Final = ("starting", "running", "stalled", "draining", "crashing", "paused")

METRICS: Final = {
    "pspf_events_total": "Outcomes of handler runs: processed, retried (put off), dead, late.",
    "pspf_handler_seconds": "Time in the handler, per event; each counts with its batch's mean.",
    "pspf_batch_events": "Events in a batch.",
    "pspf_commit_seconds": "Time that a commit took.",
    "pspf_end_to_end_seconds": "From a record's timestamp to the commit that finished it, per event.",
    "pspf_retries_total": "Runs that failed and were put off for a retry.",
    "pspf_dead_letters_total": "Records that were given up.",
    "pspf_late_total": "Records that came too late for all of their windows.",
    "pspf_lease_losses_total": "Cursors that another worker took over.",
    "pspf_worker_restarts_total": "Processes that crashed, or were stuck, and were replaced.",
    "pspf_last_commit_timestamp_seconds": "When the handler last committed, 0 before the first time.",
    "pspf_busy_seconds": "For how long the longest batch has been in a handler's hands.",
    "pspf_processes": "Processes of this worker by state.",
    "pspf_lag_events": "Records that the handler's group has not finished.",
    "pspf_lag_seconds": "For how long the oldest record that is not finished has waited.",
    "pspf_pending": "Records delivered and not finished: being handled, held back or waiting for a retry.",
    "pspf_watermark_delay_seconds": "How far the slowest watermark is behind the clock.",
    "pspf_up": "Whether the worker has reported within 10 s.",
    "pspf_ready": "Whether all processes do their work.",
    "pspf_broker_up": "Whether the broker answered this scrape.",
    "pspf_build_info": "What runs.",
}
"""All metrics by name, with their help."""


def render(seen: Seen | None, lag: Lag | None, *, broker: str, accept: str) -> tuple[bytes, str]:
    """Return the metrics and their content type; `accept` is the request's header, `broker` the broker's name.

    `seen` is None before the worker's first report, `lag` while the broker does not answer.
    """
    registry = CollectorRegistry()
    registry.register(_Families(list(_families(seen, lag, broker))))
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # it compares the version that a client asks for, whatever that is
        encode, content_type = choose_encoder("")
    return encode(registry), content_type


class _Families(Collector):
    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Sequence[Metric]:
        return self._families


def _families(seen: Seen | None, lag: Lag | None, broker: str) -> Iterator[Metric]:
    kind = re.split(r"[^a-z]", broker, maxsplit=1)[0]
    yield _gauge(
        "pspf_build_info", ("version", "python", "broker"), [((__version__, platform.python_version(), kind), 1)]
    )
    yield _gauge("pspf_broker_up", (), [((), int(lag is not None))])
    is_up = seen is not None and seen.is_fresh
    yield _gauge("pspf_up", (), [((), int(is_up))])
    is_ready = seen is not None and is_up and seen.snapshot.status.ready
    yield _gauge("pspf_ready", (), [((), int(is_ready))])
    if seen is not None:
        yield from _of_worker(seen)
    if lag is not None:
        yield from _of_groups(lag)


def _of_worker(seen: Seen) -> Iterator[Metric]:
    snapshot = seen.snapshot
    known = {each.key: each for each in snapshot.counters}
    counters = [known.pop(shape.key, HandlerCounters(*shape.key)) for shape in snapshot.handlers]
    counters += known.values()  # handlers that the app no longer has
    yield _events(counters)
    yield _counter("pspf_retries_total", HANDLER, [(each.key, each.retried) for each in counters])
    yield _counter("pspf_dead_letters_total", HANDLER, [(each.key, each.dead) for each in counters])
    yield _counter("pspf_late_total", HANDLER, [(each.key, each.late) for each in counters])
    yield _counter("pspf_lease_losses_total", HANDLER, [(each.key, each.lease_losses) for each in counters])
    yield _histogram("pspf_handler_seconds", HANDLER_US, 1e6, counters, lambda each: each.handler_us)
    yield _histogram("pspf_batch_events", BATCH_EVENTS, 1, counters, lambda each: each.batch_events)
    yield _histogram("pspf_commit_seconds", COMMIT_US, 1e6, counters, lambda each: each.commit_us)
    yield _histogram("pspf_end_to_end_seconds", END_TO_END_MS, 1e3, counters, lambda each: each.end_to_end_ms)
    yield _counter(
        "pspf_worker_restarts_total", HANDLER[:2], [((topic, group), n) for topic, group, n in snapshot.restarts]
    )
    commits = [(each.key, (each.last_commit_ms or 0) / 1000) for each in counters]
    yield _gauge("pspf_last_commit_timestamp_seconds", HANDLER, commits)
    yield _busy(snapshot.handlers, snapshot.status.processes)
    states = [process.state for process in snapshot.status.processes]
    yield _gauge("pspf_processes", ("state",), [((state,), states.count(state)) for state in STATES])


def _of_groups(lag: Lag) -> Iterator[Metric]:
    groups = [(each.shape.key, each) for each in lag.groups if each.shape is not None]
    yield _gauge("pspf_lag_events", HANDLER, [(key, each.view.lag) for key, each in groups])
    yield _gauge("pspf_lag_seconds", HANDLER, [(key, each.worst_seconds) for key, each in groups])
    yield _gauge("pspf_pending", HANDLER, [(key, each.view.pending) for key, each in groups])
    delays = [(key, each.watermark_delay_ms) for key, each in groups]
    yield _gauge(
        "pspf_watermark_delay_seconds", HANDLER, [(key, None if ms is None else ms / 1000) for key, ms in delays]
    )


def _events(counters: Sequence[HandlerCounters]) -> Metric:
    values = []
    for each in counters:
        outcomes = (each.processed - each.late, each.retried, each.dead, each.late)
        for status, count in zip(("processed", "retried", "dead", "late"), outcomes, strict=True):
            values.append(((*each.key, status), count))
    return _counter("pspf_events_total", (*HANDLER, "status"), values)


def _busy(shapes: Sequence[HandlerShape], processes: Sequence[ProcessStatus]) -> Metric:
    longest = dict.fromkeys((shape.key for shape in shapes), 0)
    for process in processes:
        for batch in process.busy:
            longest[batch.key] = max(longest.get(batch.key, 0), batch.for_ms)
    return _gauge("pspf_busy_seconds", HANDLER, [(key, for_ms / 1000) for key, for_ms in longest.items()])


def _counter(name: str, labels: Sequence[str], values: Sequence[tuple[Sequence[str], float]]) -> Metric:
    family = CounterMetricFamily(name, METRICS[name], labels=labels)
    for key, value in values:
        family.add_metric(key, value)
    return family


def _gauge(name: str, labels: Sequence[str], values: Sequence[tuple[Sequence[str], float | None]]) -> Metric:
    family = GaugeMetricFamily(name, METRICS[name], labels=labels)
    for key, value in values:
        if value is not None:
            family.add_metric(key, value)
    return family


def _histogram(
    name: str,
    bounds: Sequence[int],
    unit: float,
    counters: Sequence[HandlerCounters],
    read: Callable[[HandlerCounters], Distribution],
) -> Metric:
    family = HistogramMetricFamily(name, METRICS[name], labels=HANDLER)
    limits = [*(str(float(bound / unit)) for bound in bounds), "+Inf"]
    for each in counters:
        found = read(each)
        seen, buckets = 0, []
        for limit, count in zip(limits, found.counts, strict=True):
            seen += count
            buckets.append((limit, seen))
        family.add_metric(each.key, buckets, found.total / unit)
    return family
