"""A worker's processes: starts one or more for each topic group, passes signals on, and tells how it ended.

Knows processes and what to tell them, no Stream. A child learns its `ChildSpec` from a line on its
stdin, which then stays open: its end tells the child that this process is gone. What a child has to
report comes as one line of JSON through a pipe of its own.
"""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any, Final

import pspf.errors
from pspf.errors import PSPFError
from pspf.runtime.plan import ChildSpec, Totals

_CHECK_S: Final = 1.0
_GRACE_S: Final = 3.0
"""How much later than its own deadline a child is killed; it ends itself, unless it is stopped or stuck in C code."""
_BURST_TIMED_OUT: Final = 9
_STOPPED: Final = (128 + signal.SIGINT, 128 + signal.SIGTERM)


@dataclass(slots=True)
class _Child:
    """One process: `report_fd` is where its report comes from, `returncode` None while it runs."""

    spec: ChildSpec
    process: "subprocess.Popen[bytes]"
    report_fd: int
    report: bytearray = field(default_factory=bytearray)
    returncode: int | None = None

    def __str__(self) -> str:
        return f"{self.spec.label}, pid {self.process.pid}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How all processes ended: the exit code, what they did together, and an error that one of them reported."""

    code: int
    totals: Totals
    error: PSPFError | None


class Supervisor:
    """The processes of one worker, from start to end.

        running --signal, or a child that failed--> stopping --all have ended--> Outcome

    Signals are queued by the handler and handled by the loop. The first and the second are passed on
    to every child once each (the children have process groups of their own, so that Ctrl-C on a
    terminal doesn't reach them twice); the third ends everything at once.
    """

    def __init__(self, specs: Sequence[ChildSpec], *, drain_timeout_ms: int, say: Callable[[str], None]) -> None:
        self._specs = specs
        self._drain_timeout_ms = drain_timeout_ms
        self._say = say
        self._children: list[_Child] = []
        self._signals: deque[int] = deque()
        self._signals_passed_on = 0
        self._kill_at: float | None = None
        self._failure: str | None = None

    def run(self) -> Outcome:
        """Run all processes until the last one has ended. Main thread only; SIGTERM and SIGINT stay taken over."""
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        os.set_blocking(wake_read, False)
        selector = selectors.DefaultSelector()
        selector.register(wake_read, selectors.EVENT_READ)
        before = signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        # SIGCHLD only wakes the loop up.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, self._on_signal)
        try:
            for spec in self._specs:
                self._children.append(_start(spec))
                selector.register(self._children[-1].report_fd, selectors.EVENT_READ, self._children[-1])
            while any(child.returncode is None for child in self._children):
                for key, _ in selector.select(_CHECK_S):
                    if key.data is None:
                        os.read(wake_read, 4096)
                    elif not _read_report(key.data):
                        selector.unregister(key.fileobj)
                self._pass_signals_on()
                self._collect()
                self._enforce_deadline()
        finally:
            self._kill_all()
            signal.set_wakeup_fd(before)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            # What the caller still does, it does for the record: one more signal ends it.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda number, frame: os._exit(128 + number))
            selector.close()
            for descriptor in (wake_read, wake_write, *(child.report_fd for child in self._children)):
                os.close(descriptor)
        return self._outcome()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            self._signals.append(number)

    def _pass_signals_on(self) -> None:
        while self._signals:
            number = self._signals.popleft()
            if self._signals_passed_on == 0:
                self._say("stopping: batches in hand are finished; a second signal gives them up")
            if self._signals_passed_on >= 2:
                self._kill_all()
                os._exit(128 + number)
            self._stop(number)

    def _stop(self, number: int) -> None:
        self._signals_passed_on += 1
        for child in self._children:
            if child.returncode is None:
                child.process.send_signal(number)
        limit_s = self._drain_timeout_ms / 1000 if self._signals_passed_on == 1 else 1.0
        self._kill_at = time.monotonic() + limit_s + _GRACE_S

    def _collect(self) -> None:
        """Notice who has ended; one that failed ends the others, in order."""
        for child in self._children:
            if child.returncode is not None or child.process.poll() is None:
                continue
            while _read_report(child):
                pass
            child.returncode = child.process.returncode
            if child.process.stdin is not None:
                child.process.stdin.close()
            if self._signals_passed_on and child.returncode in (-signal.SIGTERM, -signal.SIGINT):
                child.returncode = 0  # so young that it had no handler for our signal yet, and nothing in hand
            if child.returncode == 0 or (child.returncode in _STOPPED and self._signals_passed_on):
                continue
            if child.returncode != _BURST_TIMED_OUT and "error" not in _parse_report(child):
                self._say(f"worker process {child} {_describe_end(child.returncode)}")
            if self._signals_passed_on == 0:
                self._stop(signal.SIGTERM)

    def _enforce_deadline(self) -> None:
        if self._kill_at is not None and time.monotonic() > self._kill_at:
            self._kill_all()

    def _kill_all(self) -> None:
        for child in self._children:
            if child.returncode is None and child.process.poll() is None:
                child.process.kill()
                child.process.wait()

    def _outcome(self) -> Outcome:
        totals = Totals()
        error: PSPFError | None = None
        for child in self._children:
            report = _parse_report(child)
            totals += Totals(**report.get("totals", {}))
            if error is None and "error" in report:
                error = _error_from(report["error"])
        return Outcome(_choose_code([child.returncode or 0 for child in self._children]), totals, error)


def _start(spec: ChildSpec) -> _Child:
    read_fd, write_fd = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "pspf.runtime.child"], stdin=subprocess.PIPE, pass_fds=[write_fd], process_group=0
        )
    finally:
        os.close(write_fd)
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has ended already: collecting it says how
        process.stdin.write(replace(spec, report_fd=write_fd).to_json().encode() + b"\n")
        process.stdin.flush()
    os.set_blocking(read_fd, False)
    return _Child(spec, process, read_fd)


def _read_report(child: _Child) -> bool:
    """Take what the child has written; False at the end."""
    try:
        chunk = os.read(child.report_fd, 65536)
    except BlockingIOError:
        return False
    child.report += chunk
    return bool(chunk)


def _parse_report(child: _Child) -> dict[str, Any]:
    """Return the child's report; one that was killed half-way has none."""
    try:
        report = json.loads(child.report or b"{}")
    except ValueError:
        return {}
    return report if isinstance(report, dict) else {}


def _error_from(report: dict[str, Any]) -> PSPFError:
    """Return the error that a child ended with, so that this process ends with the same exit code."""
    kind = getattr(pspf.errors, str(report.get("kind")), PSPFError)
    message = str(report.get("message"))
    try:
        error = kind(message)
    except TypeError:  # an error with more than a message
        error = PSPFError(message)
    return error if isinstance(error, PSPFError) else PSPFError(message)


def _describe_end(returncode: int) -> str:
    if returncode < 0:
        try:
            return f"was ended by {signal.Signals(-returncode).name}"
        except ValueError:
            return f"was ended by signal {-returncode}"
    return f"ended with exit code {returncode}"


def _choose_code(returncodes: Sequence[int]) -> int:
    """Return the exit code of all: 0, a code that has a meaning of its own, else 1."""
    failed = [code for code in returncodes if code != 0]
    for code in (_BURST_TIMED_OUT, *_STOPPED):
        if failed and all(other == code or other in _STOPPED for other in failed) and code in failed:
            return code
    return 1 if failed else 0
