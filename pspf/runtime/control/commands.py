"""Commands of `pspf workers`: one class for a supervisor, one for a worker in one process."""

import io
import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pspf.concurrency.background import attempt
from pspf.loggers import get_logger
from pspf.observability.worker_status import IN_PROCESS, ProcessStatus, WorkerStatus
from pspf.runtime.control.presence import WorkerCommand
from pspf.runtime.status.reports import Pulse
from pspf.runtime.status.status import Rates, with_pulse
from pspf.runtime.status.totals import ProcessTotals, Tally
from pspf.runtime.supervision.slot import ProcessSlot
from pspf.runtime.supervision.supervisor import Supervisor
from pspf.runtime.worker.logs import LEVELS
from pspf.runtime.worker.monitor import Monitor
from pspf.runtime.worker.shutdown import Stages

Answer = Callable[[Mapping[str, Any]], None]


class SupervisorControl:
    """Commands for a worker of several processes; `obey` may be called from any thread."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def describe(self) -> WorkerStatus:
        """Return the worker's status."""
        return self._supervisor.status

    def tally(self) -> Tally:
        """Return what the worker did since it started."""
        return self._supervisor.tally

    def obey(self, command: WorkerCommand, answer: Answer) -> None:
        """Do it in the supervisor's loop; `answer` is called when it is done or under way, or has failed."""

        def act() -> None:
            error = attempt(f"command {command.do:.40}", lambda: self._obey(command, answer))
            if error is not None:
                answer({"error": f"{command.do:.40} failed: {error!r}"})

        self._supervisor.post(act)

    def _obey(self, command: WorkerCommand, answer: Answer) -> None:
        supervisor = self._supervisor
        slots = self._find(command.process)
        if not slots:
            answer({"error": f"no process {command.process}"})
            return
        match command.do:
            case "ping":
                answer({"ok": supervisor.status.state})
            case "stop" if command.process is None:
                answer({"ok": "it stops"})
                supervisor.stop()
            case "stop":
                self._each(slots, supervisor.end, "it stops; resume of its worker starts it again", answer)
            case "pause":
                self._each(slots, supervisor.pause, "it is paused", answer)
            case "resume":
                self._each(slots, supervisor.resume, "it goes on", answer)
            case "stacks":
                supervisor.look(slots, lambda stacks: answer({"stacks": stacks}))
            case "log-level" if command.level in LEVELS:
                supervisor.set_log_level(command.level)
                answer({"ok": command.level})
            case _:
                answer({"error": f"this worker is of a version that does not know {command.do!r}"})

    def _find(self, process: str | None) -> list[ProcessSlot]:
        return [slot for slot in self._supervisor.slots if process is None or process in (slot.name, slot.session)]

    def _each(
        self, slots: Sequence[ProcessSlot], act: Callable[[ProcessSlot], None], done: str, answer: Answer
    ) -> None:
        for slot in slots:
            act(slot)
        answer({"ok": done})


class ProcessControl:
    """Commands for a worker that is one process; called in its event loop."""

    def __init__(self, monitor: Monitor, stages: Stages) -> None:
        self._monitor = monitor
        self._stages = stages
        self._rates = Rates()
        self._looking = threading.Lock()

    def tally(self) -> Tally:
        """Return what the worker did since it started."""
        return Tally(ProcessTotals().add_up([self._take_pulse()]))

    def _take_pulse(self) -> Pulse:
        with self._looking:  # the event loop asks, and the admin's thread
            pulse = self._monitor.take_pulse()
            self._rates.sample(pulse)
            return pulse

    def describe(self) -> WorkerStatus:
        """Return the worker's status."""
        pulse = self._take_pulse()
        process = ProcessStatus(place=IN_PROCESS, pid=os.getpid(), state=pulse.stage)
        why = [*(str(each) for each in pulse.waiting), *pulse.unread]
        if pulse.session is None:
            why.append("it has not joined yet")
        elif (lapse := pulse.find_lapse(0)) is not None:
            why.append(lapse)
        return WorkerStatus(
            state=pulse.stage,
            ready=pulse.stage == "running" and not why,
            why=tuple(why),
            processes=(with_pulse(process, pulse, self._rates),),
        )

    def obey(self, command: WorkerCommand, answer: Answer) -> None:
        """Do it; `answer` is called at once or soon."""
        match command.do:
            case "ping":
                answer({"ok": self._stages.stage.value})
            case "stop":
                answer({"ok": "it stops"})
                self._stages.begin_drain()
            case "stacks":
                self._monitor.ask_tasks(lambda text: answer({"stacks": {f"pid {os.getpid()}": _threads() + text}}))
            case "pause" | "resume":
                answer({"error": f"{command.do}: not with --in-process, which has no supervisor"})
            case "log-level" if command.level in LEVELS:
                get_logger("pspf").setLevel(command.level)
                answer({"ok": command.level})
            case _:
                answer({"error": f"this worker is of a version that does not know {command.do!r}"})


def _threads() -> str:
    """Return where each thread of this process is."""
    text = io.StringIO()
    for identifier, frame in sys._current_frames().items():
        text.write(f"thread {identifier:#x}:\n")
        traceback.print_stack(frame, file=text)
    return text.getvalue()
