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
from pspf.runtime.supervision.slots import Places

_TOLD: Final = 3
"""How many batches of a process are logged when it crashes."""


class Stopping(Protocol):
    """What the ends of processes do to the worker."""

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
    places: Places
    say: Callable[[str], None]
    is_burst: bool
    waits_for_saves: bool
    ledger: ProcessTotals = field(default_factory=ProcessTotals)
    error: PSPFError | None = None
    """The first error that a process reported at its end."""
    returncodes: list[int] = field(default_factory=list)

    @property
    def outcome(self) -> Outcome:
        """How all processes together have ended."""
        return Outcome(choose_code(self.returncodes), self.places.totals, self.error)

    def take(self, place: ProcessSlot, process: Process, returncode: int) -> None:
        """Decide what becomes of a place whose process has ended."""
        self.places.let_go(process)
        name = str(place)
        place.process = place.kill_ms = None
        place.totals += process.totals
        self.ledger.close(process.pulse)
        place.last_exit = describe_end(returncode)
        stop_signal = self.worker.stop_signal
        if stop_signal is not None:
            self._finish(place, name, process, self._code_of_stopped(returncode, stop_signal))
        elif place.state is SlotState.DRAINING and place.after is not SlotState.CRASHING:
            place.due_ms = 0 if place.after is SlotState.STARTING else None
            self.places.move(place, place.after)
        elif self._is_fatal(process):
            self._finish(place, name, process, returncode)
            self.worker.stop()
        elif self.is_burst:
            is_time_up = place.spec.options.burst_left_s == 0
            counts_as = judge_burst(returncode, process.ending, is_time_up=is_time_up)
            self._finish(place, name, process, returncode, counts_as)
            if counts_as != 0:
                self.worker.stop()
        else:
            self._crash(place, name, process, returncode)

    def _code_of_stopped(self, returncode: int, stop_signal: int) -> int:
        """Return the exit code that counts for a process that was stopped: a burst has that of its first signal."""
        if returncode in (-signal.SIGTERM, -signal.SIGINT):  # it had no handler for our signal yet
            return 128 + stop_signal if self.is_burst else 0
        if self.is_burst and returncode == 128 + signal.SIGTERM:  # what we tell them all with
            return 128 + stop_signal
        return returncode

    def _finish(
        self, place: ProcessSlot, name: str, process: Process, returncode: int, counts_as: int | None = None
    ) -> None:
        """End a place for good; its process `counts_as` another code where its own can't be believed."""
        error = process.ending.error if process.ending is not None else None
        if error is not None and self.error is None:
            self.error = error_from(*error)
        is_belied = counts_as is not None and counts_as != returncode
        if error is None and (is_belied or returncode not in (0, 9, *STOPPED)):
            self.say(f"worker process {name} {describe_end(returncode)}{', with work left' if is_belied else ''}")
        self.returncodes.append(returncode if counts_as is None else counts_as)
        self.places.move(place, SlotState.ENDED)

    def _is_fatal(self, process: Process) -> bool:
        """Whether a process ended over something that a new one can't change."""
        if process.ending is None or process.ending.error is None:
            return False
        has_begun = any(place.restarts.was_healthy or place.state is SlotState.RUNNING for place in self.places)
        return is_lasting(error_from(*process.ending.error), may_be_mended=has_begun or self.waits_for_saves)

    def _crash(self, place: ProcessSlot, name: str, process: Process, returncode: int) -> None:
        pulse = process.pulse
        wait_ms = place.restarts.note_crash(
            lived_ms=now_ms() - process.started_ms,
            began=pulse is not None and pulse.is_at_work,
            got_on=pulse is not None and pulse.has_committed,
        )
        error = process.ending.error if process.ending is not None else None
        if error is not None:
            place.last_exit = error[1].partition("\n")[0]
        place.due_ms = now_ms() + wait_ms
        self.places.move(place, SlotState.CRASHING)
        why = describe_end(returncode) if error is None else f"ended: {error[1]}"
        self.say(
            f"{_time_of_day()} worker process {name} {why}; another one starts in {wait_ms / 1000:.1f} s"
            + (f" (crash {place.restarts.in_a_row} in a row)" if place.restarts.in_a_row > 1 else "")
            + ("" if pulse is None else "".join(f"\n  a moment before, {busy}" for busy in pulse.in_hand[:_TOLD]))
        )
        if not self.waits_for_saves and self.places.are_hopeless:
            self.say("no process of this worker gets anything done: giving up")
            self.returncodes.append(1)
            self.worker.stop()


def _time_of_day() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
