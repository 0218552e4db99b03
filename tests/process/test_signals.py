"""How a worker ends: drains, gives up, ends at once; and never leaves an orphan."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.process.commands import Folder, is_running, quickest, wait_until

HERE = ((), ("--in-process",))
both = pytest.mark.parametrize("where", HERE, ids=["children", "in-process"])
SIGTERM, SIGINT, SIGKILL = signal.SIGTERM, signal.SIGINT, signal.SIGKILL


@both
@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
def test_the_first_signal_finishes_what_is_in_hand(
    folder: Folder, where: tuple[str, ...], number: signal.Signals
) -> None:
    folder.emit(do="sleep", seconds=0.5)
    with folder.worker(*where) as worker:
        worker.wait_for("start 1")
        worker.signal(number)
        assert worker.end() == 0
        assert worker.says("handled 1, failed 0, dead 0, lag")
    assert folder.lag()["billing"] == 0


@both
@pytest.mark.parametrize(("number", "code"), [(SIGTERM, 143), (SIGINT, 130)])
def test_the_second_signal_gives_up_and_gives_leases_back(
    folder: Folder, where: tuple[str, ...], number: signal.Signals, code: int
) -> None:
    folder.emit(do="sleep", seconds=60)

    def end_by_second() -> float:
        with folder.worker(*where) as worker:
            worker.wait_for("start 1")
            worker.signal(number)
            if not where:
                worker.wait_for("stopping")
            else:
                time.sleep(0.2)  # two signals at once are one to a process
            second = time.monotonic()
            worker.signal(number)
            assert worker.end() == code
            return time.monotonic() - second

    assert quickest(end_by_second, below_s=2) < 2
    group = folder.ok("groups", "inspect", "billing", "--json").json["groups"][0]
    assert (group["lag"], group["partitions"][0]["owner"], group["consumers"]) == (1, None, [])


@both
def test_a_third_signal_ends_a_blocked_worker_at_once(folder: Folder, where: tuple[str, ...]) -> None:
    folder.emit(do="block", seconds=60)

    def end_by_third() -> float:
        with folder.worker(*where) as worker:
            worker.wait_for("start 1")
            for _ in range(2):
                worker.signal(SIGTERM)
                time.sleep(0.2)  # two signals at once are one to a process
            third = time.monotonic()
            worker.signal(SIGTERM)
            assert worker.end() == 143
            return time.monotonic() - third

    assert quickest(end_by_third, below_s=0.6) < 0.6


@both
@pytest.mark.parametrize("do", ["sleep", "block", "swallow"])
def test_no_handler_outlives_the_drain_deadline(folder: Folder, where: tuple[str, ...], do: str) -> None:
    folder.emit(do=do, seconds=60)
    with folder.worker("--drain-timeout", "300ms", *where) as worker:
        worker.wait_for("start 1")
        begun = time.monotonic()
        worker.signal(SIGTERM)
        assert worker.end() == 143
        assert time.monotonic() - begun < 4
    assert folder.lag()["billing"] == 1


@pytest.mark.parametrize("do", ["sleep", "block", "swallow"])
def test_a_worker_whose_supervisor_is_killed_leaves_no_orphan(folder: Folder, do: str) -> None:
    folder.emit(do=do, seconds=60)
    with folder.worker() as worker:
        worker.wait_for("start 1")
        wait_until(lambda: len(worker.children()) == 2)
        children = worker.children()
        worker.signal(SIGKILL)
        assert wait_until(lambda: not any(is_running(pid) for pid in children), within_s=5) < 3


@both
def test_a_reader_of_the_output_that_goes_fails_no_record(folder: Folder, where: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "pspf", "worker", *where]
    read, write = os.pipe()
    with (folder.path / "errors.log").open("wb") as errors:
        worker = subprocess.Popen(command, cwd=folder.path, env=folder.environment, stdout=write, stderr=errors)
    os.close(write)
    os.close(read)
    folder.emit(2)
    wait_until(lambda: folder.lag().get("billing") == 0)
    worker.send_signal(SIGTERM)
    assert worker.wait(20) == 0
    log = (folder.path / "errors.log").read_text()
    assert log.count("nobody reads standard output any more") == 1
    assert "handled 2, failed 0, dead 0" in log


def test_an_idle_worker_ends_quickly(folder: Folder) -> None:
    folder.emit()
    with folder.worker() as worker:
        worker.wait_for("start 1")
        wait_until(lambda: folder.lag().get("audit") == 0)
        begun = time.monotonic()
        worker.signal(SIGTERM)
        assert worker.end() == 0
        assert time.monotonic() - begun < 3


def test_a_signal_during_the_start_ends_the_worker_quietly(folder: Folder) -> None:
    with folder.worker() as worker:
        worker.wait_for("processes:")
        worker.signal(SIGTERM)
        assert worker.end() == 0
        assert not worker.says("Traceback")


def test_what_a_killed_worker_had_in_hand_is_handled_by_the_next_one_without_a_failed_attempt(folder: Folder) -> None:
    folder.emit(do="sleep", seconds=1.5)
    with folder.worker() as worker:
        worker.wait_for("start 1")
        worker.signal(SIGKILL)
    ended = folder.run("worker", "--burst")
    assert "handled 1, failed 0, dead 0, lag 0" in ended.err
    assert folder.ok("state", "get", "total", "k").json == 1


ONCE = """
import asyncio
from pathlib import Path
from pspf import RetryPolicy, Stream

stream = Stream(topic="orders", group="billing")


@stream.subscribe("orders", ordering=%r, name="once", retry=RetryPolicy(max_attempts=1))
async def once(order: dict):
    print("start", order["n"])
    if not Path("free").exists():
        await asyncio.sleep(60)
"""


@pytest.mark.parametrize("ordering", ["none", "key"])
@pytest.mark.parametrize("how", ["deadline", "second signal"])
def test_what_was_given_up_is_handled_by_the_next_worker_without_a_failed_attempt(
    folder: Folder, how: str, ordering: str
) -> None:
    """Its handler has one attempt: were it charged, the record would be a dead letter."""
    (folder.path / "once.py").write_text(ONCE % ordering)
    folder.emit()
    drain = ("--drain-timeout", "300ms") if how == "deadline" else ()
    with folder.worker("once:stream", *drain) as worker:
        worker.wait_for("start 1")
        worker.signal(SIGTERM)
        if how == "second signal":
            worker.wait_for("stopping")
            worker.signal(SIGTERM)
        assert worker.end() == 143
        assert worker.says("handled 0, failed 0, dead 0, lag 1")
    (folder.path / "free").touch()
    assert "handled 1, failed 0, dead 0, lag 0" in folder.run("worker", "once:stream", "--burst").err
    assert folder.ok("dlq", "list", "--json").json == {"dead_letters": []}


def test_a_hang_up_drains_a_worker_in_one_process(folder: Folder) -> None:
    folder.emit(do="sleep", seconds=0.5)
    with folder.worker("--in-process") as worker:
        worker.wait_for("start 1")
        worker.signal(signal.SIGHUP)
        assert worker.end() == 0
        assert worker.says("handled 1, failed 0, dead 0")
    assert folder.lag()["billing"] == 0
