"""The threads beside a worker: the admin's and the file watcher's go on after what they met, and say so."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pspf.observability.snapshots import AdminSpec
from pspf.observability.worker_status import WorkerStatus
from pspf.runtime.control.admin_process import AdminThread, _Running
from pspf.runtime.control.presence import WorkerCommand
from pspf.runtime.status.totals import Tally
from pspf.runtime.supervision.reloading import FileWatcher
from tests.support.waiting import wait_until


class Control:
    """A worker that fails at the first look, and at a stop."""

    def __init__(self) -> None:
        self.looks = 0

    def describe(self) -> WorkerStatus:
        return WorkerStatus()

    def tally(self) -> Tally:
        self.looks += 1
        if self.looks == 1:
            raise KeyError("a mistake")
        return Tally()

    def obey(self, command: WorkerCommand, answer: Callable[[Mapping[str, Any]], None]) -> None:
        if command.do == "stop":
            raise ZeroDivisionError("a mistake")
        answer({"ok": command.do})


def make_thread(control: Control, listener: socket.socket) -> AdminThread:
    spec = AdminSpec(
        worker="w",
        host="h",
        pid=1,
        app="app",
        started_ms=0,
        broker="memory://",
        backend=None,
        admin_fd=listener.fileno(),
        metrics_fd=None,
        is_exposed=False,
        is_metrics_exposed=False,
        hosts=(),
        token="t" * 16,
        level="INFO",
        log_format="plain",
    )
    return AdminThread(spec, control, [], [listener])


async def test_an_admin_goes_on_after_a_worker_that_could_not_be_looked_at(caplog: pytest.LogCaptureFixture) -> None:
    control = Control()
    with closing(socket.create_server(("127.0.0.1", 0))) as listener, make_thread(control, listener):

        async def is_looked_at_again() -> bool:
            return control.looks > 2

        await wait_until(is_looked_at_again, timeout_ms=30_000)
    assert "the thread behind the admin failed, it starts again: KeyError" in caplog.text


def test_a_request_that_fails_is_answered_and_the_next_one_is_heard(caplog: pytest.LogCaptureFixture) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        thread = make_thread(Control(), listener)
        ours, theirs = socket.socketpair()
        process = subprocess.Popen([sys.executable, "-c", ""])
        process.wait(30)
        running = _Running(process, ours, bytearray(), bytearray(), 0.0, 0.0)
        with ours, theirs:
            for line in (b"no json", b'{"id": "1", "do": "stop"}', b'{"id": "2", "do": "ping"}'):
                theirs.sendall(line + b"\n")
            assert thread._receive(running)
        answers = [json.loads(answer) for answer in thread._answers]
        for each in (thread._wake, thread._woken):
            each.close()
    assert "ZeroDivisionError" in str(answers[0])
    assert len(answers) == 2
    assert caplog.text.count("a request of the admin failed") == 2


async def test_a_save_is_seen_after_one_that_could_not_be_handled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saves: list[str] = []

    def on_save(what: str) -> None:
        saves.append(what)
        if len(saves) == 1:
            raise KeyError("a mistake")

    with FileWatcher(tmp_path, on_save):
        number = 0

        async def is_seen_again() -> bool:
            nonlocal number
            number += 1
            (tmp_path / "app.py").write_text(f"x = {number}")
            return len(saves) > 1

        await wait_until(is_seen_again, timeout_ms=30_000)
    assert "the watch over the source files" in caplog.text


async def test_a_folder_that_is_missing_for_a_while_is_watched_once_it_is_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saves: list[str] = []
    folder = tmp_path / "src"
    with FileWatcher(folder, saves.append):

        async def is_told() -> bool:
            return "the watch over the source files" in caplog.text

        await wait_until(is_told)
        folder.mkdir()
        number = 0

        async def is_seen() -> bool:
            nonlocal number
            number += 1
            (folder / "app.py").write_text(f"x = {number}")
            return bool(saves)

        await wait_until(is_seen, timeout_ms=30_000)
