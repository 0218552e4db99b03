"""A full disk under the embedded broker: workers wait, a burst's time is kept, and the doctor's advice works."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.process.commands import Folder, Running, wait_until

HERE = pytest.mark.parametrize("where", [(), ("--in-process",)], ids=["children", "in-process"])

VIA = ("/usr/bin/env",)


class Disk:
    """A small disk with the broker's file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self) -> None:
        with self._ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                return

    def free(self) -> None:
        self._ballast.unlink()


Both = list[tuple[Folder, Disk, tuple[str, ...]]]


@contextmanager
def mounted(folder: Folder) -> Iterator[Disk]:
    """Have the broker of a folder on a small disk of its own."""
    path = folder.path / "disk"
    path.mkdir()
    made = subprocess.run(
        [*VIA, "mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", path], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("a small file system can't be mounted: it takes root")
    try:
        folder.environment["PSPF_BACKEND"] = f"sqlite:///{path}/b.db"
        yield Disk(path)
    finally:
        subprocess.run([*VIA, "umount", "-l", path], check=True)  # killed processes may still be there


@pytest.fixture
def disk(folder: Folder) -> Iterator[Disk]:
    with mounted(folder) as disk:
        yield disk


@pytest.fixture
def both_disks(tmp_path: Path) -> Iterator[Both]:
    """Two folders, each with a disk, and how a worker runs there: the tests wait for both side by side."""
    with ExitStack() as stack:
        places: list[tuple[Folder, Disk, tuple[str, ...]]] = []
        ways: dict[str, tuple[str, ...]] = {"children": (), "in-process": ("--in-process",)}
        for name, where in ways.items():
            (tmp_path / name).mkdir()
            folder = Folder(tmp_path / name)
            places.append((folder, stack.enter_context(mounted(folder)), where))
        yield places


@contextmanager
def held_open(folder: Folder) -> Iterator[None]:
    """Keep the broker open in another process: its files are there when the disk is full."""
    with subprocess.Popen([sys.executable, "-c", HOLDS, folder.environment["PSPF_BACKEND"]], stdout=-1) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"open\n"
            yield
        finally:
            process.kill()


HOLDS = """
import signal, sys
import apsw

connection = apsw.Connection(sys.argv[1].removeprefix("sqlite:///"))
connection.execute("SELECT count(*) FROM topics").fetchall()
print("open", flush=True)
signal.pause()
"""


def emit(folder: Folder, **event: object) -> None:
    folder.run("emit", "orders", json.dumps({"n": 1, "key": "k", **event}))


def test_a_burst_whose_disk_fills_up_ends_with_9_and_says_what_is_left(both_disks: Both) -> None:
    with ExitStack() as stack:
        bursts: list[Running] = []
        for folder, disk, where in both_disks:
            emit(folder, go="go")
            worker = folder.worker("--burst", "--burst-timeout", "12s", "--admin", "off", *where)
            bursts.append(stack.enter_context(worker))
            bursts[-1].wait_for("start 1")
            disk.fill()
            (folder.path / "go").touch()
        for burst in bursts:  # within the time-out of a stop: what can't be committed is not waited for
            assert burst.end(within_s=12 + 20) == 9, burst.log.read_text()
            assert burst.says("not drained within 12000 ms; lag: orders of billing 1, large of audit ")


@HERE
def test_a_worker_that_can_not_join_on_a_full_disk_waits_for_room(
    folder: Folder, disk: Disk, where: tuple[str, ...]
) -> None:
    emit(folder)
    folder.environment |= {"PSPF_RESTART_INITIAL_MS": "10", "PSPF_RESTART_MAX_MS": "10"}
    with held_open(folder):
        disk.fill()
        with folder.worker("--admin", "off", *where) as worker:
            worker.wait_for("can't join sqlite:///")
            disk.free()
            worker.wait_for("start 1")
            worker.signal(signal.SIGTERM)
            assert worker.end() == 0, worker.log.read_text()
            assert not worker.says("another one starts")


def test_a_burst_that_can_not_even_join_ends_with_9(both_disks: Both) -> None:
    with ExitStack() as stack:
        bursts: list[Running] = []
        for folder, disk, where in both_disks:
            emit(folder)
            stack.enter_context(held_open(folder))
            disk.fill()
            worker = folder.worker("--burst", "--burst-timeout", "8s", "--admin", "off", *where)
            bursts.append(stack.enter_context(worker))
        for burst in bursts:
            assert burst.end(within_s=60) == 9, burst.log.read_text()
            assert burst.says("not drained within 8000 ms; lag: orders of billing ?, large of audit ?")


@pytest.mark.parametrize("way", ["make room", "move the file"])
def test_the_doctor_s_advice_on_a_full_disk_works(folder: Folder, disk: Disk, way: str) -> None:
    folder.run("emit", "orders", json.dumps({"n": 1, "text": "x" * 100_000}))
    folder.run("emit", "orders", json.dumps({"n": 2}))
    with held_open(folder):
        disk.fill()
        doctor = folder.pspf("broker", "doctor")
        trim = ("topics", "trim", "orders", "--max-records", "1", "--drop-unread", "--execute")
        refused = folder.pspf(*trim)
    assert (doctor.code, refused.code) == (10, 4), (doctor, refused)
    assert "trimming needs room itself: free 64 MiB of this disk, or stop all that use the broker" in doctor.out
    if way == "make room":
        disk.free()
    else:
        for name in ("b.db", "b.db-wal"):
            shutil.move(disk.path / name, folder.path / name)
        folder.environment["PSPF_BACKEND"] = f"sqlite:///{folder.path}/b.db"
    folder.run(*trim)
    assert folder.pspf("topics", "inspect", "orders", "--json").json["records"] == 1


def test_the_doctor_says_why_workers_are_silent_on_a_full_disk(folder: Folder, disk: Disk) -> None:
    folder.environment["PSPF_LEASE_MS"] = "3000"
    emit(folder)
    with folder.worker("--admin", "off") as worker:
        worker.wait_for("start 1")
        disk.fill()
        wait_until(lambda: "can't renew their sessions" in folder.pspf("broker", "doctor").out)
        doctor = folder.pspf("broker", "doctor").out
        assert "can't renew their sessions, as the disk is full" in doctor
        assert "they wait, and go on by themselves when that is mended" in doctor
        assert "they hang or are stopped" not in doctor
