"""What a worker process tells its supervisor, once a second and at its end: lines of JSON through a pipe."""

import json
import os
import signal
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from pspf.observability.telemetry import HandlerCounters
from pspf.runtime.app.plan import Totals

STACKS_SIGNAL: Final = signal.SIGUSR1
"""Makes a worker process write where its threads are, whatever they do."""


HANDLING: Final = "handling"
OVERDUE: Final = "goes on although it was cancelled"
WAITING: Final = "waits for another to run alone"
WAITING_ALONE: Final = "waits to run alone, as it may have ended the process before"
WAITS_LONG_MS: Final = 5_000
"""A batch that waits for longer for its turn is no work that gets done."""


@dataclass(frozen=True, slots=True)
class Busy:
    """A batch that is in a handler's hands for `for_ms`, or waits for that; `ids` are its first records'."""

    topic: str
    group: str
    handler: str
    partition: int
    records: int
    for_ms: int
    state: str = HANDLING
    ids: tuple[str, ...] = ()

    @property
    def is_waiting(self) -> bool:
        """Whether its turn has not come."""
        return self.state in (WAITING, WAITING_ALONE)

    def __str__(self) -> str:
        where = f"a batch of {self.records} of {self.topic}, partition {self.partition}"
        first = f" from {self.ids[0]} on" if self.ids else ""
        doing = "is at" if self.state == HANDLING else f"{self.state}, with"
        return f"{self.handler} {doing} {where}{first}, for {self.for_ms / 1000:.0f} s"


@dataclass(frozen=True, slots=True)
class SubscriptionStatus:
    """What one handler of a process consumes, and what it did since the process started."""

    counters: HandlerCounters
    partitions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pulse:
    """That a process lives, and what it is at.

    `loop_silent_ms` is the time since its event loop last had a turn, None before there is a loop;
    `unanswered_ms` the time that its longest request has waited for the broker. `is_at_work` says
    that it has begun to consume at all, `session` is its id as a worker, `lease_left_ms` how long it holds
    what is its own if it does not renew its session (None where that can't be lost), `unread` says which
    partitions are not read.
    """

    stage: str
    loop_silent_ms: int | None
    unanswered_ms: int
    is_connected: bool
    is_at_work: bool
    session: str | None
    lease_left_ms: int | None = None
    busy: tuple[Busy, ...] = ()
    subscriptions: tuple[SubscriptionStatus, ...] = ()
    unread: tuple[str, ...] = ()

    def find_lapse(self, age_ms: int) -> str | None:
        """Return that its session is not renewed, as of `age_ms` after this pulse; None where it is."""
        if self.lease_left_ms is None or self.lease_left_ms >= age_ms:
            return None
        late_s = (age_ms - self.lease_left_ms) / 1000
        return f"its session is not renewed, and others may take what it holds for {late_s:.0f} s"

    @property
    def totals(self) -> Totals:
        """What the process has done so far."""
        return Totals(
            handled=sum(each.counters.processed for each in self.subscriptions),
            failed=sum(each.counters.failed for each in self.subscriptions),
            dead=sum(each.counters.dead for each in self.subscriptions),
        )

    @property
    def in_hand(self) -> tuple[Busy, ...]:
        """What handlers have in hand."""
        return tuple(each for each in self.busy if not each.is_waiting)

    @property
    def waiting(self) -> tuple[Busy, ...]:
        """What has waited long for its turn."""
        return tuple(each for each in self.busy if each.is_waiting and each.for_ms >= WAITS_LONG_MS)

    @property
    def has_committed(self) -> bool:
        """Whether it has got anything done."""
        return any(each.counters.last_commit_ms is not None for each in self.subscriptions)

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """Return the pulse of a decoded line."""
        rest = dict(fields)
        busy = tuple(Busy(**each | {"ids": tuple(each["ids"])}) for each in rest.pop("busy"))
        subscriptions = tuple(
            SubscriptionStatus(HandlerCounters.from_fields(each["counters"]), tuple(each["partitions"]))
            for each in rest.pop("subscriptions")
        )
        unread = tuple(rest.pop("unread", ()))
        return cls(busy=busy, subscriptions=subscriptions, unread=unread, **rest)


@dataclass(frozen=True, slots=True)
class Ending:
    """A process's last words: what it did, None where an error ended it, given as kind and message.

    `is_drained` says of a burst's that nothing was left to do.
    """

    totals: Totals | None
    error: tuple[str, str] | None = None
    is_drained: bool = False


@dataclass(frozen=True, slots=True)
class Tasks:
    """Where the coroutines of a process are: text for people."""

    text: str


Report = Pulse | Ending | Tasks


class ReportPipe:
    """The way to the supervisor; several threads write to it, a line at a time."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._writing = threading.Lock()

    def write(self, report: Report) -> None:
        """Tell the supervisor; nothing where it is gone."""
        with self._writing, suppress(BrokenPipeError):
            os.write(self._descriptor, encode_report(report))


def encode_report(report: Report) -> bytes:
    """Return a report as one line."""
    return json.dumps({type(report).__name__: asdict(report)}).encode() + b"\n"


def decode_report(line: bytes) -> Report | None:
    """Return the report of a line; None for a line that its process did not live to finish."""
    try:
        ((kind, fields),) = json.loads(line).items()
    except (ValueError, AttributeError):
        return None
    if kind == Pulse.__name__:
        return Pulse.from_fields(fields)
    if kind == Tasks.__name__:
        return Tasks(**fields)
    totals, error = fields["totals"], fields["error"]
    return Ending(
        None if totals is None else Totals(**totals),
        None if error is None else (error[0], error[1]),
        fields["is_drained"],
    )
