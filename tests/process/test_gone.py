"""A broker file that is taken away under a worker: it ends with the reason, whatever its processes are at."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.process.commands import Folder, Running, name_of, wait_until

SLOW_S = 3.0
"""How long a process that has crashed waits for its next start."""


def delete(place: Path) -> None:
    (place / "broker.db").unlink()


def delete_folder(place: Path) -> None:
    shutil.rmtree(place)


def move(place: Path) -> None:
    (place / "broker.db").rename(place.with_name("moved.db"))


def move_folder(place: Path) -> None:
    place.rename(place.with_name("moved"))


def replace(place: Path) -> None:
    kept, copy = place.with_name("kept.db"), place.with_name("copy.db")
    shutil.copy(place / "broker.db", kept)
    shutil.copy(kept, copy)
    os.replace(copy, place / "broker.db")


ACTS = (delete, delete_folder, move, move_folder, replace)


def workers_of(worker: Running) -> list[int]:
    """Return the pids of the processes that consume."""
    return [pid for pid in worker.children() if name_of(pid).startswith(("pspf orders", "pspf large"))]


@pytest.mark.parametrize("down", [0, 1, 2], ids=["all up", "one down", "all down"])
@pytest.mark.parametrize("act", ACTS)
def test_a_worker_whose_file_is_taken_away_ends_and_says_why(
    folder: Folder, act: Callable[[Path], None], down: int
) -> None:
    folder.environment |= {"PSPF_RESTART_INITIAL_MS": f"{SLOW_S * 1000:.0f}"}
    assert_ends(folder, act, down)


@pytest.mark.parametrize("act", [delete, move_folder, replace])
def test_a_process_that_starts_before_anybody_has_noticed_makes_no_other_broker(
    folder: Folder, act: Callable[[Path], None]
) -> None:
    folder.environment |= {"PSPF_RESTART_INITIAL_MS": "1", "PSPF_RESTART_MAX_MS": "1"}
    assert_ends(folder, act, 2, waits=False)


@pytest.mark.parametrize("act", [delete, move_folder, replace])
def test_a_worker_in_one_process_ends_as_well(folder: Folder, act: Callable[[Path], None]) -> None:
    folder.emit()
    with folder.worker("--admin", "off", "--in-process") as worker:
        worker.wait_for("start 1")
        act(folder.path / ".pspf")
        assert worker.end() == 1, worker.log.read_text()
        assert_told(folder.path / ".pspf", act, worker.log.read_text())


def assert_ends(folder: Folder, act: Callable[[Path], None], down: int, *, waits: bool = True) -> None:
    folder.emit()
    place = folder.path / ".pspf"
    with folder.worker("--admin", "off") as worker:
        worker.wait_for("start 1")
        wait_until(lambda: len(workers_of(worker)) == 2)
        if not waits:
            act(place)
        for pid in workers_of(worker)[:down]:
            os.kill(pid, signal.SIGKILL)
        if waits:
            worker.wait_for("was ended by SIGKILL", times=down)
            act(place)
        assert worker.end() == 1, worker.log.read_text()
        assert_told(place, act, worker.log.read_text())


def assert_told(place: Path, act: Callable[[Path], None], said: str) -> None:
    assert ("replaced" if act is replace else "deleted or moved away") in said
    assert said.count("error: ") == 1
    if act is replace:
        assert (place / "broker.db").read_bytes() == place.with_name("kept.db").read_bytes()
    else:
        assert not (place / "broker.db").exists()
