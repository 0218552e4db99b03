"""Crash points."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pspf import faults
from pspf.errors import ConfigurationError


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    faults.arm(None)


def test_nothing_happens_unless_a_point_is_armed() -> None:
    for point in faults.POINTS:
        faults.reach(point)
        assert not faults.is_armed(point)


def test_the_nth_passing_acts_and_no_other() -> None:
    faults.arm("decode:3:raise")
    assert faults.is_armed("handler.mid", "decode")
    faults.reach("decode")
    faults.reach("handler.mid")
    faults.reach("decode")
    with pytest.raises(faults.InjectedFault, match="injected at decode"):
        faults.reach("decode")
    faults.reach("decode")


def test_arming_nothing_disarms() -> None:
    faults.arm("decode:1:raise")
    faults.arm("")
    faults.reach("decode")


@pytest.mark.parametrize(
    "spec",
    ["decode", "decode:1", "decode:0:kill", "decode:x:kill", "nowhere:1:kill", "decode:1:explode", "decode:-1:kill"],
)
def test_a_bad_spec_names_points_and_actions(spec: str) -> None:
    with pytest.raises(ConfigurationError, match=r"points: lease\.acquired, .*actions: kill, stop, raise, sleep"):
        faults.arm(spec)


def test_kill_ends_the_process_at_once() -> None:
    code = "from pspf import faults; faults.arm('release:1:kill'); faults.reach('release'); print('alive')"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == -signal.SIGKILL
    assert ran.stdout == ""


STOPS_IN_A_THREAD = """
import os, select, threading
from pspf import faults

def run():
    faults.reach("commit.sent")
    os.write(1, b"went on")

faults.arm("commit.sent:1:stop")
threading.Thread(target=run).start()
select.select([], [], [], 60)
"""


def test_stop_stops_the_thread_that_is_there_before_it_does_anything_else() -> None:
    for _ in range(10):  # with a signal to the process, many a one goes on
        with subprocess.Popen([sys.executable, "-c", STOPS_IN_A_THREAD], stdout=subprocess.PIPE) as process:
            _, status = os.waitpid(process.pid, os.WUNTRACED)
            process.kill()
            assert os.WIFSTOPPED(status)
            assert process.stdout is not None
            assert process.stdout.read() == b""
