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


class ProcessSlots:
    """All slots of a worker, and the pipes of their processes in its selector."""

    def __init__(self, spawner: Spawner, selector: selectors.BaseSelector) -> None:
        self.all: list[ProcessSlot] = []
        self.has_changed = True
        """Whether the state of a slot has changed since this was reset."""
        self.log_level: str | None = None
        """The log level of new processes, None for that of the command line."""
        self._starts = Backoff(*_START_AGAIN_MS)
        self._failures = Sparing()
        self._spawner = spawner
        self._selector = selector

    def __iter__(self) -> Iterator[ProcessSlot]:
        return iter(self.all)

    @property
    def dues_ms(self) -> list[int]:
        """When starts and kills are due; monotonic."""
        dues = [slot.due_ms for slot in self.all if slot.due_ms is not None and slot.process is None]
        return dues + [slot.kill_ms for slot in self.all if slot.kill_ms is not None and slot.process is not None]

    @property
    def are_hopeless(self) -> bool:
        """Whether no process of this worker ever made progress, after several starts in each slot."""
        active = [slot for slot in self.all if slot.state not in (SlotState.ENDED, SlotState.PAUSED)]
        return all(slot.restarts.is_hopeless and not slot.restarts.was_healthy for slot in active)

    @property
    def totals(self) -> Totals:
        """The counts of all processes that have ended."""
        totals = Totals()
        for slot in self.all:
            totals += slot.totals
        return totals

    def start_due(self) -> None:
        """Start the processes that are due; one that the system has no resources for is due again later."""
        for slot in self.all:
            if slot.process is None and slot.due_ms is not None and now_ms() >= slot.due_ms:
                try:
                    self._start(slot)
                except OSError as error:
                    self._put_off(slot, error)

    def _put_off(self, slot: ProcessSlot, error: OSError) -> None:
        wait_ms = self._starts.next_ms()
        slot.due_ms = now_ms() + wait_ms
        if self._failures.may_say():
            logger.error("%s: no process can be started, next try in %.1f s: %s", slot, wait_ms / 1000, error)

    def _start(self, slot: ProcessSlot) -> None:
        spec = slot.spec if self.log_level is None else slot.spec.with_log_level(self.log_level)
        process = slot.process = self._spawner.start(spec)
        self._selector.register(process.report_fd, selectors.EVENT_READ, lambda: self._read_reports(slot, process))
        self._selector.register(process.stacks_fd, selectors.EVENT_READ, process.read_stacks)
        slot.due_ms = slot.kill_ms = slot.trouble = None
        slot.rates.reset()
        self.move(slot, SlotState.STARTING)

    def _read_reports(self, slot: ProcessSlot, process: Process) -> bool:
        is_open = process.read_reports()
        if process.pulse is not None:
            slot.rates.sample(process.pulse)
        if slot.state is SlotState.STARTING and slot.session is not None:
            slot.trouble = None
            self.move(slot, SlotState.RUNNING)
        return is_open

    def drain(self, slot: ProcessSlot, after: SlotState, timeout_ms: int) -> None:
        """Let a slot's process finish; `after` is what then becomes of the slot."""
        assert slot.process is not None
        if slot.state is not SlotState.DRAINING:
            slot.process.drain(timeout_ms)
            slot.kill_ms = now_ms() + timeout_ms + GRACE_MS
        slot.after = after
        self.move(slot, SlotState.DRAINING)

    def move(self, slot: ProcessSlot, state: SlotState) -> None:
        if state in (SlotState.ENDED, SlotState.PAUSED):
            slot.due_ms = None  # a crash before, or a reload, may have left one
        if state is not slot.state or state is SlotState.CRASHING:
            slot.state = state
            self.has_changed = True

    def enforce_deadlines(self) -> None:
        for slot in self.all:
            if slot.process is not None and slot.kill_ms is not None and now_ms() > slot.kill_ms:
                slot.process.signal(signal.SIGKILL)
                slot.kill_ms = None

    def kill_all(self) -> None:
        for slot in self.all:
            if slot.process is not None:
                slot.process.signal(signal.SIGKILL)
                slot.process.end_group(signal.SIGKILL)
                with suppress(ChildProcessError):
                    os.waitpid(slot.process.pid, 0)

    def let_go(self, process: Process) -> None:
        """Stop reading the pipes of a process that has ended."""
        for descriptor in (process.report_fd, process.stacks_fd):
            with suppress(KeyError):  # it was at its end before
                self._selector.unregister(descriptor)
        process.close()
