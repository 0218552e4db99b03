"""Admin process of a worker: serves HTTP, reads snapshots of the worker and sends it commands.

    worker (supervisor, or the one process) --thread, socket--> python -m pspf.admin <--HTTP

Whatever comes over HTTP, the worker only ever reads short lines from a socket. The process may crash or
hang: it is started again, on the same ports. It ends when the socket is closed, however the worker ended.
"""

import contextlib
import functools
import json
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, Self

from pspf.backoff import Backoff
from pspf.concurrency.background import attempt, keep_running
from pspf.loggers import get_logger
from pspf.observability.snapshots import AdminSpec, HandlerShape, Snapshot, encode_answer
from pspf.observability.worker_status import WorkerStatus
from pspf.runtime.control.presence import WorkerCommand
from pspf.runtime.status.totals import Tally

logger = get_logger(__name__)

_TICK_S: Final = 0.5
_HUNG_S: Final = 15.0
"""How long the process may read nothing of its socket."""
_HEALTHY_S: Final = 60.0
_LEAVE_S: Final = 2.0
_RESTART_INITIAL_MS: Final = 1_000
_RESTART_MAX_MS: Final = 60_000


class Control(Protocol):
    """What the admin sees of a worker, and asks of it; all of it from the admin's thread."""

    def describe(self) -> WorkerStatus: ...
    def tally(self) -> Tally: ...
    def obey(self, command: WorkerCommand, answer: Callable[[Mapping[str, Any]], None]) -> None: ...


@dataclass(slots=True)
class _Running:
    """The process as it runs: `unsent` is what it has not taken yet."""

    process: "subprocess.Popen[bytes]"
    connection: socket.socket
    unsent: bytearray
    received: bytearray
    started_at: float
    took_at: float


class AdminThread:
    """Keeps an admin process running while the `with` block does.

    `handlers` is replaced when the app is reloaded.
    """

    def __init__(
        self, spec: AdminSpec, control: Control, handlers: Sequence[HandlerShape], listeners: Sequence[socket.socket]
    ) -> None:
        self.handlers = tuple(handlers)
        self._spec = spec
        self._control = control
        self._listeners = listeners
        self._answers: list[bytes] = []
        self._mutex = threading.Lock()
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._over = threading.Event()
        self._backoff = Backoff(_RESTART_INITIAL_MS, _RESTART_MAX_MS)
        self._thread = threading.Thread(target=self._run, name="pspf-admin", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._poke()
        self._thread.join(2 * _LEAVE_S)
        for each in (self._wake, self._woken):
            each.close()

    def _poke(self) -> None:
        with contextlib.suppress(OSError):
            self._wake.send(b"\0")

    # The thread

    def _run(self) -> None:
        keep_running("the thread behind the admin", self._keep_serving, rest=self._rest, is_over=self._over.is_set)

    def _keep_serving(self) -> None:
        while not self._over.is_set():
            running = self._start()
            try:
                self._attend(running)
            finally:
                how = self._end(running)
            if self._over.is_set():
                return
            if time.monotonic() - running.started_at > _HEALTHY_S:
                self._backoff.reset()
            wait_ms = self._backoff.next_ms()
            logger.warning(
                "the admin's process %s; the worker goes on, and another admin starts in %.1f s", how, wait_ms / 1000
            )
            self._rest(wait_ms / 1000)

    def _rest(self, for_s: float) -> None:
        due = time.monotonic() + for_s
        while not self._over.is_set() and (left := due - time.monotonic()) > 0:
            self._woken.settimeout(left)
            with contextlib.suppress(TimeoutError):
                self._woken.recv(64)

    def _start(self) -> _Running:
        ours, theirs = socket.socketpair()
        with contextlib.ExitStack() as stack, theirs:
            stack.callback(ours.close)
            process = subprocess.Popen(
                [sys.executable, "-m", "pspf.admin"],
                stdin=theirs.fileno(),
                pass_fds=[listener.fileno() for listener in self._listeners],
                process_group=0,  # Ctrl-C is the worker's to see
            )
            stack.pop_all()
        ours.setblocking(False)
        now = time.monotonic()
        level = logging.getLevelName(get_logger("pspf").level)
        return _Running(process, ours, bytearray(replace(self._spec, level=level).encode()), bytearray(), now, now)

    def _attend(self, running: _Running) -> None:
        """Tell and listen until the process is gone, hangs, or is not needed any more."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            selector.register(running.connection, selectors.EVENT_READ)
            told_at = 0.0
            while not self._over.is_set():
                now = time.monotonic()
                self._queue(running, with_snapshot=now - told_at >= _TICK_S)
                told_at = now if now - told_at >= _TICK_S else told_at
                if not self._send(running):
                    return
                ready = selector.select(max(0.0, told_at + _TICK_S - time.monotonic()))
                if any(key.fileobj is self._woken for key, _ in ready):
                    self._woken.recv(64)
                if any(key.fileobj is running.connection for key, _ in ready) and not self._receive(running):
                    return

    def _queue(self, running: _Running, *, with_snapshot: bool) -> None:
        with self._mutex:
            answers, self._answers = self._answers, []
        running.unsent += b"".join(answers)
        if with_snapshot and not running.unsent:  # a process that falls behind gets the next one
            tally = self._control.tally()
            level = logging.getLevelName(get_logger("pspf").level)
            status = self._control.describe()
            running.unsent += Snapshot(status, tally.counters, tally.restarts, self.handlers, level).encode()

    def _send(self, running: _Running) -> bool:
        """Send what it takes; return False where it is gone or hangs."""
        now = time.monotonic()
        if not running.unsent:
            running.took_at = now
            return True
        try:
            sent = running.connection.send(running.unsent)
        except BlockingIOError:
            return now - running.took_at < _HUNG_S
        except OSError:
            return False
        del running.unsent[:sent]
        running.took_at = now
        return True

    def _receive(self, running: _Running) -> bool:
        try:
            chunk = running.connection.recv(65536)
        except BlockingIOError:
            return True
        except OSError:
            return False
        running.received += chunk
        *lines, rest = running.received.split(b"\n")
        running.received = bytearray(rest)
        for line in lines:
            attempt("a request of the admin", functools.partial(self._obey, bytes(line)))
        return bool(chunk)

    def _obey(self, line: bytes) -> None:
        command = WorkerCommand.from_fields(json.loads(line))
        answer = functools.partial(self._answer, command.command_id)
        try:
            self._control.obey(command, answer)
        except Exception as error:
            answer({"error": f"{command.do:.40} failed: {error!r}"})
            raise

    def _answer(self, command_id: str, answer: Mapping[str, Any]) -> None:
        with self._mutex:
            self._answers.append(encode_answer(command_id, answer))
        self._poke()

    def _end(self, running: _Running) -> str:
        """Close its socket, which ends it, else kill it; return what it did.

        The supervisor may collect it first, so that its exit code is not known here.
        """
        running.connection.close()
        try:
            running.process.wait(_LEAVE_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.kill(running.process.pid, signal.SIGKILL)
            running.process.wait()
            return "hung"
        return "ended"
