"""Rolling restarts under load: nothing is lost or done twice, and no partition pauses for long.

`PSPF_FAULT_RUNS` above 2 (`make faults`) does all 20 rounds.
"""

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.fleet import Fleet, job
from tests.faults.runs import RUNS, Place
from tests.process.commands import wait_until
from tests.support.workers import read_all

ROUNDS = 20 if RUNS > 2 else 4
WORKERS = 3
PARTITIONS = 8
KEYS = [f"key-{n}" for n in range(32)]
EVERY_S = 0.05
"""How often a few jobs are emitted for each partition."""


@pytest.fixture
def fleet(tmp_path: Path, place: Place) -> Iterator[Fleet]:
    with Fleet(tmp_path, place) as fleet:
        yield fleet


async def test_workers_are_restarted_one_by_one_under_load(fleet: Fleet) -> None:
    jobs: list[tuple[int, str]] = []
    await fleet.fill([], partitions=PARTITIONS)
    workers = [fleet.start(f"worker-{number}") for number in range(WORKERS)]
    wait_until(lambda: all(worker.says("processes: 1") and worker.children() for worker in workers))
    async with fleet.open() as broker:
        stop = asyncio.Event()

        async def emit() -> None:
            while not stop.is_set():
                batch = [(len(jobs) + at, key) for at, key in enumerate(KEYS)]
                await broker.append("jobs", [job(n, key) for n, key in batch])
                jobs.extend(batch)
                await asyncio.sleep(EVERY_S)

        emitting = asyncio.create_task(emit())
        await asyncio.sleep(1)
        for number in range(ROUNDS):
            old = workers[number % WORKERS]
            old.signal(signal.SIGTERM)
            code = await asyncio.to_thread(old.end)
            assert code == 0, old.log.read_text()
            workers[number % WORKERS] = new = fleet.start(f"round-{number}")
            await asyncio.to_thread(wait_until, lambda new=new: bool(new.children()))  # type: ignore[misc]
            await asyncio.sleep(1)
        stop.set()
        await emitting
    await fleet.wait_for_lag()
    for worker in workers:
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0
        assert not worker.says("Traceback")
    await fleet.check(jobs)
    pauses = await _longest_pauses(fleet)
    print(f"{len(jobs)} jobs, {ROUNDS} rounds; longest pause of each partition: {', '.join(f'{p} ms' for p in pauses)}")
    assert max(pauses) < 2_000, "more than a review and a hand-over"


async def _longest_pauses(fleet: Fleet) -> list[int]:
    """Return the longest time, in milliseconds, in which a partition's jobs waited for their outputs."""
    async with fleet.open() as broker:
        pauses = []
        for partition in range(PARTITIONS):
            stored = {json.loads(r.value)["n"]: r.timestamp_ms for r in await read_all(broker, "jobs", partition)}
            done = {json.loads(r.value)["n"]: r.timestamp_ms for r in await read_all(broker, "steps", partition)}
            pauses.append(max(done[n] - stored[n] for n in stored))
        return pauses
