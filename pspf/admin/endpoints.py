"""Endpoints that read: each function is one endpoint, and the first line of its docstring is its line in /docs."""

import time
from collections.abc import Sequence, Set
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pspf import __version__
from pspf.admin.context import AdminContext
from pspf.admin.http_error import HttpError
from pspf.admin.letters import MAX_LISTED
from pspf.admin.metrics import render
from pspf.admin.parameters import number_of, text_of
from pspf.connectors.contract.values import TopicInfo
from pspf.connectors.views import LetterFilter, as_json_entry, as_json_whole
from pspf.observability.snapshots import HandlerShape
from pspf.observability.telemetry import HandlerCounters
from pspf.observability.worker_status import ProcessStatus
from pspf.records import DEAD_LETTER_SUFFIX, LATE_SUFFIX

_MAX_LETTERS: Final = 1_000
_MAX_ENTRIES: Final = 1_000


async def health(desk: AdminContext, request: Request) -> Response:
    """Whether the worker lives: 200, or 503 where it has not reported for 10 s."""
    try:
        seen = desk.link.look()
    except HttpError as trouble:
        return JSONResponse({"status": "error", "reason": trouble.text}, 503)
    if not seen.is_fresh:
        reason = f"the worker has said nothing for {seen.age_ms / 1000:.1f} s"
        return JSONResponse({"status": "error", "reason": reason}, 503)
    return JSONResponse({"status": "ok", "version": __version__})


async def ready(desk: AdminContext, request: Request) -> Response:
    """Whether all processes do their work and the broker answers: 200, or 503 and why not. Slow handlers may be."""
    seen = desk.link.look()
    status = seen.snapshot.status
    why = list(status.why)
    trouble = await desk.broker.find_trouble()
    if trouble is not None:
        why.append(f"the broker does not answer: {trouble.text}")
    if not seen.is_fresh:
        why.append(f"the worker has said nothing for {seen.age_ms / 1000:.1f} s")
    is_ready = status.ready and seen.is_fresh and trouble is None
    return JSONResponse({"ready": is_ready, "state": status.state, "why": why}, 200 if is_ready else 503)


async def metrics(desk: AdminContext, request: Request) -> Response:
    """All metrics of the worker's processes, for Prometheus or as OpenMetrics."""
    try:
        seen = desk.link.look()
    except HttpError:
        seen = None
    lag = None
    if seen is not None:
        try:
            lag = await desk.broker.read_lag(seen.snapshot.handlers)
        except HttpError:
            lag = None  # pspf_broker_up says so
    content, content_type = render(seen, lag, broker=desk.spec.broker, accept=request.headers.get("accept", ""))
    return Response(content, headers={"Content-Type": content_type})


async def status(desk: AdminContext, request: Request) -> Response:
    """The worker: its state, and of each process what it consumes, has in hand and last ended of."""
    seen, spec = desk.link.look(), desk.spec
    return JSONResponse(
        {
            "worker": spec.worker,
            "version": __version__,
            "host": spec.host,
            "pid": spec.pid,
            "app": spec.app,
            "started_ms": spec.started_ms,
            "age_ms": seen.age_ms,
            "broker": {
                "name": desk.broker.name,
                "connected": desk.broker.is_connected,
                "error": desk.broker.error,
            },
            "log_level": seen.snapshot.level,
            **seen.snapshot.status.as_fields(),
        }
    )


async def topology(desk: AdminContext, request: Request) -> Response:
    """Handlers and the topics that they read and write, with counts since the worker started."""
    snapshot = desk.link.look().snapshot
    try:
        topics = await desk.broker.read_topics()
    except HttpError:
        topics = {}
    counters = {each.key: each for each in snapshot.counters}
    handlers = [(shape, counters.get(shape.key) or HandlerCounters(*shape.key)) for shape in snapshot.handlers]
    roles = {topic: "source" for shape, _ in handlers for topic in shape.topics}
    for shape, counts in handlers:
        for topic in (*_emits(shape, counts), *((shape.to,) if shape.to else ())):
            roles.setdefault(topic, "output")
    for shape, _ in handlers:
        for topic in shape.topics:
            roles.setdefault(topic + DEAD_LETTER_SUFFIX, "dlq")
            if shape.window is not None:
                roles.setdefault(topic + LATE_SUFFIX, "late")
    return JSONResponse(
        {
            "app": desk.spec.app,
            "broker": desk.broker.name,
            "topics": [_topic(name, role, topics.get(name)) for name, role in roles.items()],
            "handlers": [_handler(shape, counts, snapshot.status.processes) for shape, counts in handlers],
        }
    )


def _topic(name: str, role: str, info: TopicInfo | None) -> dict[str, Any]:
    return {
        "topic": name,
        "role": role,
        "partitions": None if info is None else info.partitions,
        "records": None if info is None else info.records,
    }


