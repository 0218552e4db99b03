"""Processes of `pspf` that are forked with PSPF imported: each costs a third of one that starts from nothing.

They are processes like others: their own signals, exit codes, environment, folder and files. What is theirs
alone in a process that starts from nothing is the import itself, the seed of `hash()`, and being a child of the test.
"""

import atexit
import contextlib
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Final

from tests.support.fork_server import MAX_MESSAGE_BYTES

_ROOT: Final = Path(__file__).parents[2]
_FOLLOWED: Final = ("PYTHONPATH", "PYTHONWARNINGS")


class Fork:
    """A forked process, to be used as a `subprocess.Popen`."""

    def __init__(self, pid: int, ended_fd: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        """Negative where a signal ended it."""
        self._ended_fd = ended_fd

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end for at most `timeout` seconds; return the exit code.

        Raises:
            subprocess.TimeoutExpired: It still runs.
        """
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._ended_fd, select.POLLIN)
            if not poll.poll(None if timeout is None else timeout * 1_000):
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            self.returncode = int(os.read(self._ended_fd, 16))
            os.close(self._ended_fd)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal; nothing where it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send it SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send it SIGKILL."""
        self.send_signal(signal.SIGKILL)


class _Server:
    """The process that the forks come from; it ends with this one."""

    def __init__(self) -> None:
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.fork_server", str(theirs.fileno())],
                cwd=_ROOT,
                env={name: value for name, value in os.environ.items() if name not in _FOLLOWED},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        self._lock = threading.Lock()
        atexit.register(self._end)

    def fork(self, wanted: Mapping[str, object], descriptors: tuple[int, int, int]) -> Fork:
        read_fd, write_fd = os.pipe()
        try:
            with self._lock:
                socket.send_fds(self._connection, [json.dumps(wanted).encode()], [*descriptors, write_fd])
                pid = int(self._connection.recv(MAX_MESSAGE_BYTES))
        finally:
            os.close(write_fd)
        return Fork(pid, read_fd)

    def _end(self) -> None:
        self._connection.close()
        self._process.wait()


@functools.cache
def _server() -> _Server:
    return _Server()


def start(
    *arguments: str,
    folder: Path,
    environment: Mapping[str, str],
    output: IO[bytes],
    errors: IO[bytes] | None = None,
    stdin: int | None = None,
    module: str = "pspf",
) -> Fork:
    """Fork a process that does what `python -m MODULE ARGUMENTS` would, in `folder`, with this environment alone.

    What it says goes to `output`, and with `errors` its stderr there; without a descriptor for `stdin` it has none.

    Raises:
        ValueError: A `PYTHON...` variable is not this process's: a fork can't follow it, start one from nothing.
    """
    for name in (name for name in environment if name.startswith("PYTHON") and name not in _FOLLOWED):
        if environment[name] != os.environ.get(name):
            raise ValueError(f"{name} decides at an interpreter's start; start this one from nothing")
    wanted = {"module": module, "arguments": arguments, "folder": str(folder), "environment": dict(environment)}
    with open(os.devnull, "rb") as nothing:
        descriptors = (
            nothing.fileno() if stdin is None else stdin,
            output.fileno(),
            (errors or output).fileno(),
        )
        return _server().fork(wanted, descriptors)


def run(
    *arguments: str,
    folder: Path,
    environment: Mapping[str, str],
    stdin: bytes | None = None,
    timeout_s: float = 60,
    module: str = "pspf",
) -> "subprocess.CompletedProcess[bytes]":
    """Run what `start` starts to its end, with `stdin` in a pipe; return its exit code and what it said.

    Raises:
        subprocess.TimeoutExpired: It took longer, and was killed.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        read_fd, write_fd = os.pipe()
        writer = threading.Thread(target=_write, args=(write_fd, stdin or b""), daemon=True)
        writer.start()
        try:
            process = start(
                *arguments,
                folder=folder,
                environment=environment,
                output=output,
                errors=errors,
                stdin=None if stdin is None else read_fd,
                module=module,
            )
        finally:
            os.close(read_fd)
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        writer.join()
        output.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(arguments, code, output.read(), errors.read())


def _write(descriptor: int, text: bytes) -> None:
    with contextlib.suppress(BrokenPipeError), os.fdopen(descriptor, "wb") as pipe:
        pipe.write(text)
