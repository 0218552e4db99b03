"""Reports of a worker process to its supervisor, once a second and at its end: lines of JSON through a pipe."""

import json
import os
import signal
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Final

from pspf.errors import StatusUnreadable
from pspf.loggers import get_logger
from pspf.observability.fields import Fields
from pspf.observability.telemetry import HandlerCounters
from pspf.observability.worker_status import BatchStatus
from pspf.runtime.app.plan import Totals

logger = get_logger(__name__)

STACKS_SIGNAL: Final = signal.SIGUSR1
"""Makes a worker process write where its threads are, whatever they do."""


WAITS_LONG_MS: Final = 5_000
"""A batch that waits for longer for its turn is no work that gets done."""


@dataclass(frozen=True, slots=True)
class SubscriptionStatus:
    """What one handler of a process consumes, and what it did since the process started."""

    counters: HandlerCounters
    partitions: tuple[int, ...]
    topics: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pulse(Fields):
    """Sign of life of a process, and its activity.

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
    busy: tuple[BatchStatus, ...] = ()
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
    def in_hand(self) -> tuple[BatchStatus, ...]:
        """Batches that handlers run."""
        return tuple(each for each in self.busy if not each.is_waiting)

    @property
    def waiting(self) -> tuple[BatchStatus, ...]:
        """Batches that have waited long for their turn."""
        return tuple(each for each in self.busy if each.is_waiting and each.for_ms >= WAITS_LONG_MS)

    @property
    def has_committed(self) -> bool:
        """Whether it has committed anything."""
        return any(each.counters.last_commit_ms is not None for each in self.subscriptions)


@dataclass(frozen=True, slots=True)
class Ending(Fields):
    """A process's last words: what it did, None where an error ended it, given as kind and message.

    `is_drained` says of a burst's that nothing was left to do.
    """

    totals: Totals | None
    error: tuple[str, str] | None = None
    is_drained: bool = False


@dataclass(frozen=True, slots=True)
class Tasks(Fields):
    """Where the coroutines of a process are: text for people."""

    text: str


Report = Pulse | Ending | Tasks
_KINDS: Final[Mapping[str, type[Pulse] | type[Ending] | type[Tasks]]] = {
    each.__name__: each for each in (Pulse, Ending, Tasks)
}


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
    """Return the report of a line; None for one that its process did not live to finish, or that can't be read."""
    try:
        ((kind, fields),) = json.loads(line).items()
    except (ValueError, AttributeError):
        return None
    if kind not in _KINDS:
        return None
    try:
        return _KINDS[kind].from_fields(fields)
    except StatusUnreadable as error:
        logger.warning("a worker process reports what can't be read: %s: %s", kind, error)
        return None
