"""A worker that may open fewer files than its partitions need, on a server."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.process.commands import Folder, Running, wait_until
from tests.support.servers import hall

LIMIT: Final = 72
PARTITIONS: Final = 80
LEASE_MS: Final = 6_000
LONG_S: Final = 60


@pytest.fixture
def limited(folder: Folder) -> Folder:
    """A folder whose topic has more partitions than its workers may open files."""
    shared = hall("valkey")
    folder.environment |= {
        "PSPF_BACKEND": shared.server.url(database=shared.database_of(folder.path)),
        "PSPF_LEASE_MS": str(LEASE_MS),
    }
    folder.run("topics", "create", "large", "--partitions", str(PARTITIONS))
    return folder


@contextmanager
def worker_with_few_files(folder: Folder) -> Iterator[Running]:
    """Run a worker whose hard limit is low."""
    log = folder.path / "worker.log"
    command = f'ulimit -n {LIMIT}; exec "$0" -m pspf worker --in-process --only large'
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["/bin/sh", "-c", command, sys.executable],
            cwd=folder.path,
            env=folder.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Running(process, Path(log))
    finally:
        process.kill()
        process.wait()


def test_it_says_what_it_does_not_read_and_keeps_its_leases(limited: Folder) -> None:
    with worker_with_few_files(limited) as worker:
        unread = f"of the {PARTITIONS} partitions that its handlers may have here are not read"
        wait_until(lambda: worker.says(unread), within_s=LONG_S)
        wait_until(lambda: worker.says("no descriptor is left for a connection to read on"), within_s=LONG_S)
        wait_until(lambda: "it can't read" in limited.pspf("health", "ready").err, within_s=LONG_S)
        time.sleep(LEASE_MS / 1000)  # in which a lease that is not renewed ends
        assert not worker.says("the leases of")
        assert not worker.says("Too many open files")
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0


def test_doctor_knows_how_many_descriptors_a_group_may_take(limited: Folder) -> None:
    command = f'ulimit -n {LIMIT}; exec "$0" -m pspf broker doctor'
    with worker_with_few_files(limited) as worker:
        wait_until(lambda: worker.says("no descriptor is left"), within_s=LONG_S)
        done = subprocess.run(
            ["/bin/sh", "-c", command, sys.executable],
            cwd=limited.path,
            env=limited.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0
    said = done.stdout + done.stderr
    assert f"at most {PARTITIONS} connections of a process (audit), {LIMIT} here: some partitions are not read" in said
