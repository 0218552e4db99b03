"""A place for a worker process: the processes that follow one another in it, and what they are at."""

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from pspf.runtime.plan import ChildSpec, Totals
from pspf.runtime.process import Process, now_ms
from pspf.runtime.restarts import Restarts

_RATE_MS: Final = 10_000


class State(StrEnum):
    """Where a place is.

    STARTING --it is connected--> RUNNING --silent or deaf--> STALLED
        ^                            |                           |
        |                            v                           v
        +--waited-- CRASHING <--it ended by itself        DRAINING --it has ended--> STARTING (a reload),
        |                                                                            CRASHING (it was stalled),
        +--resume-- PAUSED <---------------------------------------------------------PAUSED or ENDED
    """

    STARTING = "starting"
    RUNNING = "running"
    STALLED = "stalled"
    DRAINING = "draining"
    CRASHING = "crashing"
    PAUSED = "paused"
    ENDED = "ended"


@dataclass(slots=True, eq=False)
class Place:
    """One place. Times are monotonic milliseconds; `number` counts the places of a topic group from 0."""

    spec: ChildSpec
    number: int
    restarts: Restarts
    state: State = State.STARTING
    after: State = State.ENDED
    """What becomes of it when the process that drains has ended."""
    process: Process | None = None
    due_ms: int | None = 0
    """When the next process is to start; None = not by itself."""
    kill_ms: int | None = None
    totals: Totals = field(default_factory=Totals)
    last_exit: str | None = None
    trouble: str | None = None
    """Why it is stalled."""
    samples: deque[tuple[int, dict[tuple[str, str, str], int]]] = field(default_factory=deque)

    def __str__(self) -> str:
        return self.spec.label if self.process is None else f"{self.spec.label}, pid {self.process.pid}"

    @property
    def why_not_ready(self) -> str | None:
        """Return why this place does not do its work, None where it does."""
        if self.state is State.RUNNING:
            return None
        detail = self.trouble if self.state is State.STALLED else self.last_exit
        return f"{self} is {self.state}" + (f": {detail}" if detail else "")

    def sample(self) -> None:
        """Note how much has been processed, for the rates."""
        if self.process is None or self.process.pulse is None:
            self.samples.clear()
            return
        counts = {(s.topic, s.group, s.handler): s.processed for s in self.process.pulse.subscriptions}
        self.samples.append((self.process.pulse_ms, counts))
        while len(self.samples) > 2 and self.samples[1][0] < now_ms() - _RATE_MS:
            self.samples.popleft()

    def rate_of(self, key: tuple[str, str, str]) -> float:
        """Return the events per second that a handler processed lately."""
        if len(self.samples) < 2:
            return 0.0
        (begin_ms, before), (end_ms, after) = self.samples[0], self.samples[-1]
        span_ms = end_ms - begin_ms
        return max(0, after.get(key, 0) - before.get(key, 0)) * 1000 / span_ms if span_ms > 0 else 0.0

    def describe(self, wall_ms: int) -> dict[str, Any]:
        """Return what `pspf workers list` shows of it; `wall_ms` is the time of day."""
        pulse = None if self.process is None else self.process.pulse
        return {
            "worker": None if pulse is None else pulse.session,
            "place": f"{self.spec.label}#{self.number}",
            "pid": None if self.process is None else self.process.pid,
            "state": self.state.value,
            "why": self.why_not_ready,
            "restarts": self.restarts.total,
            "crashes_in_a_row": self.restarts.in_a_row,
            "last_exit": self.last_exit,
            "next_try_ms": wall_ms + self.due_ms - now_ms()
            if self.state is State.CRASHING and self.due_ms is not None
            else None,
            "busy": [
                {
                    "topic": each.topic,
                    "handler": each.handler,
                    "partition": each.partition,
                    "records": each.records,
                    "for_ms": each.for_ms,
                }
                for each in (() if pulse is None else pulse.busy)
            ],
            "subscriptions": [
                {
                    "topic": each.topic,
                    "group": each.group,
                    "handler": each.handler,
                    "partitions": list(each.partitions),
                    "processed": each.processed,
                    "failed": each.failed,
                    "dead": each.dead,
                    "rate": round(self.rate_of((each.topic, each.group, each.handler)), 1),
                    "last_commit_ms": each.last_commit_ms,
                }
                for each in (() if pulse is None else pulse.subscriptions)
            ],
        }
