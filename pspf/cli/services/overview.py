"""Overview for `pspf top`: activity of all workers by handler, from the roster and the groups."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from pspf.cli.services.lag import GroupView, read_groups
from pspf.cli.services.roster import read_workers, remarks_on
from pspf.connectors.contract.broker import Broker
from pspf.observability.worker_status import HandlerStatus, ProcessStatus
from pspf.records import DEAD_LETTER_SUFFIX

NOBODY: Final = "no worker"
STANDBY: Final = "standing by"

_WORST_FIRST: Final = ("crashing", "stalled", "starting", "draining", "paused", "running")
"""The state to show of several processes, worst first."""


@dataclass(frozen=True, slots=True)
class HandlerView:
    """One handler on one topic, in all processes together.

    `state` is the worst of its processes', or `no worker`; `handler` is None where a group of the shared mode
    has no worker that could name one. `partitions` are those of the topic that the handler's processes hold,
    of `of_partitions`. `rate` is events a second; `processed`, `failed` runs and `dead` count since the
    processes started. `watermark_delay_ms` is how far the watermark lies behind the clock, None without one.
    """

    handler: str | None
    topic: str
    group: str
    ordering: str
    state: str = NOBODY
    processes: int = 0
    partitions: int = 0
    of_partitions: int = 0
    rate: float = 0.0
    lag: int | None = None
    pending: int = 0
    watermark_delay_ms: int | None = None
    processed: int = 0
    failed: int = 0
    dead: int = 0
    last_commit_ms: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Return what `top --json` has for it."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Overview:
    """A broker at `at_ms`: its handlers by topic, and how many dead letters each topic has (only where there are)."""

    broker: str
    at_ms: int
    workers: int
    processes: int
    handlers: Sequence[HandlerView]
    dead_letters: Mapping[str, int]
    remarks: Sequence[str] = ()

    @property
    def rate(self) -> float:
        """Events a second, of all handlers."""
        return round(sum(each.rate for each in self.handlers), 1)

    @property
    def lag(self) -> int | None:
        """Records not finished, of all groups; None where one is unknown. Handlers of a shared group count once."""
        lags = {
            (each.topic, each.group, each.handler if each.ordering == "key" else None): each.lag
            for each in self.handlers
        }
        return None if None in lags.values() else sum(lag for lag in lags.values() if lag is not None)

    def only(self, topics: Sequence[str]) -> "Overview":
        """Return the part that belongs to these topics; all of it where none are named."""
        if not topics:
            return self
        return replace(
            self,
            handlers=[each for each in self.handlers if each.topic in topics],
            dead_letters={topic: count for topic, count in self.dead_letters.items() if topic in topics},
        )

    def as_json(self) -> dict[str, Any]:
        """Return what `top --json` prints."""
        return {
            "broker": self.broker,
            "at_ms": self.at_ms,
            "workers": self.workers,
            "processes": self.processes,
            "rate": self.rate,
            "lag": self.lag,
            "handlers": [each.as_json() for each in self.handlers],
            "dead_letters": dict(self.dead_letters),
            "remarks": list(self.remarks),
        }


async def read_overview(broker: Broker) -> Overview:
    """Return what there is now: three or four small reads, whatever is stored."""
    workers = await read_workers(broker)
    groups = await read_groups(broker)
    topics = await broker.list_topics()
    at_ms = time.time_ns() // 1_000_000
    processes = [process for worker in workers for process in worker.processes]
    return Overview(
        broker=broker.name,
        at_ms=at_ms,
        workers=len(workers),
        processes=len(processes),
        handlers=view_handlers(processes, groups, at_ms),
        dead_letters={
            info.topic.removesuffix(DEAD_LETTER_SUFFIX): info.records
            for info in topics
            if info.topic.endswith(DEAD_LETTER_SUFFIX) and info.records
        },
        remarks=remarks_on(workers),
    )


def view_handlers(processes: Iterable[ProcessStatus], groups: Sequence[GroupView], at_ms: int) -> Sequence[HandlerView]:
    """Return the handlers of the processes and of the groups, by topic, group and name."""
    by_name = {(group.topic, group.group, group.handler): group for group in groups}
    views: dict[tuple[str, str, str | None], HandlerView] = {}
    for process in processes:
        for each in process.subscriptions:
            view = views.get(each.key) or HandlerView(each.handler, each.topic, each.group, "none")
            views[each.key] = _with_process(view, process, each)
        if not process.subscriptions:
            _note_state(views, by_name, process)
    covered = set()
    for (topic, group, handler), view in list(views.items()):
        name = (topic, group, handler if (topic, group, handler) in by_name else None)
        if name in by_name:
            covered.add(name)
            views[topic, group, handler] = _with_group(view, by_name[name], at_ms)
    for (topic, group, handler), found in by_name.items():
        if (topic, group, handler) not in covered:
            views[topic, group, handler] = _with_group(HandlerView(handler, topic, group, "none"), found, at_ms)
    return [views[key] for key in sorted(views, key=lambda key: (key[0], key[1], key[2] or ""))]


def _with_process(view: HandlerView, process: ProcessStatus, each: HandlerStatus) -> HandlerView:
    """Return the view with one more process of its handler."""
    commits = [at_ms for at_ms in (view.last_commit_ms, each.last_commit_ms) if at_ms is not None]
    return replace(
        view,
        state=_worst(view.state, process.state),
        processes=view.processes + 1,
        partitions=view.partitions + len(each.partitions),
        rate=round(view.rate + each.rate, 1),
        processed=view.processed + each.processed,
        failed=view.failed + each.failed,
        dead=view.dead + each.dead,
        last_commit_ms=max(commits, default=None),
    )


def _note_state(
    views: dict[tuple[str, str, str | None], HandlerView],
    groups: Mapping[tuple[str, str, str | None], GroupView],
    process: ProcessStatus,
) -> None:
    """Let a process without subscriptions (paused, crashing, ...) count for the handlers of its topic and group."""
    keys = [key for key in {**groups, **views} if process.may_run(key[0], key[1])]
    named = [key for key in keys if key in views] or keys
    for key in named:
        view = views.get(key) or HandlerView(key[2], key[0], key[1], "none")
        views[key] = replace(view, state=_worst(view.state, process.state), processes=view.processes + 1)


def _with_group(view: HandlerView, group: GroupView, at_ms: int) -> HandlerView:
    """Return the view with what the broker knows of its group."""
    marks = [cursor.watermark_ms for cursor in group.cursors if cursor.watermark_ms is not None]
    commits = [at for at in (view.last_commit_ms, *(c.last_commit_ms for c in group.cursors)) if at is not None]
    partitions = min(view.partitions, len(group.cursors))
    is_idle = view.state == "running" and group.ordering == "key" and partitions == 0
    return replace(
        view,
        ordering=group.ordering,
        state=STANDBY if is_idle else view.state,
        partitions=partitions,
        of_partitions=len(group.cursors),
        lag=group.lag,
        pending=group.pending,
        watermark_delay_ms=max(0, at_ms - min(marks)) if marks else None,
        last_commit_ms=max(commits, default=None),
    )


def _worst(one: str, other: str) -> str:
    """Return the state to tell of two."""
    return min((one, other), key=lambda state: _WORST_FIRST.index(state) if state in _WORST_FIRST else 99)
