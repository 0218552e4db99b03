"""Ends of worker processes: the next state of their slots, and the exit code of all."""

import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Protocol

from pspf.errors import PSPFError
from pspf.runtime.status.exit_status import (
    STOPPED,
    Outcome,
    choose_code,
    describe_end,
    error_from,
    is_lasting,
    judge_burst,
)
from pspf.runtime.status.totals import ProcessTotals
from pspf.runtime.supervision.process import Process, now_ms
from pspf.runtime.supervision.slot import ProcessSlot, SlotState
from pspf.runtime.supervision.slots import ProcessSlots

_TOLD: Final = 3
"""How many batches of a process are logged when it crashes."""


class Stopping(Protocol):
    """The worker, as far as the end of a process may stop it."""

    @property
    def stop_signal(self) -> int | None:
        """The signal that the worker stops for, None while it runs."""

    def stop(self) -> None:
        """Stop all processes."""


@dataclass(slots=True)
class ProcessEnds:
    """Decides what becomes of a slot whose process has ended.

    the worker stops                       -> ENDED
    it was draining                        -> what was to follow
    an error that is a new process's, too  -> ENDED, and the worker stops
    a burst                                -> ENDED; the worker stops where work is left
    anything else                          -> CRASHING, until the next process is due
    """

    worker: Stopping
    slots: ProcessSlots
    say: Callable[[str], None]
    is_burst: bool
    waits_for_saves: bool
    process_totals: ProcessTotals = field(default_factory=ProcessTotals)
    error: PSPFError | None = None
    """The first error that a process reported at its end."""
    returncodes: list[int] = field(default_factory=list)

    @property
    def outcome(self) -> Outcome:
        """How all processes together have ended."""
        return Outcome(choose_code(self.returncodes), self.slots.totals, self.error)

    def take(self, slot: ProcessSlot, process: Process, returncode: int) -> None:
        """Decide what becomes of a slot whose process has ended."""
        self.slots.let_go(process)
        name = str(slot)
        slot.process = slot.kill_ms = None
        slot.totals += process.totals
        self.process_totals.close(process.pulse)
        slot.last_exit = describe_end(returncode)
        stop_signal = self.worker.stop_signal
        if stop_signal is not None:
            self._finish(slot, name, process, self._code_of_stopped(returncode, stop_signal))
        elif slot.state is SlotState.DRAINING and slot.after is not SlotState.CRASHING:
            slot.due_ms = 0 if slot.after is SlotState.STARTING else None
            self.slots.move(slot, slot.after)
        elif self._is_fatal(process):
            self._finish(slot, name, process, returncode)
            self.worker.stop()
        elif self.is_burst:
            is_time_up = slot.spec.options.burst_left_s == 0
            counts_as = judge_burst(returncode, process.ending, is_time_up=is_time_up)
            self._finish(slot, name, process, returncode, counts_as)
            if counts_as != 0:
                self.worker.stop()
        else:
            self._crash(slot, name, process, returncode)

    def _code_of_stopped(self, returncode: int, stop_signal: int) -> int:
        """Return the exit code that counts for a process that was stopped: a burst has that of its first signal."""
        if returncode in (-signal.SIGTERM, -signal.SIGINT):  # it had no handler for our signal yet
            return 128 + stop_signal if self.is_burst else 0
        if self.is_burst and returncode == 128 + signal.SIGTERM:  # the supervisor stops all of them with SIGTERM
            return 128 + stop_signal
        return returncode

    def _finish(
        self, slot: ProcessSlot, name: str, process: Process, returncode: int, counts_as: int | None = None
    ) -> None:
        """End a slot for good; its process `counts_as` another code where its own can't be believed."""
        error = process.ending.error if process.ending is not None else None
        if error is not None and self.error is None:
            self.error = error_from(*error)
        is_belied = counts_as is not None and counts_as != returncode
        if error is None and (is_belied or returncode not in (0, 9, *STOPPED)):
            self.say(f"worker process {name} {describe_end(returncode)}{', with work left' if is_belied else ''}")
        self.returncodes.append(returncode if counts_as is None else counts_as)
        self.slots.move(slot, SlotState.ENDED)

    def _is_fatal(self, process: Process) -> bool:
        """Whether a process ended over something that a new one can't change."""
        if process.ending is None or process.ending.error is None:
            return False
        has_begun = any(slot.restarts.was_healthy or slot.state is SlotState.RUNNING for slot in self.slots)
        return is_lasting(error_from(*process.ending.error), may_be_mended=has_begun or self.waits_for_saves)

    def _crash(self, slot: ProcessSlot, name: str, process: Process, returncode: int) -> None:
        pulse = process.pulse
        wait_ms = slot.restarts.note_crash(
            lived_ms=now_ms() - process.started_ms,
            began=pulse is not None and pulse.is_at_work,
            got_on=pulse is not None and pulse.has_committed,
        )
        error = process.ending.error if process.ending is not None else None
        if error is not None:
            slot.last_exit = error[1].partition("\n")[0]
        slot.due_ms = now_ms() + wait_ms
        self.slots.move(slot, SlotState.CRASHING)
        why = describe_end(returncode) if error is None else f"ended: {error[1]}"
        self.say(
            f"{_time_of_day()} worker process {name} {why}; another one starts in {wait_ms / 1000:.1f} s"
            + (f" (crash {slot.restarts.in_a_row} in a row)" if slot.restarts.in_a_row > 1 else "")
            + ("" if pulse is None else "".join(f"\n  a moment before, {busy}" for busy in pulse.in_hand[:_TOLD]))
        )
        if not self.waits_for_saves and self.slots.are_hopeless:
            self.say("no process of this worker gets anything done: giving up")
            self.returncodes.append(1)
            self.worker.stop()


def _time_of_day() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
