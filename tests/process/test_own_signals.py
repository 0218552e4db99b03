"""Handlers that end, signal, replace or fork their own process."""

import os
import signal

import pytest

from tests.process.commands import Folder, is_running, wait_until

ENDING = """
import asyncio, os, signal, subprocess, sys, time
from multiprocessing import get_context
from pspf import BaseEvent, Stream

stream = Stream(topic="orders", group="billing")


async def leave():
    raise SystemExit(0)


@stream.subscribe("orders", batch_size=2, name="end")
async def end(order: BaseEvent):
    print("start", order.n)
    if order.n == 3:
        {act}
"""


def write_app(folder: Folder, act: str) -> None:
    (folder.path / "ending.py").write_text(ENDING.format(act=act))


@pytest.mark.parametrize(
    ("act", "code", "where"),
    [
        ("os.kill(os.getpid(), signal.SIGTERM); await asyncio.sleep(0.1)", 1, ()),
        ("os.kill(os.getpid(), signal.SIGINT); await asyncio.sleep(0.1)", 1, ()),
        ("os.kill(os.getpid(), signal.SIGTERM); await asyncio.sleep(0.1)", 143, ("--in-process",)),
        ("os.kill(os.getpid(), signal.SIGINT); await asyncio.sleep(0.1)", 130, ("--in-process",)),
        ("os._exit(0)", 1, ()),
        ("os._exit(9)", 1, ()),
        ("os.execv('/bin/true', ['true'])", 1, ()),
    ],
)
def test_a_burst_that_a_handler_cuts_short_does_not_end_as_done(
    folder: Folder, act: str, code: int, where: tuple[str, ...]
) -> None:
    write_app(folder, act)
    folder.emit(9)
    ended = folder.pspf("worker", "ending:stream", "--burst", *where)
    assert ended.code == code, ended
    assert folder.lag()["billing"] != 0
    assert where or "with work left" in ended.err


def test_a_burst_that_is_told_to_stop_does_not_end_as_done(folder: Folder) -> None:
    folder.emit(20, do="sleep", seconds=0.2)
    with folder.worker("--burst") as worker:
        worker.wait_for("start 1")
        worker.signal(signal.SIGINT)
        assert worker.end() == 130


def test_a_task_of_a_handler_that_wants_to_exit_ends_no_worker(folder: Folder) -> None:
    write_app(folder, "await asyncio.gather(leave())")
    folder.emit(4)
    ended = folder.pspf("worker", "ending:stream", "--burst", PSPF_RETRY_INITIAL_MS="10", PSPF_RETRY_MAX_ATTEMPTS="2")
    assert ended.code == 0, ended
    assert "dead 1, lag 0" in ended.err
    assert "a task that a handler has started raised SystemExit" in ended.err


@pytest.mark.parametrize("fork", ["multiprocessing", "fork"])
def test_what_a_handler_has_forked_holds_up_no_stop_and_does_not_outlive_it(folder: Folder, fork: str) -> None:
    acts = {
        "multiprocessing": "child = get_context('fork').Process(target=time.sleep, args=(300,), daemon=True);"
        " child.start(); print('forked', child.pid, flush=True)",
        "fork": "pid = os.fork() or time.sleep(300); print('forked', pid, flush=True)",
    }
    write_app(folder, acts[fork])
    folder.emit(3)
    with folder.worker("ending:stream") as worker:
        worker.wait_for("forked ")
        pid = int(worker.log.read_text().partition("forked ")[2].split()[0])
        worker.signal(signal.SIGTERM)
        assert worker.end(within_s=10) == 0
    wait_until(lambda: not is_running(pid), within_s=5)


def test_what_a_handler_has_forked_in_a_thread_is_ended_by_a_signal(folder: Folder) -> None:
    write_app(folder, "await asyncio.to_thread(lambda: print('forked', os.fork() or time.sleep(300), flush=True))")
    folder.emit(3)
    with folder.worker("ending:stream") as worker:
        worker.wait_for("forked ")
        pid = int(worker.log.read_text().partition("forked ")[2].split()[0])
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not is_running(pid), within_s=5)
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0
