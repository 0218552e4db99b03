"""Fork server: imports an app, and forks the processes that run it."""

import fcntl
import gc
import json
import os
import signal
import socket
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, NoReturn

from pspf.connectors.urls import make_broker
from pspf.errors import PSPFError
from pspf.runtime.app.loader import LoadedApp, load_app
from pspf.runtime.app.plan import ChildSpec
from pspf.runtime.forkserver.client import MAX_MESSAGE_BYTES, Failed
from pspf.runtime.worker.child import read_lines, run_child
from pspf.runtime.worker.prctl import FORK_SERVER, name_process

_MAX_FDS: Final = 4
_TASKS: Final = Path("/proc/self/task")
_DESCRIPTORS: Final = Path("/proc/self/fd")


def why_not_forkable(own_sockets: int) -> str | None:
    """Return what of this process a fork would break, None where nothing would; `own_sockets` are harmless."""
    threads = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    if threads:
        return f"it starts threads while it is imported ({', '.join(threads[:3])})"
    if len(list(_TASKS.iterdir())) > 1:
        return "a library starts threads while it is imported"
    opened = [number for number in _DESCRIPTORS.iterdir() if _read_link(number).startswith("socket:")]
    if sum(1 for number in opened if number.name not in ("0", "1", "2")) > own_sockets:
        return "it opens sockets while it is imported"
    return None


def _read_link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:  # the descriptor that lists the others
        return ""


def serve(connection: socket.socket, loaded: LoadedApp | None) -> None:
    """Serve requests to fork, until no client is left. Doesn't return but in a new child."""
    os.setpgid(0, 0)  # Ctrl-C is the supervisor's to see
    name_process(FORK_SERVER)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN if number == signal.SIGHUP else signal.SIG_DFL)
    gc.collect()
    gc.freeze()  # a collection in a child would copy what it shares with the others
    while True:
        message, descriptors = _receive_request(connection)
        if "start" in message:
            _start(connection, ChildSpec.from_json(message["start"]), descriptors, loaded)
        else:
            _load(connection, message["load"], descriptors[0])


def _receive_request(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    with suppress(OSError):
        message, descriptors, _, _ = socket.recv_fds(connection, MAX_MESSAGE_BYTES, _MAX_FDS)
        if message:
            return json.loads(message), descriptors
    os._exit(0)


def _start(connection: socket.socket, spec: ChildSpec, descriptors: Sequence[int], loaded: LoadedApp | None) -> None:
    try:
        read_fd, write_fd = os.pipe()
        between = os.fork()
    except OSError as error:  # the supervisor tries again
        _answer(connection, {"pid": 0, "why": error.strerror})
        return
    if not between:
        connection.close()
        os.close(read_fd)
        _start_in_between(spec, descriptors, loaded, write_fd)
    os.close(write_fd)
    for descriptor in descriptors:
        os.close(descriptor)
    pid = int(os.read(read_fd, 32) or b"0")
    os.close(read_fd)
    os.waitpid(between, 0)  # by now the child is the supervisor's
    _answer(connection, {"pid": pid})


def _start_in_between(spec: ChildSpec, descriptors: Sequence[int], loaded: LoadedApp | None, write_fd: int) -> NoReturn:
    pid = os.fork()
    if pid:
        os.write(write_fd, str(pid).encode())
        os._exit(0)
    os.close(write_fd)
    os.setpgid(0, 0)
    commands_fd, report_fd, stacks_fd = descriptors
    try:
        code = run_child(spec, read_lines(commands_fd), report_fd, stacks_fd, loaded)
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        code = 1
    raise SystemExit(code)


def _load(connection: socket.socket, wanted: dict[str, str], descriptor: int) -> None:
    """Fork twice, into an app server that imports the app and answers on `descriptor`."""
    between = os.fork()
    if not between:
        if os.fork():
            os._exit(0)
        connection.close()
        theirs = socket.socket(fileno=descriptor)
        loaded = _answer_load(theirs, wanted)
        serve(theirs, loaded)
    os.close(descriptor)
    os.waitpid(between, 0)
    _answer(connection, {})


def _answer_load(connection: socket.socket, wanted: dict[str, Any]) -> LoadedApp:
    os.setpgid(0, 0)
    _end_with(connection, True)
    try:
        loaded = load_app(wanted["target"], Path(wanted["folder"]))
        if wanted["backend"] is not None:
            loaded.stream.bind(make_broker(wanted["backend"]))
        loaded.stream.check()
        plan = loaded.make_plan()
    except PSPFError as error:
        _answer(connection, asdict(Failed(type(error).__name__, str(error))))
        os._exit(0)
    _end_with(connection, False)
    _answer(connection, {"plan": plan.to_json(), "why_not_shared": why_not_forkable(own_sockets=1)})
    return loaded


def _end_with(connection: socket.socket, is_on: bool) -> None:
    """Have the kernel end this process with the other end of `connection`, whatever it is at: by SIGIO."""
    fcntl.fcntl(connection, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(connection, fcntl.F_GETFL)
    fcntl.fcntl(connection, fcntl.F_SETFL, flags | os.O_ASYNC if is_on else flags & ~os.O_ASYNC)


def _answer(connection: socket.socket, answer: dict[str, Any]) -> None:
    with suppress(OSError):  # the supervisor is gone; the next request, which never comes, ends this process
        connection.send(json.dumps(answer).encode())
