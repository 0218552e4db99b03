"""Several workers of the runtime's app on one broker, and what must hold after all that was done to them."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pspf.connectors.contract.broker import Broker
from pspf.records import NewRecord
from tests.faults.runs import ROOT, Place
from tests.process.commands import Running
from tests.support import forks
from tests.support.workers import read_all

LEASE_MS = 2_000


def job(n: int, key: str = "k", **fields: Any) -> NewRecord:
    """Return a job to append."""
    payload = {"event_id": f"j{n}", "event_type": "Job", "n": n, "key": key, **fields}
    return NewRecord(key.encode(), json.dumps(payload).encode())


class Fleet:
    """Workers by name; those that are left at the end of the `with` block are killed."""

    def __init__(self, folder: Path, place: Place) -> None:
        self._folder = folder
        self._place = place
        self._running: list[Running] = []
        self.environment: dict[str, str] = {}

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._running:
            if worker.process.poll() is None:
                worker.process.kill()
            worker.process.wait()

    def open(self) -> Broker:
        """Return a broker on the fleet's data, to be entered."""
        return self._place.open()

    async def fill(self, jobs: Sequence[NewRecord], *, partitions: int = 1) -> None:
        """Make the topics and append jobs."""
        async with self.open() as broker:
            await broker.create_topic("jobs", partitions=partitions)
            await broker.create_topic("steps", partitions=partitions)
            await broker.append("jobs", jobs)

    def start(self, name: str, *arguments: str, prefix: Sequence[str] = (), **environment: str) -> Running:
        """Start a worker."""
        log = self._folder / f"{name}.log"
        settings = {
            "PYTHONPATH": str(ROOT),
            "PSPF_BACKEND": self._place.url,
            "PSPF_LEASE_MS": str(LEASE_MS),
            "PSPF_RENEW_MS": "300",
            "PSPF_RESTART_INITIAL_MS": "100",
            "PSPF_RESTART_MAX_MS": "400",
        }
        command = ["worker", "tests.faults.runtime_app:stream", "--name", name, *arguments]
        environment = {**os.environ, **settings, **self.environment, **environment}
        process: forks.Fork | subprocess.Popen[bytes]
        with log.open("ab") as output:
            if prefix:
                process = subprocess.Popen(  # what is in front of it has to start it
                    [*prefix, sys.executable, "-m", "pspf", *command],
                    cwd=ROOT,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            else:
                process = forks.start(*command, folder=ROOT, environment=environment, output=output)
        worker = Running(process, log)
        self._running.append(worker)
        return worker

    def pspf(self, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
        """Run a command to its end."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PSPF_BACKEND": self._place.url}
        return forks.run(*arguments, folder=self._folder, environment=environment, timeout_s=30)

    def workers(self) -> list[dict[str, Any]]:
        """Return what `workers list` shows."""
        listed = self.pspf("workers", "list", "--json")
        assert listed.returncode == 0, listed.stderr
        found: list[dict[str, Any]] = json.loads(listed.stdout)["workers"]
        return found

    async def wait_for_lag(self, lag: int = 0, *, within_s: float = 30) -> float:
        """Return the seconds until the lag was at most `lag`."""
        begun = time.monotonic()
        async with self.open() as broker:
            while True:
                cursors = await broker.list_cursors(group="runtime")
                if cursors and sum(info.lag or 0 for info in cursors) <= lag:
                    return time.monotonic() - begun
                assert time.monotonic() - begun < within_s, f"lag {[info.lag for info in cursors]} after {within_s} s"
                await asyncio.sleep(0.05)

    async def check(self, jobs: Iterable[tuple[int, str]]) -> None:
        """Check that each job, of its key, was counted and emitted once, in order."""
        expected: dict[str, list[int]] = {}
        for n, key in jobs:
            expected.setdefault(key, []).append(n)
        async with self.open() as broker:
            partitions = {info.topic: info.partitions for info in await broker.list_topics()}
            outputs: dict[str, list[tuple[int, int]]] = {}
            for partition in range(partitions["steps"]):
                for record in await read_all(broker, "steps", partition):
                    step = json.loads(record.value)
                    outputs.setdefault(record.key or "", []).append((step["n"], step["count"]))
            state = Counter(
                {entry.key.decode(): json.loads(entry.value) for entry in await broker.list_state(handler="steps")}
            )
        assert outputs == {key: [(n, at + 1) for at, n in enumerate(numbers)] for key, numbers in expected.items()}
        assert state == {key: len(numbers) for key, numbers in expected.items()}
        self._place.check()