def _emits(shape: HandlerShape, counters: HandlerCounters) -> list[str]:
    """Return the topics that a handler has emitted to, beside the one that its window's results go to."""
    return [topic for topic in counters.emits if topic != shape.to]


def _handler(shape: HandlerShape, counters: HandlerCounters, all_processes: Sequence[ProcessStatus]) -> dict[str, Any]:
    processes = [process for process in all_processes if process.may_run(shape.topic, shape.group)]
    rates = [each.rate for process in processes for each in process.subscriptions if each.key == shape.key]
    busy = [each.for_ms for process in processes for each in process.busy if each.key == shape.key]
    return {
        "handler": shape.handler,
        "topic": shape.topic,
        "topics": list(shape.topics),
        "group": shape.group,
        "ordering": shape.ordering,
        "model": shape.model,
        "window": shape.window,
        "to": shape.to,
        "emits": _emits(shape, counters),
        "concurrency": shape.concurrency,
        "processes": len(processes),
        "running": sum(1 for process in processes if process.state == "running"),
        "processed": counters.processed,
        "failed": counters.failed,
        "retried": counters.retried,
        "dead": counters.dead,
        "late": counters.late,
        "batches": counters.batches,
        "rate": round(sum(rates), 1),
        "last_commit_ms": counters.last_commit_ms,
        "busy_ms": max(busy, default=0),
    }


async def lag(desk: AdminContext, request: Request) -> Response:
    """Records and seconds that each group of the app is behind, for autoscalers; at most a second old."""
    group, topic = text_of(request, "group"), text_of(request, "topic")
    handlers = desk.link.look().snapshot.handlers
    found = await desk.broker.read_lag(handlers)
    views = [each.view for each in found.groups]
    # A name with a typo would have no lag for ever, and an autoscaler take all workers away.
    _check_known("group", group, {each.group for each in handlers})
    _check_known("topic", topic, {each.topic for each in handlers} | {each.topic for each in views})
    groups = [each for each in found.groups if group in (None, each.view.group) and topic in (None, each.view.topic)]
    lags = [each.view.lag for each in groups]
    ages = [each.worst_seconds for each in groups]
    return JSONResponse(
        {
            "groups": [each.as_json() for each in groups],
            "lag": None if None in lags else sum(lag for lag in lags if lag is not None),
            "lag_seconds": None if None in ages else max((age for age in ages if age is not None), default=0.0),
            "age_ms": round((time.monotonic() - found.read_at) * 1000),
        }
    )


def _check_known(what: str, name: str | None, known: Set[str]) -> None:
    """Raise Trouble 404 where a name is given that the app does not have."""
    if name is not None and name not in known:
        raise HttpError(404, f"this app has no {what} {name!r:.80}; there is {', '.join(sorted(known))}")


async def state(desk: AdminContext, request: Request) -> Response:
    """What an ordered handler remembers, of one record key where `key` is given."""
    limit = number_of(request, "limit", default=100, most=_MAX_ENTRIES)
    entries = await desk.broker.find_state(
        request.path_params["handler"],
        group=text_of(request, "group"),
        key=text_of(request, "key"),
        name=text_of(request, "name"),
        max_entries=limit + 1,
    )
    return JSONResponse(
        {"state": [as_json_entry(entry) for entry in entries[:limit]], "truncated": len(entries) > limit}
    )


async def dlq(desk: AdminContext, request: Request) -> Response:
    """Dead letters, the newest first, and how many there are of each error. The newest 10,000 can be listed."""
    limit = number_of(request, "limit", default=100, most=_MAX_LETTERS)
    offset = number_of(request, "offset", default=0, most=MAX_LISTED)
    choice = LetterFilter(
        text_of(request, "topic"), text_of(request, "group"), text_of(request, "handler"), text_of(request, "error")
    )
    found = await desk.broker.read_digest(choice)
    return JSONResponse(
        {
            "dead_letters": found.newest[offset : offset + limit],
            "total": found.total,
            "by_error": [
                {"error_type": error_type, "handler": handler, "topic": topic, "count": count}
                for (error_type, handler, topic), count in found.counts.most_common(100)
            ],
        }
    )


async def dead_letter(desk: AdminContext, request: Request) -> Response:
    """One dead letter, whole: the event, the error and where it was raised."""
    letter = await desk.broker.read_letter(request.path_params["topic"], request.path_params["id"])
    return JSONResponse(as_json_whole(letter))


async def page(desk: AdminContext, request: Request) -> Response:
    """The dashboard."""
    name = request.path_params.get("name", "index.html")
    found = desk.pages.get(name)
    if found is None:
        raise HttpError(404, f"no {request.url.path}")
    return Response(found.content, headers={"Content-Type": found.content_type})
