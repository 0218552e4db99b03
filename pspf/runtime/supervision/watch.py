"""Watch over worker processes: logs and replaces those that make no progress."""

import functools
from collections.abc import Callable
from typing import Final

from pspf.loggers import get_logger
from pspf.runtime.supervision.process import YOUNG_MS, Process, now_ms
from pspf.runtime.supervision.slot import ProcessSlot, SlotState
from pspf.runtime.supervision.slots import ProcessSlots
from pspf.runtime.supervision.stack_dumps import StackDumps
from pspf.runtime.supervision.watchdog import find_trouble

logger = get_logger(__name__)

_STALLED_DRAIN_MS: Final = 5_000


class Watch:
    """Finds processes without progress, asks for their stacks, and replaces them."""

    def __init__(self, slots: ProcessSlots, stack_dumps: StackDumps, *, stall_ms: int, drain_timeout_ms: int) -> None:
        self._slots = slots
        self._stack_dumps = stack_dumps
        self._stall_ms = stall_ms
        self._drain_timeout_ms = drain_timeout_ms

    def look_around(self, read_broker_answers_ms: Callable[[], int]) -> None:
        """Replace live processes that make no progress."""
        for slot in self._slots:
            process = slot.process
            if process is not None and slot.state is SlotState.STARTING and process.pulse is None:
                self._watch_start(slot, process)
            if slot.state is not SlotState.RUNNING or process is None or process.pulse is None:
                continue
            trouble = find_trouble(
                process.pulse,
                pulse_age_ms=now_ms() - process.pulse_ms,
                broker_answers_ms=read_broker_answers_ms(),
                stall_ms=self._stall_ms,
            )
            if trouble is not None:
                slot.trouble = trouble
                self._slots.move(slot, SlotState.STALLED)
                self._stack_dumps.begin([slot], functools.partial(self._replace_stalled, slot))

    def _watch_start(self, slot: ProcessSlot, process: Process) -> None:
        """Log an import that does not end. It is not interrupted: a large model may take its time."""
        age_ms = now_ms() - process.started_ms
        if slot.trouble is not None or age_ms < max(self._stall_ms, YOUNG_MS):
            return
        slot.trouble = f"it has been importing the app for {age_ms / 1000:.1f} s"
        self._slots.has_changed = True
        self._stack_dumps.begin([slot], functools.partial(self._tell_of_start, slot))

    def _tell_of_start(self, slot: ProcessSlot, stacks: dict[str, str]) -> None:
        if slot.state is SlotState.STARTING:
            where = next(iter(stacks.values()), "").rstrip()
            logger.warning("worker process %s: %s. It is here:\n%s", slot, slot.trouble, where)

    def _replace_stalled(self, slot: ProcessSlot, stacks: dict[str, str]) -> None:
        where = next(iter(stacks.values()), "").rstrip()
        logger.error("worker process %s: %s; it is replaced. It is here:\n%s", slot, slot.trouble, where)
        if slot.process is not None and slot.state is SlotState.STALLED:
            self._slots.drain(slot, SlotState.CRASHING, min(self._drain_timeout_ms, _STALLED_DRAIN_MS))
