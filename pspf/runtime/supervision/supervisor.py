"""Supervisor of worker processes: starts some for each topic group, restarts crashed ones, forwards signals.

Knows processes and their commands, no Stream. One thread and one loop; other threads and signal handlers put their
requests into a queue: the file watcher, `pspf workers stop`.
"""

import os
import queue
import selectors
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Final

from pspf.concurrency.background import attempt
from pspf.errors import PSPFError
from pspf.loggers import get_logger
from pspf.observability.worker_status import NOT_CONNECTED, WorkerStatus
from pspf.runtime.app.plan import ChildSpec
from pspf.runtime.forkserver.client import ForkServer
from pspf.runtime.forkserver.reaping import collect, ended_children
from pspf.runtime.status.exit_status import Outcome
from pspf.runtime.status.totals import Tally
from pspf.runtime.supervision.importing import App, Loading
from pspf.runtime.supervision.process import Spawner, now_ms
from pspf.runtime.supervision.process_ends import ProcessEnds
from pspf.runtime.supervision.restarts import RestartPolicy, Restarts
from pspf.runtime.supervision.slot import ProcessSlot, SlotState, number_specs
from pspf.runtime.supervision.slot_status import add_up, describe_slots
from pspf.runtime.supervision.slots import GRACE_MS, ProcessSlots
from pspf.runtime.supervision.stack_dumps import StackDumps
from pspf.runtime.supervision.terminal import has_hung_up
from pspf.runtime.supervision.watch import Watch
from pspf.runtime.worker.prctl import adopt_orphans

_CHECK_MS: Final = 1_000
_GIVE_UP_MS: Final = 1_000


