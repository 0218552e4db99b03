"""Slot of a worker process: its states, and the processes that follow one another in it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from pspf.observability.worker_status import ProcessStatus
from pspf.runtime.app.plan import ChildSpec, Totals
from pspf.runtime.status.status import Rates, with_pulse
from pspf.runtime.supervision.process import Process, now_ms
from pspf.runtime.supervision.restarts import Restarts


class SlotState(StrEnum):
    """State of a slot.

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
class ProcessSlot:
    """A slot. Times are monotonic milliseconds; `number` counts the slots of a topic group from 0."""

    spec: ChildSpec
    number: int
    restarts: Restarts
    state: SlotState = SlotState.STARTING
    after: SlotState = SlotState.ENDED
    """What becomes of it when the process that drains has ended."""
    process: Process | None = None
    due_ms: int | None = 0
    """When the next process is to start; None = not by itself."""
    kill_ms: int | None = None
    totals: Totals = field(default_factory=Totals)
    last_exit: str | None = None
    trouble: str | None = None
    """Why it is stalled, or does not get started."""
    is_gone: bool = False
    """Whether the reloaded app has no handlers for it."""
    rates: Rates = field(default_factory=Rates)

    def __str__(self) -> str:
        return self.spec.label if self.process is None else f"{self.spec.label}, pid {self.process.pid}"

    @property
    def name(self) -> str:
        """`topic/group#number`: its name."""
        return f"{self.spec.label}#{self.number}"

    @property
    def session(self) -> str | None:
        """The id of its process as a worker."""
        return None if self.process is None or self.process.pulse is None else self.process.pulse.session

    @property
    def why_not_ready(self) -> str | None:
        """Return why this slot does not do its work, None where it does."""
        if self.state is SlotState.RUNNING:
            pulse = None if self.process is None else self.process.pulse
            if self.process is None or pulse is None:
                return None
            reasons = (pulse.find_lapse(now_ms() - self.process.pulse_ms), *pulse.waiting, *pulse.unread)
            reason = next((each for each in reasons if each is not None), None)
            return None if reason is None else f"{self}: {reason}"
        if self.state is SlotState.PAUSED:  # how its process ended says nothing then
            return f"{self} is {self.state}"
        detail = self.trouble or self.last_exit
        return f"{self} is {self.state}" + (f": {detail}" if detail else "")

    def describe(self, wall_ms: int) -> ProcessStatus:
        """Return its status; `wall_ms` is the time of day."""
        process = self.process
        is_waiting = self.state is SlotState.CRASHING and self.due_ms is not None
        status = ProcessStatus(
            place=self.name,
            pid=None if process is None else process.pid,
            state=self.state.value,
            why=self.why_not_ready,
            restarts=self.restarts.total,
            crashes_in_a_row=self.restarts.in_a_row,
            last_exit=self.last_exit,
            next_try_ms=wall_ms + (self.due_ms or 0) - now_ms() if is_waiting else None,
        )
        return with_pulse(status, None if process is None else process.pulse, self.rates)


def number_specs(specs: Sequence[ChildSpec]) -> list[tuple[ChildSpec, int]]:
    """Return the specs with a number of their own among those of a topic group."""
    seen: dict[str, int] = {}
    numbered = []
    for spec in specs:
        number = seen.get(spec.label, 0)
        seen[spec.label] = number + 1
        numbered.append((spec, number))
    return numbered
