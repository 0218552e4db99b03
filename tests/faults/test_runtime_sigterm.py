"""SIGTERM at every crash point: what a worker has in hand is committed or done again whole, and charged to nobody."""

import os
import signal
from pathlib import Path
from typing import Final

import pytest

from pspf.faults import POINTS
from tests.faults.fleet import Fleet, job
from tests.faults.runs import RUNS
from tests.faults.side_by_side import at_all_places
from tests.process.commands import wait_until

# A lease that is taken to be renewed, and a checkpoint, come when they like.
ALL: Final = [point for point in POINTS if point not in ("checkpoint", "renew")]
FEW: Final = ["handler.mid", "commit.sent"]
JOBS: Final = [(n, f"key-{n % 5}") for n in range(40)]


@pytest.mark.parametrize("point", ALL if RUNS > 2 else FEW)
@at_all_places(fleet=Fleet)
async def test_a_worker_that_is_stopped_at_a_point_of_its_work_leaves_it_whole(fleet: Fleet, point: str) -> None:
    await fleet.fill([job(n, key) for n, key in JOBS])
    worker = fleet.start("first", PSPF_FAULT=f"{point}:1:stop")
    if point == "release":  # which comes with the end
        worker.wait_for("start 39")
        worker.signal(signal.SIGTERM)
    wait_until(lambda: any(_is_stopped(pid) for pid in worker.children()))
    (child,) = [pid for pid in worker.children() if _is_stopped(pid)]
    if point != "release":
        worker.signal(signal.SIGTERM)
        wait_until(lambda: _is_signalled(child))
    os.kill(child, signal.SIGCONT)
    assert worker.end() == 0
    assert not worker.says("Traceback")
    successor = fleet.start("second")
    successor.wait_for("processes: 1")
    await fleet.wait_for_lag()
    successor.signal(signal.SIGTERM)
    assert successor.end() == 0
    assert not successor.says("attempt ")
    await fleet.check(JOBS)


def _is_stopped(pid: int) -> bool:
    return _status_of(pid).get("State", "").startswith("T")


def _is_signalled(pid: int) -> bool:
    """Return whether SIGTERM has been sent to a process, which is stopped and has not taken it."""
    waiting = int(_status_of(pid).get("ShdPnd", "0"), 16) | int(_status_of(pid).get("SigPnd", "0"), 16)
    return bool(waiting & (1 << (signal.SIGTERM - 1)))


def _status_of(pid: int) -> dict[str, str]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except FileNotFoundError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
