"""Crash points."""

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
