"""Subscriptions of an app as rows, JSON, Mermaid and Graphviz."""

from collections.abc import Iterator, Sequence
from typing import Any

from pspf.cli.console import Cell, format_span, format_time
from pspf.clock import SystemClock
from pspf.events.topic import DeclaredTopic, describe_retention
from pspf.records import DEAD_LETTER_SUFFIX
from pspf.subscription import Subscription, repartition_topic
from pspf.windowing.schedules.schedule import Schedule


def as_row(subscription: Subscription) -> tuple[Cell, ...]:
    """Return the cells of `pspf show`."""
    s = subscription
    batch = "adaptive" if s.batch_size is None else str(s.batch_size)
    timeout = "none" if s.timeout_ms is None else format_span(s.timeout_ms)
    ordering = str(s.operator) if s.operator is not None else s.ordering if s.key is None else f"key {name_of(s.key)}"
    if (schedule := schedule_of(s)) is not None:
        ordering = str(schedule)
    topics, attempts = ", ".join(s.topics), s.retry.max_attempts
    return s.name, topics, s.group, ordering, _model(s), batch, s.concurrency, attempts, timeout


def as_json_handler(subscription: Subscription) -> dict[str, Any]:
    """Return what `pspf show --json` has for it.

    `batch_size` null adapts, `timeout_ms` null waits for ever, `window` null: it is no windowed handler, `schedule`
    null: it is none.
    """
    s = subscription
    return {
        "handler": s.name,
        "topic": s.topic,
        "topics": list(s.topics),
        "group": s.group,
        "ordering": s.ordering,
        "key": name_of(s.key),
        "repartition": hop_of(s),
        "model": _model(s),
        "batch_size": s.batch_size,
        "concurrency": s.concurrency,
        "timeout_ms": s.timeout_ms,
        "start": s.start,
        "window": _window(s),
        "schedule": None if (schedule := schedule_of(s)) is None else schedule.as_json(_now_ms()),
        "retry": {
            "max_attempts": s.retry.max_attempts,
            "initial_ms": s.retry.initial_ms,
            "max_ms": s.retry.max_ms,
            "jitter": s.retry.jitter,
        },
    }


def schedule_of(subscription: Subscription) -> Schedule | None:
    """Return the schedule whose function a subscription runs, None where it is a handler of records."""
    return None if subscription.timers is None else subscription.timers.schedule


def as_schedule_row(subscription: Subscription) -> tuple[Cell, ...]:
    """Return the cells of a schedule in `pspf show`: its next time by the clock of this machine."""
    schedule = schedule_of(subscription)
    assert schedule is not None
    next_ms = schedule.times.after(_now_ms())
    return subscription.name, str(schedule), schedule.catch_up, format_time(next_ms)


def _now_ms() -> int:
    return SystemClock().now_ms()


def as_json_topic(topic: DeclaredTopic) -> dict[str, Any]:
    """Return what `pspf show --json` has for a declared topic; null is what it does not say."""
    return {
        "topic": str(topic),
        "partitions": topic.partitions,
        "retention_ms": topic.retention_ms,
        "key": name_of(topic.key),
        "schema": None if topic.schema is None else getattr(topic.schema, "__name__", str(topic.schema)),
    }


def as_topic_row(topic: DeclaredTopic) -> tuple[Cell, ...]:
    """Return the cells of a declared topic in `pspf show`."""
    retention = None if topic.retention_ms is None else describe_retention(topic.retention_ms)
    return str(topic), topic.partitions, retention, name_of(topic.key), as_json_topic(topic)["schema"]


def name_of(key: object) -> str | None:
    """Return the field, or the name of the function, that a key is read by."""
    return key if key is None or isinstance(key, str) else getattr(key, "__name__", "a function")


def as_mermaid(subscriptions: Sequence[Subscription]) -> Iterator[str]:
    """Yield the lines of a Mermaid flowchart: topics, handlers, dead letters."""
    yield "flowchart LR"
    topics = _topics(subscriptions)
    for topic, number in topics.items():
        yield f'  t{number}[("{topic}")]'
    for number, s in enumerate(subscriptions):
        yield f'  h{number}["{s.name}<br/>group {s.group}"]'
        for topic in s.topics:
            yield f"  t{topics[topic]} {'==>' if s.is_ordered else '-->'} h{number}"
        if hop := hop_of(s):
            yield f"  t{topics[s.topic]} -. with several partitions .-> t{topics[hop]}"
            yield f"  t{topics[hop]} ==> h{number}"
        for topic in s.topics:
            yield f"  h{number} -.-> t{topics[topic + DEAD_LETTER_SUFFIX]}"
        if s.operator is not None and s.operator.to is not None:
            yield f"  h{number} --> t{topics[s.operator.to]}"


def as_dot(subscriptions: Sequence[Subscription]) -> Iterator[str]:
    """Yield the lines of a Graphviz digraph: topics, handlers, dead letters."""
    yield "digraph pspf {"
    yield "  rankdir=LR;"
    topics = _topics(subscriptions)
    for topic, number in topics.items():
        yield f'  t{number} [label="{topic}", shape=cylinder];'
    for number, s in enumerate(subscriptions):
        yield f'  h{number} [label="{s.name}\\ngroup {s.group}", shape=box];'
        for topic in s.topics:
            yield f"  t{topics[topic]} -> h{number}{' [penwidth=2]' if s.is_ordered else ''};"
        if hop := hop_of(s):
            yield f'  t{topics[s.topic]} -> t{topics[hop]} [style=dashed, label="with several partitions"];'
            yield f"  t{topics[hop]} -> h{number} [penwidth=2];"
        for topic in s.topics:
            yield f"  h{number} -> t{topics[topic + DEAD_LETTER_SUFFIX]} [style=dashed];"
        if s.operator is not None and s.operator.to is not None:
            yield f"  h{number} -> t{topics[s.operator.to]};"
    yield "}"


def _topics(subscriptions: Sequence[Subscription]) -> dict[str, int]:
    """Return a number for each topic, its dead letters and where results go, in order of appearance."""
    names: dict[str, None] = {}
    for s in subscriptions:
        names |= dict.fromkeys(name for topic in s.topics for name in (topic, topic + DEAD_LETTER_SUFFIX))
        if s.operator is not None and s.operator.to is not None:
            names[s.operator.to] = None
        if hop := hop_of(s):
            names[hop] = None
    return {name: number for number, name in enumerate(names)}


def _window(subscription: Subscription) -> dict[str, Any] | None:
    operator = subscription.operator
    return None if operator is None else operator.as_json() | {"repartition": hop_of(subscription)}


def hop_of(subscription: Subscription) -> str | None:
    """Return the internal topic that records go through where their topic has several partitions, None without one."""
    if subscription.grouping_key is None:
        return None
    return repartition_topic(subscription.group, subscription.name)


def _model(subscription: Subscription) -> str | None:
    model = subscription.model
    return None if model is None else getattr(model, "__name__", str(model))
