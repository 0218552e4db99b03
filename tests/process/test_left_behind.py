"""What a handler leaves behind in its process: threads, what is done at exit, other standard streams."""

import json
import signal
from contextlib import ExitStack
from itertools import product
from pathlib import Path

import pytest

from tests.process.commands import Folder, Running

LEAVES = """
import asyncio, atexit, os, sys, threading, time
from pspf import Stream

stream = Stream(topic="orders", group="billing")


@stream.subscribe("orders")
async def handle(order: dict):
    print("handled", order["n"])
    {leave}
"""
HERE = pytest.mark.parametrize("where", [(), ("--in-process",)], ids=["children", "in-process"])


def run_burst(folder: Folder, leave: str, *where: str) -> tuple[int, str]:
    """Return the exit code of a burst, and what it said."""
    (folder.path / "leaves.py").write_text(LEAVES.format(leave=leave))
    folder.ok("emit", "orders", json.dumps({"n": 1}))
    # Without a bound it ends with another code after the time-out of a stop, or not at all.
    ended = folder.pspf("worker", "leaves:stream", "--burst", *where, timeout_s=120, PYTHONWARNINGS="ignore")
    return ended.code, ended.err


LEFT = {
    "threading.Thread(target=time.sleep, args=(600,), name='left-behind').start()": "thread left-behind",
    "asyncio.get_running_loop().run_in_executor(None, time.sleep, 600)": "thread ",
    "atexit.register(time.sleep, 600)": "what is done at exit (atexit)",
}


def test_a_drained_burst_waits_shortly_for_what_is_left_behind_and_names_it(tmp_path: Path) -> None:
    with ExitStack() as stack:  # side by side: each waits for 10 s
        bursts: list[tuple[str, Running]] = []
        for number, (where, leave) in enumerate(product(((), ("--in-process",)), LEFT)):
            (tmp_path / str(number)).mkdir()
            folder = Folder(tmp_path / str(number))
            folder.environment["PYTHONWARNINGS"] = "ignore"
            (folder.path / "leaves.py").write_text(LEAVES.format(leave=leave))
            folder.ok("emit", "orders", json.dumps({"n": 1}))
            bursts.append((LEFT[leave], stack.enter_context(folder.worker("leaves:stream", "--burst", *where))))
        for named, burst in bursts:
            assert burst.end(within_s=120) == 0, burst.log.read_text()
            assert burst.says(f"ends without {named}"), burst.log.read_text()
            assert burst.says("handled 1, failed 0, dead 0, lag 0"), burst.log.read_text()


@HERE
@pytest.mark.parametrize(
    "leave",
    [
        "sys.stdout = None",
        "sys.stdout = sys.stderr = None",
        "sys.stdout.close()",
        "sys.stderr.close()",
        "sys.stdout = object()",
        "sys.stdout = open('/dev/full', 'w'); sys.stdout.write('x')",
        "os.close(1); os.close(2)",
    ],
)
def test_a_drained_burst_ends_with_0_whatever_became_of_its_standard_streams(
    folder: Folder, where: tuple[str, ...], leave: str
) -> None:
    code, said = run_burst(folder, leave, *where)
    assert code == 0, said
    assert "os.close" in leave or "handled 1, failed 0, dead 0, lag 0" in said


def test_an_app_whose_import_leaves_a_thread_behind_ends_when_it_is_told_to(folder: Folder) -> None:
    (folder.path / "leaves.py").write_text(
        LEAVES.format(leave="pass") + "\n\nthreading.Thread(target=time.sleep, args=(600,), name='imported').start()\n"
    )
    folder.ok("emit", "orders", json.dumps({"n": 1}))
    with folder.worker("leaves:stream", "--admin", "off") as worker:
        worker.wait_for("handled 1")
        worker.signal(signal.SIGTERM)
        assert worker.end(within_s=60) == 0
        assert worker.says("ends without thread imported")


def test_a_process_that_ends_over_an_error_does_not_wait_for_a_thread_that_was_left_behind(folder: Folder) -> None:
    (folder.path / "leaves.py").write_text(
        LEAVES.format(leave="threading.Thread(target=time.sleep, args=(600,), name='left-behind').start()")
    )
    folder.ok("emit", "orders", json.dumps({"n": 1}))
    with folder.worker("leaves:stream", "--admin", "off") as worker:
        worker.wait_for("handled 1")
        (folder.path / ".pspf" / "broker.db").unlink()
        assert worker.end(within_s=60) == 1
        assert worker.says("deleted or moved away")
