"""Plan of a worker, as values: handlers, processes, options. Knows no Stream."""

import difflib
import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Self

from pspf.errors import ConfigurationError
from pspf.observability.snapshots import HandlerShape
from pspf.runtime.app.work import CursorName, OperatorCursors, Work, order_operators

_MAX_PROCESSES: Final = 256


@dataclass(frozen=True, slots=True)
class TopicGroup:
    """The handlers of one topic and group, which run in the same processes."""

    topic: str
    group: str
    handlers: tuple[str, ...]
    cursors: tuple[CursorName, ...]
    processes: int = 1
    shapes: tuple[HandlerShape, ...] = ()

    @property
    def topics(self) -> frozenset[str]:
        """The topics that its handlers read: beside its own those of handlers that read several."""
        return frozenset(cursor.topic for cursor in self.cursors)

    @property
    def label(self) -> str:
        """`topic/group`, as `-w` takes it."""
        return f"{self.topic}/{self.group}"


@dataclass(frozen=True, slots=True)
class AppPlan:
    """A loaded app: `target` is MODULE:OBJECT, `folder` where its module was looked for first.

    `operators` are its windowed handlers, in the order of their declaration; `makes` are the topics that are made at
    the start where they are missing, for people.
    """

    target: str
    folder: str
    groups: tuple[TopicGroup, ...]
    operators: tuple[OperatorCursors, ...] = ()
    makes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return it as one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return what `to_json` was called on."""
        fields = json.loads(text)
        groups = tuple(
            TopicGroup(
                handlers=tuple(group.pop("handlers")),
                cursors=tuple(CursorName(**cursor) for cursor in group.pop("cursors")),
                shapes=tuple(_shape_from(shape) for shape in group.pop("shapes")),
                **group,
            )
            for group in fields.pop("groups")
        )
        operators = tuple(
            OperatorCursors(CursorName(**each.pop("cursors")), **each) for each in fields.pop("operators")
        )
        return cls(groups=groups, operators=operators, makes=tuple(fields.pop("makes")), **fields)

    @property
    def cursors(self) -> tuple[CursorName, ...]:
        """All cursors of the app, partitions aside."""
        return tuple(cursor for group in self.groups for cursor in group.cursors)

    @property
    def shapes(self) -> tuple[HandlerShape, ...]:
        """All handlers as they are declared."""
        return tuple(shape for group in self.groups for shape in group.shapes)

    @property
    def work(self) -> Work:
        """What a burst of it waits for."""
        windowed = {each.cursors for each in self.operators}
        others = {cursor.topic for cursor in self.cursors if cursor not in windowed}
        return Work(self.cursors, order_operators(self.operators, others))

    def only(self, topics: Collection[str]) -> Self:
        """Return the plan with the groups of these topics; all where none are named.

        Raises:
            ConfigurationError: No handler subscribes to one of them.
        """
        known = sorted({topic for group in self.groups for topic in group.topics})
        for topic in topics:
            if topic not in known:
                raise ConfigurationError(
                    f"--only {topic}: {self.target} has no handler on it{_near(topic, known)}\n"
                    f"  topics: {', '.join(known)}"
                )
        chosen = tuple(group for group in self.groups if not topics or not group.topics.isdisjoint(topics))
        cursors = {cursor for group in chosen for cursor in group.cursors}
        operators = tuple(each for each in self.operators if each.cursors in cursors)
        return replace(self, groups=chosen, operators=operators)

    def with_processes(self, text: str) -> Self:
        """Return the plan with `text` of `-w` applied: `4`, or `orders=4,clicks/grp=2`; others keep 1.

        A number for a topic group comes before one for its topic, and that before one for all.

        Raises:
            ConfigurationError: It is neither, says something twice, or names a topic or group that the app does
                not have.
        """
        counts: dict[str, int] = {}
        for part in text.split(","):
            name, equals, number = part.strip().rpartition("=")
            if not number.isdecimal() or not 1 <= int(number) <= _MAX_PROCESSES or (equals and not name):
                raise ConfigurationError(
                    f"-w {text!r}: write a number from 1 to {_MAX_PROCESSES}, or TOPIC=N,TOPIC/GROUP=N"
                )
            if name in counts:
                raise ConfigurationError(f"-w {text!r}: there are two numbers for {name or 'all topic groups'}")
            names = sorted({name for group in self.groups for name in (group.topic, group.label)})
            if name and name not in names:
                raise ConfigurationError(
                    f"-w {part.strip()}: {self.target} has no handler on {name}{_near(name, names)}\n"
                    f"  there are: {', '.join(names)}"
                )
            counts[name] = int(number)
        return replace(self, groups=tuple(replace(group, processes=_choose(counts, group)) for group in self.groups))


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How a worker process runs. Times are milliseconds; None = the setting, or none at all for `burst_timeout_ms`.

    `name` is what worker ids start with, None = what the Stream says, else the host's name.
    `loop_stall_ms` is how long an event loop may be silent. `final` closes the open windows at the end
    of a burst. `burst_ends_s` is when its time is up on the machine's monotonic clock; waits for the broker count.
    `broker_identity` is the broker that the worker has met: no process of it goes on with another one.
    """

    backend: str | None = None
    broker_identity: str | None = None
    name: str | None = None
    concurrency: int | None = None
    burst: bool = False
    burst_timeout_ms: int | None = None
    burst_ends_s: float | None = None
    final: bool = False
    drain_timeout_ms: int = 25_000
    loop_stall_ms: int = 30_000
    loop: str = "auto"
    log_level: str = "INFO"
    log_format: str = "plain"
    accept_orphans: bool = False

    @property
    def burst_left_s(self) -> float | None:
        """How long the burst may take from now on; None where it has no end."""
        return None if self.burst_ends_s is None else max(0.0, self.burst_ends_s - time.monotonic())


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """Orders of a child process: the app, its topic and group, and the work that a burst waits for."""

    target: str
    folder: str
    topic: str
    group: str
    work: Work
    options: WorkerOptions

    @property
    def label(self) -> str:
        """`topic/group`."""
        return f"{self.topic}/{self.group}"

    def with_log_level(self, level: str) -> Self:
        """Return the same with another log level."""
        return replace(self, options=replace(self.options, log_level=level))

    def to_json(self) -> str:
        """Return it as one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return what `to_json` was called on."""
        fields = json.loads(text)
        work = Work.from_fields(fields.pop("work"))
        return cls(work=work, options=WorkerOptions(**fields.pop("options")), **fields)


