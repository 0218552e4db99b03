"""The process that `tests.support.forks` forks from: it has PSPF imported, and nothing else done.

    tests --module, arguments, folder, environment, 4 descriptors--> server --fork--> runs the module
          <--pid-----------------------------------------------------
          <--exit code, on the fourth descriptor---------------------

A fork becomes what `python -m MODULE ARGUMENTS` in that folder and environment would be. No app is
imported before, no setting read and nothing opened; what an interpreter decides at its start by
`PYTHON...` variables other than the path and the warnings is as it was when the server started.
"""

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import warnings
from typing import Any, Final

MAX_MESSAGE_BYTES: Final = 1 << 18
_PRELOADED: Final = (
    "asyncio",
    "uvloop",
    "pspf.cli.main",
    "pspf.cli.services.project",
    "pspf.connectors.sqlite.broker",
    "pspf.connectors.valkey.broker",
    "pspf.engine.operators.host",
    "pspf.runtime.in_process",
    "pspf.runtime.processes",
    "pspf.settings.model",
    "pspf.stream",
    "pspf.observability.tracing",
)


def serve(connection: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Fork what is asked for until nobody is left to ask; in a fork, return what was asked for and its descriptors."""
    running: dict[int, int] = {}  # the descriptor to tell its exit code on, by pid
    woken, wakes = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wakes, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    while True:
        ready, _, _ = select.select([connection.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _collect(running)
        if connection.fileno() not in ready:
            continue
        message, descriptors, _, _ = socket.recv_fds(connection, MAX_MESSAGE_BYTES, 4)
        if not message:
            return None
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            connection.detach()  # it is closed with all others, and its number may be another's then
            return json.loads(message), descriptors
        *theirs, running[pid] = descriptors
        for descriptor in theirs:
            os.close(descriptor)
        connection.send(str(pid).encode())


def _collect(running: dict[int, int]) -> None:
    """Tell the exit codes of those that have ended; a signal's is negative."""
    for pid in list(running):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            descriptor = running.pop(pid)
            os.write(descriptor, str(os.waitstatus_to_exitcode(status)).encode())
            os.close(descriptor)


def become(wanted: dict[str, Any], descriptors: list[int], path: list[str]) -> None:
    """Be what `python -m` would be; `path` is where an interpreter looks when it is told nothing."""
    for number, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.chdir(wanted["folder"])
    os.environ.clear()
    os.environ.update(wanted["environment"])
    more = os.environ.get("PYTHONPATH", "")
    sys.path[:] = dict.fromkeys([os.getcwd(), *(more.split(os.pathsep) if more else ()), *path])
    sys.path_importer_cache.clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]
    _open_standard_streams()
    if warned := os.environ.get("PYTHONWARNINGS"):
        sys.warnoptions[:] = [warned]
        warnings.simplefilter(warned)  # type: ignore[arg-type]  # one that is no action's name is refused
    sys.argv[:] = ["-m", *wanted["arguments"]]
    runpy.run_module(wanted["module"], run_name="__main__", alter_sys=True)


def _open_standard_streams() -> None:
    """Open what the descriptors are now: buffered by line on a terminal, and in blocks elsewhere, as at a start."""
    encoding, errors = sys.stdout.encoding, sys.stdout.errors
    standard = ((0, "r", -1, errors), (1, "w", -1, errors), (2, "w", 1, "backslashreplace"))
    opened: list[Any] = [
        open(number, mode, buffering, encoding, how, closefd=False)  # noqa: SIM115  # open as long as the process
        for number, mode, buffering, how in standard
    ]
    sys.stdin, sys.stdout, sys.stderr = opened
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]  # are Final


def main() -> None:
    """Serve on the descriptor that is the argument."""
    interrupted = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the tests' to see, which then end this
    path = sys.path[1:]
    for name in _PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a fork would copy what it shares with the others
    if (asked := serve(socket.socket(fileno=int(sys.argv[1])))) is not None:
        signal.signal(signal.SIGINT, interrupted)
        become(*asked, path)


if __name__ == "__main__":
    main()
