"""The embedded broker's writers' lock in the hands of a process that stands still: stops are bounded, and name it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.process.commands import Folder, Running, quickest, state_of, wait_until

KEEPS = """
import signal, sys
from pathlib import Path
import apsw
from pspf.connectors.sqlite.writers import WritersQueue

queue = WritersQueue(Path(sys.argv[1]))
if sys.argv[2] == "queue":
    queue.open()
    queue.enter()
connection = apsw.Connection(sys.argv[1])
connection.execute("BEGIN IMMEDIATE").fetchall()
print("keeps it", flush=True)
signal.pause()
"""
HERE = pytest.mark.parametrize("where", [(), ("--in-process",)], ids=["children", "in-process"])
STUCK = "nothing can be stored now"
DRAIN_S = 2.0
LATE_S = 4.0
"""How much later than its time-out a worker may have ended: 1 s to give up, the rest for a loaded machine."""


@contextmanager
def kept(folder: Folder, *, by: str = "queue") -> Iterator[int]:
    """Have the lock kept by a process that is stopped; give its pid."""
    database = folder.path / ".pspf" / "broker.db"
    with subprocess.Popen([sys.executable, "-c", KEEPS, str(database), by], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"keeps it\n"
            process.send_signal(signal.SIGSTOP)
            wait_until(lambda: state_of(process.pid) == "T")
            if by == "queue":  # for longer than a commit takes
                wait_until(lambda: STUCK in folder.look("topics", "list").err)
            yield process.pid
        finally:
            process.kill()


@contextmanager
def stuck_worker(folder: Folder, *arguments: str) -> Iterator[tuple[Running, int]]:
    """Start a worker with a record in hand that it can't commit; give it and the pid that keeps the lock."""
    go = folder.path / "go"
    (folder.path / "stuck.py").write_text(APP.format(go=str(go)))
    folder.ok("emit", "orders", json.dumps({"n": 1}))
    with folder.worker("stuck:stream", "--admin", "off", *arguments) as worker:
        worker.wait_for("start 1")
        with kept(folder) as pid:
            go.touch()
            worker.wait_for("done 1")
            yield worker, pid


APP = """
import asyncio, os
from pspf import Stream

stream = Stream(topic="orders", group="billing")


@stream.subscribe("orders")
async def handle(order: dict):
    print("start", order["n"])
    while not os.path.exists({go!r}):
        await asyncio.sleep(0.02)
    print("done", order["n"])
"""


@HERE
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_ends_with_its_time_out_and_names_who_keeps_the_lock(
    folder: Folder, where: tuple[str, ...], number: signal.Signals
) -> None:
    with stuck_worker(folder, "--drain-timeout", f"{DRAIN_S}s", *where) as (worker, pid):
        begun = time.monotonic()
        worker.signal(number)
        assert worker.end() == 143
        assert DRAIN_S < time.monotonic() - begun < DRAIN_S + LATE_S
        assert f"given up: sqlite:///{folder.path}" in worker.log.read_text()
        assert worker.says(f"locked for writing by pid {pid} (python -c), which is stopped since")


@HERE
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_ends_it_soon_and_names_who_keeps_the_lock(
    folder: Folder, where: tuple[str, ...], number: signal.Signals, code: int
) -> None:
    def end_by_second() -> float:
        (folder.path / "go").unlink(missing_ok=True)
        with stuck_worker(folder, *where) as (worker, pid):
            worker.signal(number)
            time.sleep(0.5)  # two signals at once are one to a process
            second = time.monotonic()
            worker.signal(number)
            assert worker.end() == code
            assert worker.says(f"locked for writing by pid {pid}")
            return time.monotonic() - second

    assert quickest(end_by_second, below_s=1 + LATE_S) < 1 + LATE_S


@HERE
def test_a_third_signal_ends_it_at_once(folder: Folder, where: tuple[str, ...]) -> None:
    def end_by_third() -> float:
        (folder.path / "go").unlink(missing_ok=True)
        with stuck_worker(folder, *where) as (worker, _):
            for _ in range(2):
                worker.signal(signal.SIGTERM)
                time.sleep(0.3)  # two signals at once are one to a process
            third = time.monotonic()
            worker.signal(signal.SIGTERM)
            assert worker.end() == 143
            return time.monotonic() - third

    assert quickest(end_by_third, below_s=0.6) < 0.6


def test_who_looks_is_told_who_keeps_the_lock_and_who_writes_ends_with_4(folder: Folder) -> None:
    folder.emit()
    with kept(folder) as pid:
        by = f"by pid {pid} (python -c), which is stopped"
        looked = folder.ok("groups", "inspect")
        assert f"{STUCK}: sqlite:///{folder.path}/.pspf/broker.db: locked for writing {by}" in looked.err
        for command in ("list", "ping"):
            assert "no worker has shown itself lately, and none can now" in folder.ok("workers", command).err
        begun = time.monotonic()
        emitted = folder.look("emit", "orders", "{}")
        assert (emitted.code, by in emitted.err.splitlines()[-1]) == (4, True), emitted
        assert time.monotonic() - begun < 8
        doctor = folder.look("broker", "doctor")
        assert doctor.code == 10
        assert f"FAIL  writers' lock  kept {by}" in doctor.out.replace("fail", "FAIL")
    assert folder.ok("broker", "doctor").code == 0
    assert STUCK not in folder.ok("groups", "inspect").err


def test_a_shell_that_is_in_a_transaction_is_found_by_the_doctor(folder: Folder) -> None:
    folder.emit()
    with kept(folder, by="SQLite alone") as pid:
        doctor = folder.look("broker", "doctor")
        assert (doctor.code, f"kept by pid {pid} (python -c), which is stopped" in doctor.out) == (10, True), doctor.out


def test_a_worker_that_can_not_commit_is_not_ready_and_one_that_can_not_show_itself_is_told(folder: Folder) -> None:
    with stuck_worker(folder) as (worker, pid):
        ready = folder.look("health", "ready")
        assert (ready.code, f"no worker can commit: sqlite:///{folder.path}" in ready.err) == (10, True), ready
        assert f"by pid {pid} (python -c), which is stopped" in ready.err
        wait_until(lambda: folder.look("health", "live").code == 10)
        live = folder.look("health", "live")
        assert ("nobody can tell: " in live.err, f"by pid {pid}" in live.err) == (True, True), live
        worker.signal(signal.SIGKILL)


def test_who_was_killed_in_its_turn_keeps_nothing(folder: Folder) -> None:
    folder.emit()
    with kept(folder) as pid:
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: state_of(pid) == "Z")
        assert STUCK not in folder.ok("groups", "inspect").err
