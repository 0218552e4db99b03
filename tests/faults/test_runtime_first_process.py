"""A worker as process 1 of a container: signals do what they do elsewhere, and nobody's zombies stay."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.fleet import Fleet, job
from tests.faults.runs import Place
from tests.process.commands import Running, state_of, wait_until

CONTAINER = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


def _can_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*CONTAINER, "true"], capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not _can_unshare(), reason="needs a PID namespace of its own: root, and unshare")


@pytest.fixture
def fleet(tmp_path: Path, place: Place) -> Iterator[Fleet]:
    with Fleet(tmp_path, place) as fleet:
        yield fleet


def first_process(container: Running) -> int:
    """Return the pid, as seen from here, of the process that is 1 in there."""
    wait_until(lambda: bool(container.family()))
    (pid,) = container.family()
    return pid


def states(pid: int) -> list[str]:
    """Return the states of a process's children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [state_of(int(child)) for child in children]


async def test_a_worker_that_is_process_1_drains_at_sigterm(fleet: Fleet) -> None:
    await fleet.fill([job(1, do="sleep", seconds=1)])
    container = fleet.start("one", prefix=CONTAINER)
    container.wait_for("start 1")
    os.kill(first_process(container), signal.SIGTERM)
    assert container.end(within_s=10) == 0
    await fleet.check([(1, "k")])


async def test_a_second_sigterm_gives_up_within_a_second_and_a_half(fleet: Fleet) -> None:
    await fleet.fill([job(1, do="sleep", seconds=60)])
    container = fleet.start("one", prefix=CONTAINER)
    container.wait_for("start 1")
    pid = first_process(container)
    os.kill(pid, signal.SIGTERM)
    container.wait_for("stopping")
    os.kill(pid, signal.SIGTERM)
    assert container.end(within_s=3) == 143


async def test_orphans_that_end_in_a_container_are_collected(fleet: Fleet) -> None:
    await fleet.fill([job(1, do="orphan")])
    container = fleet.start("one", prefix=CONTAINER)
    await fleet.wait_for_lag()
    pid = first_process(container)
    container.wait_for("orphan left")
    # Two fork servers and the worker process; what the handler left came to process 1 and is gone.
    wait_until(lambda: len(states(pid)) == 3 and "Z" not in states(pid), within_s=5)
    os.kill(pid, signal.SIGTERM)
    assert container.end(within_s=10) == 0
