"""Slots of a worker: start their processes, drain them, and kill them at their deadlines."""

import os
import selectors
import signal
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from pspf.backoff import Backoff, Sparing
from pspf.loggers import get_logger
from pspf.runtime.app.plan import Totals
from pspf.runtime.supervision.process import Process, Spawner, now_ms
from pspf.runtime.supervision.slot import ProcessSlot, SlotState

logger = get_logger(__name__)

_START_AGAIN_MS: Final = (1_000, 10_000)
GRACE_MS: Final = 3_000
"""How much later than its own deadline a process is killed; it ends itself, unless it is stopped or stuck in C code."""


class Places:
    """All places of a worker, and what its selector waits for in them."""

    def __init__(self, spawner: Spawner, selector: selectors.BaseSelector) -> None:
        self.all: list[ProcessSlot] = []
        self.has_changed = True
        """Whether the state of one is another since somebody looked."""
        self.log_level: str | None = None
        """What new processes log, where it is not what the command line says."""
        self._starts = Backoff(*_START_AGAIN_MS)
        self._failures = Sparing()
        self._spawner = spawner
        self._selector = selector

    def __iter__(self) -> Iterator[ProcessSlot]:
        return iter(self.all)

    @property
    def dues_ms(self) -> list[int]:
        """When there is something to do here; monotonic."""
        dues = [place.due_ms for place in self.all if place.due_ms is not None and place.process is None]
        return dues + [place.kill_ms for place in self.all if place.kill_ms is not None and place.process is not None]

    @property
    def are_hopeless(self) -> bool:
        """Whether nothing of this worker ever worked, and all of it was tried often."""
        active = [place for place in self.all if place.state not in (SlotState.ENDED, SlotState.PAUSED)]
        return all(place.restarts.is_hopeless and not place.restarts.was_healthy for place in active)

    @property
    def totals(self) -> Totals:
        """What all processes did that have ended."""
        totals = Totals()
        for place in self.all:
            totals += place.totals
        return totals

    def start_due(self) -> None:
        """Start the processes that are due; one that the system has no resources for is due again later."""
        for place in self.all:
            if place.process is None and place.due_ms is not None and now_ms() >= place.due_ms:
                try:
                    self._start(place)
                except OSError as error:
                    self._put_off(place, error)

    def _put_off(self, place: ProcessSlot, error: OSError) -> None:
        wait_ms = self._starts.next_ms()
        place.due_ms = now_ms() + wait_ms
        if self._failures.may_say():
            logger.error("%s: no process can be started, next try in %.1f s: %s", place, wait_ms / 1000, error)

    def _start(self, place: ProcessSlot) -> None:
        spec = place.spec if self.log_level is None else place.spec.with_log_level(self.log_level)
        process = place.process = self._spawner.start(spec)
        self._selector.register(process.report_fd, selectors.EVENT_READ, lambda: self._read_reports(place, process))
        self._selector.register(process.stacks_fd, selectors.EVENT_READ, process.read_stacks)
        place.due_ms = place.kill_ms = place.trouble = None
        place.rates.reset()
        self.move(place, SlotState.STARTING)

    def _read_reports(self, place: ProcessSlot, process: Process) -> bool:
        is_open = process.read_reports()
        if process.pulse is not None:
            place.rates.sample(process.pulse)
        if place.state is SlotState.STARTING and place.session is not None:
            place.trouble = None
            self.move(place, SlotState.RUNNING)
        return is_open

    def drain(self, place: ProcessSlot, after: SlotState, timeout_ms: int) -> None:
        """Let a place's process finish; `after` is what then becomes of the place."""
        assert place.process is not None
        if place.state is not SlotState.DRAINING:
            place.process.drain(timeout_ms)
            place.kill_ms = now_ms() + timeout_ms + GRACE_MS
        place.after = after
        self.move(place, SlotState.DRAINING)

    def move(self, place: ProcessSlot, state: SlotState) -> None:
        if state in (SlotState.ENDED, SlotState.PAUSED):
            place.due_ms = None  # a crash before, or a reload, may have left one
        if state is not place.state or state is SlotState.CRASHING:
            place.state = state
            self.has_changed = True

    def enforce_deadlines(self) -> None:
        for place in self.all:
            if place.process is not None and place.kill_ms is not None and now_ms() > place.kill_ms:
                place.process.signal(signal.SIGKILL)
                place.kill_ms = None

    def kill_all(self) -> None:
        for place in self.all:
            if place.process is not None:
                place.process.signal(signal.SIGKILL)
                place.process.end_group(signal.SIGKILL)
                with suppress(ChildProcessError):
                    os.waitpid(place.process.pid, 0)

    def let_go(self, process: Process) -> None:
        """Stop waiting for what a process says: it has ended."""
        for descriptor in (process.report_fd, process.stacks_fd):
            with suppress(KeyError):  # it was at its end before
                self._selector.unregister(descriptor)
        process.close()
