"""Worker process as its supervisor has it: a pid and three pipes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from pspf.runtime.app.plan import ChildSpec, Totals
from pspf.runtime.forkserver.client import ForkServer, ForkServerLost
from pspf.runtime.status.reports import STACKS_SIGNAL, Ending, Pulse, Tasks, decode_report

YOUNG_MS: Final = 2_000
"""A younger process might not yet be ready to be asked where it is, and end of it."""
_MAX_STACKS_BYTES: Final = 64 << 10


class Process:
    """One worker process, from its start until it is collected. Times are monotonic milliseconds."""

    def __init__(self, pid: int, commands_fd: int, report_fd: int, stacks_fd: int) -> None:
        self.pid = pid
        self.started_ms = now_ms()
        self.pulse: Pulse | None = None
        self.pulse_ms = self.started_ms
        self.ending: Ending | None = None
        self.tasks: str = ""
        self.stacks = bytearray()
        self.report_fd = report_fd
        self.stacks_fd = stacks_fd
        self._commands_fd = commands_fd
        self._buffer = bytearray()
        for descriptor in (commands_fd, report_fd, stacks_fd):
            os.set_blocking(descriptor, False)

    @property
    def totals(self) -> Totals:
        """Counts of its work; of a killed one those that it had reported."""
        if self.ending is not None and self.ending.totals is not None:
            return self.ending.totals
        return Totals() if self.pulse is None else self.pulse.totals

    def tell(self, **command: Any) -> None:
        """Say something to it; nothing where it has ended, or does not listen any more."""
        with contextlib.suppress(BrokenPipeError, BlockingIOError):
            os.write(self._commands_fd, json.dumps(command).encode() + b"\n")

    def signal(self, number: int) -> None:
        """Send it a signal. It is our child and not collected yet: the pid is its own."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def end_group(self, number: int) -> None:
        """Send what it has forked and left behind a signal; what leads a session of its own is left alone."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def drain(self, timeout_ms: int) -> None:
        """Let it finish its batches, and end."""
        self.tell(do="drain", timeout_ms=timeout_ms)
        self.signal(signal.SIGTERM)  # reaches also one that is still importing its app

    def ask_where(self) -> None:
        """Ask where its threads and its coroutines are; `stacks` and `tasks` are the answers."""
        self.stacks.clear()
        self.tasks = ""
        if self.pulse is not None or now_ms() - self.started_ms >= YOUNG_MS:
            self.signal(STACKS_SIGNAL)
            self.tell(do="tasks")

    def read_reports(self) -> bool:
        """Read its reports; False at the end."""
        try:
            chunk = os.read(self.report_fd, 65536)
        except BlockingIOError:
            return True
        self._buffer += chunk
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = bytearray(rest)
        for line in lines:
            self._take(bytes(line))
        return bool(chunk)

    def _take(self, line: bytes) -> None:
        match decode_report(line):
            case Pulse() as pulse:
                self.pulse, self.pulse_ms = pulse, now_ms()
            case Tasks(text):
                self.tasks = text
            case Ending() as ending:
                self.ending = ending

    def read_stacks(self) -> bool:
        """Take what the interpreter wrote of its threads; False at the end."""
        try:
            chunk = os.read(self.stacks_fd, 65536)
        except BlockingIOError:
            return True
        self.stacks += chunk[: max(0, _MAX_STACKS_BYTES - len(self.stacks))]
        return bool(chunk)

    def close(self) -> None:
        """Read the rest, and close the pipes; it has ended."""
        self.read_reports()
        for descriptor in (self._commands_fd, self.report_fd, self.stacks_fd):
            os.close(descriptor)


class Spawner:
    """Starts processes: from the app server with the app, else from the one without, else afresh."""

    def __init__(self, base: ForkServer | None, app_server: ForkServer | None, say: Callable[[str], None]) -> None:
        self._base = base
        self._app_server = app_server
        self._say = say
        self._afresh: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, spec: ChildSpec) -> Process:
        """Start a process for `spec`; it is a child of this one.

        Raises:
            OSError: The system has no process or no descriptor for it.
        """
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            commands_fd, told_fd = _open_pipe(theirs, ours)
            heard_fd, report_fd = _open_pipe(ours, theirs)
            seen_fd, stacks_fd = _open_pipe(ours, theirs)
            pid = self._start(spec, commands_fd, report_fd, stacks_fd, told_fd=told_fd)
            ours.pop_all()  # they are the process's from here on
        return Process(pid, told_fd, heard_fd, seen_fd)

    def _start(self, spec: ChildSpec, commands_fd: int, report_fd: int, stacks_fd: int, *, told_fd: int) -> int:
        for app_server in (self._app_server, self._base):
            if app_server is not None:
                try:
                    return app_server.start(spec, commands_fd, report_fd, stacks_fd)
                except ForkServerLost as error:
                    self._lose(app_server, error)
        process = subprocess.Popen(
            [sys.executable, "-m", "pspf.runtime.worker.child"],
            stdin=commands_fd,
            pass_fds=[report_fd, stacks_fd],
            process_group=0,
        )
        self._afresh[process.pid] = process
        told = {"spec": spec.to_json(), "report_fd": report_fd, "stacks_fd": stacks_fd}
        with contextlib.suppress(BrokenPipeError):  # it has ended already: collecting it says how
            os.write(told_fd, json.dumps(told).encode() + b"\n")
        return process.pid

    def load(self, target: str, folder: Path, backend: str | None) -> ForkServer | None:
        """Begin to import the new app; None where no fork server can."""
        if self._base is None:
            return None
        try:
            return self._base.load(target, folder, backend)
        except ForkServerLost as error:
            self._lose(self._base, error)
            return None

    def adopt(self, app_server: ForkServer | None) -> None:
        """Take processes from this app server from now on; without one they import the app by themselves."""
        if self._app_server is not None:
            self._app_server.close()
        self._app_server = app_server

    def forget(self, pid: int, returncode: int) -> None:
        """Take note that a process was collected."""
        process = self._afresh.pop(pid, None)
        if process is not None:
            process.returncode = returncode  # so that it does not try to collect it again

    def close(self) -> None:
        """Let the fork servers end."""
        for app_server in (self._app_server, self._base):
            if app_server is not None:
                app_server.close()

    def _lose(self, app_server: ForkServer, error: ForkServerLost) -> None:
        self._say(f"{error}; new processes import the app by themselves")
        app_server.close()
        if app_server is self._base:
            self._base = None
        else:
            self._app_server = None


def _open_pipe(reader: contextlib.ExitStack, writer: contextlib.ExitStack) -> tuple[int, int]:
    """Return the ends of a new pipe, which the stacks of who reads and who writes close."""
    ends = os.pipe()
    reader.callback(os.close, ends[0])
    writer.callback(os.close, ends[1])
    return ends


def now_ms() -> int:
    """Milliseconds of the monotonic clock."""
    return time.monotonic_ns() // 1_000_000
