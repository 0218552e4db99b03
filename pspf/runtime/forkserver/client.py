"""Client of the fork server: a process with one thread and nothing open, which forks worker processes.

    the command --fork, before the app is imported--> base --fork, imports the new app--> app_server --fork--> child
         |                                                    (a reload)
         +------fork, with the app imported----------------------------------------------> app_server --fork--> child

An app server shares what it has imported with its children, so that one starts in a few milliseconds and
costs the memory that it changes. An app whose import leaves threads or sockets behind can't be forked;
its children come from the base and import it by themselves.

A child is forked twice, so that the process in between ends at once and the child falls to the
nearest "subreaper": the supervisor, which then is its parent, as if it had started it.
"""

import json
import os
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from pspf.errors import PSPFError
from pspf.runtime.app.plan import AppPlan, ChildSpec

IS_AVAILABLE: Final = sys.platform == "linux"
"""Elsewhere no process can adopt those that others forked: every child is started afresh."""

MAX_MESSAGE_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Loaded:
    """What an app server has imported: the plan, and why its children have to import the app again, None where not."""

    plan: AppPlan
    why_not_shared: str | None


@dataclass(frozen=True, slots=True)
class Failed:
    """Why an app server could not import the app: the kind of error and its message."""

    kind: str
    message: str


class ForkServerLost(PSPFError):
    """The app server has ended; start processes in another way."""


class ForkServer:
    """An app server as the supervisor sees it. Linux only, and to be forked while the process has one thread."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    @classmethod
    def fork(cls, serve: Callable[[socket.socket], None], *, beside: "ForkServer | None" = None) -> Self:
        """Fork this process into an app server, which does what `serve` does; it has nothing of one `beside` it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        _fork(lambda: serve(theirs), closing=[ours] if beside is None else [ours, beside._connection])
        theirs.close()
        return cls(ours)

    def fileno(self) -> int:
        """Return what can be read when it has `answer`ed, or has ended."""
        return self._connection.fileno()

    def load(self, target: str, folder: Path, backend: str | None) -> "ForkServer":
        """Ask a base for an app server with an app; its first `answer` tells whether the import worked.

        `backend` is the URL of the broker that the app is to run on, None: the one that it names.

        Raises:
            ForkServerLost: The base has ended.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._send({"load": {"target": target, "folder": str(folder), "backend": backend}}, [theirs.fileno()])
            self._receive()
        except ForkServerLost:
            ours.close()
            raise
        finally:
            theirs.close()
        return ForkServer(ours)

    def answer(self) -> Loaded | Failed:
        """Return what came of `load`; waits for it.

        Raises:
            ForkServerLost: The import has ended the process.
        """
        answer = self._receive()
        if "kind" in answer:
            return Failed(**answer)
        return Loaded(AppPlan.from_json(answer["plan"]), answer["why_not_shared"])

    def start(self, spec: ChildSpec, commands_fd: int, report_fd: int, stacks_fd: int) -> int:
        """Fork a child that gets copies of these descriptors; return its pid: it is a child of this process.

        Raises:
            ForkServerLost: The app server has ended.
            OSError: The system has no process for it.
        """
        self._send({"start": spec.to_json()}, [commands_fd, report_fd, stacks_fd])
        answer = self._receive()
        if not answer["pid"]:  # 0 stands for a whole group of processes: never to be signalled
            raise OSError(f"no process can be forked: {answer.get('why', 'the fork failed')}")
        return int(answer["pid"])

    def close(self) -> None:
        """Let it end; its children go on."""
        self._connection.close()

    def _send(self, message: dict[str, Any], descriptors: Sequence[int]) -> None:
        try:
            socket.send_fds(self._connection, [json.dumps(message).encode()], list(descriptors))
        except OSError as error:
            raise ForkServerLost(f"the process that forks the workers is gone: {error}") from error

    def _receive(self) -> dict[str, Any]:
        try:
            answer = self._connection.recv(MAX_MESSAGE_BYTES)
        except OSError as error:
            raise ForkServerLost(f"the process that forks the workers is gone: {error}") from error
        if not answer:
            raise ForkServerLost("the process that forks the workers has ended")
        return dict(json.loads(answer))


def _fork(work: Callable[[], None], *, closing: Sequence[socket.socket]) -> None:
    """Run `work` in a fork, to the end of that process, which closes what is not its own."""
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork():
        return
    for connection in closing:
        connection.close()
    try:
        work()
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        raise SystemExit(1) from None
    raise SystemExit(0)
