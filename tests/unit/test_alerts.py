"""What ships for Prometheus and Grafana names only metrics and labels that there are."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pspf.admin.metrics import HANDLER, METRICS

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "pspf.json").read_text())
RULES = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]

HISTOGRAMS = {"pspf_handler_seconds", "pspf_batch_events", "pspf_commit_seconds", "pspf_end_to_end_seconds"}
EXPOSED = (METRICS.keys() - HISTOGRAMS) | {
    f"{name}_{part}" for name in HISTOGRAMS for part in ("bucket", "sum", "count")
}
LABELS = {*HANDLER, "status", "state", "le", "instance"}


def expressions(value: Any) -> Iterator[str]:
    """Yield all queries in a dashboard."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in ("expr", "definition") and isinstance(inner, str):
                yield inner
            else:
                yield from expressions(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from expressions(inner)


QUERIES = sorted({*expressions(DASHBOARD), *(rule["expr"] for rule in RULES)})


def metrics_of(query: str) -> set[str]:
    return set(re.findall(r"\bpspf_\w+", query))


def labels_of(query: str) -> set[str]:
    matched = re.findall(r"(\w+)\s*(?:=~|!=|!~|=)\s*\"", query)
    grouped = [
        name.strip() for part in re.findall(r"\b(?:by|on|without) \(([^)]*)\)", query) for name in part.split(",")
    ]
    return {*matched, *grouped}


@pytest.mark.parametrize("query", QUERIES)
def test_every_metric_and_label_of_a_query_exists(query: str) -> None:
    assert metrics_of(query)
    assert metrics_of(query) <= EXPOSED
    assert labels_of(query) <= LABELS


@pytest.mark.parametrize("query", QUERIES)
def test_counters_are_asked_for_their_increase(query: str) -> None:
    bare = re.sub(r"\b(?:rate|increase|changes|label_values)\((?:[^()]|\([^()]*\))*\)", "", query)
    assert not {name for name in metrics_of(bare) if name.endswith("_total")}


def test_the_dashboard_shows_every_metric_but_the_build() -> None:
    shown = {name for query in expressions(DASHBOARD) for name in metrics_of(query)}
    elsewhere = {"pspf_build_info", "pspf_last_commit_timestamp_seconds", "pspf_late_total"}  # late: pspf_events_total
    assert {name for name in METRICS if not any(each.startswith(name) for each in shown)} == elsewhere


def test_panels_do_not_cover_each_other() -> None:
    taken = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES) >= 10
    for rule in RULES:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description"}