@dataclass(slots=True)
class Supervisor:
    """The processes of one worker, from start to end.

        running --signal, or nothing is left to run--> stopping --all have ended--> Outcome

    Signals are queued by the handler and handled by the loop. The first and the second are passed on
    to every process once each (they have process groups of their own, so that Ctrl-C on a terminal
    doesn't reach them twice); the third ends everything at once. SIGHUP reloads the app.
    """

    app: App
    spawner: Spawner
    say: Callable[[str], None]
    drain_timeout_ms: int = 25_000
    loop_stall_ms: int = 30_000
    is_burst: bool = False
    waits_for_saves: bool = False
    """Whether a file watcher will ask for another reload, so that bad code is no reason to end."""
    policy: RestartPolicy = field(default_factory=RestartPolicy)
    read_broker_answers_ms: Callable[[], int] = lambda: 0
    """Asked for how long the broker has answered."""
    on_change: Callable[[], None] = lambda: None
    """Called when the state of a slot has changed."""
    status: WorkerStatus = NOT_CONNECTED
    """The status of all processes, at most a second old. Any thread may read it."""
    tally: Tally = field(default_factory=Tally)
    """What all processes did, those that have ended among them; as old as `status`, and for any thread."""

    _inbox: "queue.SimpleQueue[Callable[[], None]]" = field(default_factory=queue.SimpleQueue)
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    _wake_fd: int = -1
    _signals_passed_on: int = 0
    _first_signal: int = signal.SIGTERM
    _stack_dumps: StackDumps = field(default_factory=StackDumps)
    _loading: Loading = field(init=False)
    _slots: ProcessSlots = field(init=False)
    _watch: Watch = field(init=False)
    _ends: ProcessEnds = field(init=False)
    _turned_ms: int = 0
    _noted_ms: int = 0

    def __post_init__(self) -> None:
        self._slots = ProcessSlots(self.spawner, self._selector)
        self._watch = Watch(
            self._slots, self._stack_dumps, stall_ms=self.loop_stall_ms, drain_timeout_ms=self.drain_timeout_ms
        )
        self._ends = ProcessEnds(self, self._slots, self._tell, self.is_burst, self.waits_for_saves)
        self._loading = Loading(self.app, self.spawner, self._selector, self._tell, self._take_over)

    # For other threads

    def post(self, act: Callable[[], None]) -> None:
        """Have `act` called by the loop, soon. Safe from any thread and from signal handlers."""
        self._inbox.put(act)
        with suppress(BlockingIOError, OSError):  # full is awake enough; closed is over
            os.write(self._wake_fd, b"\0")

    # The loop

    def run(self, specs: Sequence[ChildSpec]) -> Outcome:
        """Run all processes until the last one has ended. Main thread only; SIGTERM and SIGINT stay taken over."""
        adopt_orphans()
        wake_read, self._wake_fd = os.pipe()
        for descriptor in (wake_read, self._wake_fd):
            os.set_blocking(descriptor, False)
        self._selector.register(wake_read, selectors.EVENT_READ, lambda: bool(os.read(wake_read, 4096)))
        before = signal.set_wakeup_fd(self._wake_fd, warn_on_full_buffer=False)
        # SIGCHLD only wakes the loop up.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, self._on_signal)
        self._slots.all = [ProcessSlot(spec, number, Restarts(self.policy)) for spec, number in number_specs(specs)]
        try:
            self._turned_ms = now_ms()
            while any(slot.state is not SlotState.ENDED for slot in self._slots):
                self._turn()
        finally:
            self._slots.kill_all()
            signal.set_wakeup_fd(before)
            for number in (signal.SIGCHLD, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            # What the caller still does, it does for the record: one more signal ends it.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda number, frame: os._exit(128 + number))
            self._selector.close()
            self.spawner.close()
            wake_fd, self._wake_fd = self._wake_fd, -1
            os.close(wake_read)
            os.close(wake_fd)
        return self._ends.outcome

    def _turn(self) -> None:
        self._wait()
        while not self._inbox.empty():  # before: where a whole group is signalled, its processes end by our wish
            attempt("what the worker was asked for", self._inbox.get())
        self._collect()
        self._loading.tell_if_slow()
        self._watch.look_around(self.read_broker_answers_ms)
        self._stack_dumps.tell_due()
        self._slots.start_due()
        self._slots.enforce_deadlines()
        self._note_status()

    def _wait(self) -> None:
        """Wait for something to happen, and take it."""
        dues = [*self._slots.dues_ms, *self._stack_dumps.dues_ms]
        wait_ms = max(0, min(_CHECK_MS, *(due - now_ms() for due in dues), _CHECK_MS))
        for key, _ in self._selector.select(wait_ms / 1000):
            if not key.data():
                self._selector.unregister(key.fileobj)
        # The machine slept, or this process was stopped: the silence of that time is its own.
        slept_ms = now_ms() - self._turned_ms - wait_ms
        if slept_ms > _CHECK_MS:
            for slot in self._slots:
                if slot.process is not None:
                    slot.process.pulse_ms += slept_ms
        self._turned_ms = now_ms()

    # Signals

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            self._inbox.put(lambda: self._take_signal(number))

    def _take_signal(self, number: int) -> None:
        if number == signal.SIGHUP:
            if not has_hung_up():
                self.reload("SIGHUP")
                return
            number = signal.SIGTERM  # the terminal is gone, and who sat there with it
        if self._signals_passed_on >= 2:
            self._slots.kill_all()
            os._exit(128 + number)
        if self._signals_passed_on == 0:
            self._first_signal = number
            self._tell("stopping: batches in hand are finished; a second signal gives them up")
        self._pass_on(number)

    def stop(self) -> None:
        """Stop as the first signal does; a second call does nothing."""
        if self._signals_passed_on == 0:
            self._pass_on(signal.SIGTERM)

    def fail(self, error: PSPFError) -> None:
        """Stop over what no new process can change, to end with `error`."""
        self._ends.error = self._ends.error or error
        self.stop()

    def _pass_on(self, number: int) -> None:
        self._signals_passed_on += 1
        self._loading.drop()
        for slot in self._slots:
            if slot.process is None:
                self._slots.move(slot, SlotState.ENDED)
            elif self._signals_passed_on == 1:
                self._slots.drain(slot, SlotState.ENDED, self.drain_timeout_ms)
            else:
                slot.process.tell(do="give up", code=128 + number)
                slot.kill_ms = now_ms() + _GIVE_UP_MS + GRACE_MS

    @property
    def stop_signal(self) -> int | None:
        """The signal that it stops for, None while it runs."""
        return self._first_signal if self._is_stopping else None

    @property
    def _is_stopping(self) -> bool:
        return self._signals_passed_on > 0

    # Ends of processes

    def _collect(self) -> None:
        """Notice who has ended; orphans that came to this process are collected, too."""
        for pid in ended_children():
            mine = [
                (slot, slot.process) for slot in self._slots if slot.process is not None and slot.process.pid == pid
            ]
            for _, process in mine:
                process.end_group(signal.SIGTERM)  # now, while no other process can have its pid
            returncode = collect(pid)
            self.spawner.forget(pid, returncode)
            for slot, process in mine:
                self._ends.take(slot, process, returncode)

    # What others ask for

    @property
    def slots(self) -> list[ProcessSlot]:
        return self._slots.all

    def look(self, slots: Sequence[ProcessSlot], tell: Callable[[dict[str, str]], None]) -> None:
        """Ask processes where their threads and coroutines are; `tell` gets the texts by name, soon."""
        self._stack_dumps.begin(slots, tell)

    def pause(self, slot: ProcessSlot) -> None:
        """Let a slot's process finish, and start no other; what it held goes to others."""
        if slot.process is not None:
            self._slots.drain(slot, SlotState.PAUSED, self.drain_timeout_ms)
        elif slot.state is not SlotState.ENDED:
            self._slots.move(slot, SlotState.PAUSED)

    def resume(self, slot: ProcessSlot) -> None:
        """Start a process in a slot that is paused, was stopped alone, or waits after a crash."""
        if self._is_stopping or self.is_burst or slot.is_gone:
            return
        if slot.state is SlotState.DRAINING and slot.after in (SlotState.PAUSED, SlotState.ENDED):
            slot.after = SlotState.STARTING
        elif slot.state in (SlotState.PAUSED, SlotState.CRASHING, SlotState.ENDED):
            slot.restarts.reset()
            slot.due_ms = 0
            self._slots.move(slot, SlotState.STARTING)

    def end(self, slot: ProcessSlot) -> None:
        """Let a slot's process finish, and the slot with it; the last one ends the worker."""
        if slot.process is not None:
            self._slots.drain(slot, SlotState.ENDED, self.drain_timeout_ms)
        else:
            self._slots.move(slot, SlotState.ENDED)

    def set_log_level(self, level: str) -> None:
        """Have this process and all others log from `level` on."""
        self._slots.log_level = level
        get_logger("pspf").setLevel(level)
        for slot in self._slots:
            if slot.process is not None:
                slot.process.tell(do="log level", level=level)

    # Reloading the app

    def reload(self, why: str) -> None:
        """Import the app in a fresh process; where that works, replace all processes, else say why not."""
        if self._is_stopping:
            return
        if not self._loading.begin(why):
            self._tell(f"{why}: all processes start again, and import the app by themselves")
            self._replace_all()

    def _take_over(self, specs: Sequence[ChildSpec], app_server: ForkServer | None) -> None:
        """Run `specs` from now on, from `app_server`."""
        self.spawner.adopt(app_server)
        wanted = {(spec.label, number): spec for spec, number in number_specs(specs)}
        for slot in self._slots:
            spec = wanted.pop((slot.spec.label, slot.number), None)
            slot.is_gone = spec is None
            if spec is None:
                self.end(slot)
            else:
                slot.spec = spec
        self._replace_all()
        self._slots.all += [ProcessSlot(spec, number, Restarts(self.policy)) for (_, number), spec in wanted.items()]

    def _replace_all(self) -> None:
        for slot in self._slots:
            if slot.is_gone:
                continue
            slot.restarts.reset()
            if slot.process is not None and slot.state is not SlotState.DRAINING:
                self._slots.drain(slot, SlotState.STARTING, self.drain_timeout_ms)
            elif slot.process is not None and slot.after is not SlotState.PAUSED:
                self._slots.drain(slot, SlotState.STARTING, self.drain_timeout_ms)  # also one that was to be the last
            elif slot.state is SlotState.ENDED:
                slot.due_ms = 0
                self._slots.move(slot, SlotState.STARTING)
            elif slot.state is SlotState.CRASHING:
                slot.due_ms = 0

    # Telling

    def _tell(self, text: str) -> None:
        with suppress(OSError):  # a terminal that has hung up
            self.say(text)

    def _note_status(self) -> None:
        if not self._slots.has_changed and now_ms() - self._noted_ms < _CHECK_MS:
            return
        self.status = describe_slots(self._slots.all, is_stopping=self._is_stopping)
        self.tally = add_up(self._slots.all, self._ends.process_totals)
        self._noted_ms = now_ms()
        if self._slots.has_changed:
            self._slots.has_changed = False
            self.on_change()