@dataclass(frozen=True, slots=True)
class Totals:
    """What a worker did: records handled, failed runs, dead letters."""

    handled: int = 0
    failed: int = 0
    dead: int = 0

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(self.handled + other.handled, self.failed + other.failed, self.dead + other.dead)

    def describe(self, lag: int | None) -> str:
        """Return the last line of a worker; an unknown lag is `?`."""
        return f"handled {self.handled}, failed {self.failed}, dead {self.dead}, lag {'?' if lag is None else lag}"


def describe_plan(plan: AppPlan, *, broker: str, in_process: bool) -> Sequence[str]:
    """Return the lines that a worker starts with; without handlers the app and the broker alone."""
    head = [f"app: {plan.target}", f"broker: {broker}"]
    if not plan.groups:
        return head
    topics = ", ".join(dict.fromkeys(cursor.topic for cursor in plan.cursors))
    groups = ", ".join(dict.fromkeys(group.group for group in plan.groups))
    if in_process:
        processes = "this one"
    else:
        each = ", ".join(f"{group.label} x {group.processes}" for group in plan.groups)
        processes = f"{sum(group.processes for group in plan.groups)} ({each})"
    makes = [f"makes where missing: {', '.join(plan.makes)}"] if plan.makes else []
    return [*head, f"topics: {topics}", *makes, f"groups: {groups}", f"processes: {processes}"]


def _shape_from(fields: Mapping[str, Any]) -> HandlerShape:
    return HandlerShape(**{**fields, "beside": tuple(fields["beside"])})


def _choose(counts: Mapping[str, int], group: TopicGroup) -> int:
    return next((counts[name] for name in (group.label, group.topic, "") if name in counts), group.processes)


def _near(word: str, words: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, words, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
