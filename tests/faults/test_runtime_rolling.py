"""Rolling restarts under load, and slow drains: nothing is lost or done twice, and no partition pauses for long.

`PSPF_FAULT_RUNS` above 2 (`make faults`) does all 20 rounds.
"""

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import pytest

from tests.faults.fleet import Fleet, job
from tests.faults.runs import RUNS, Place
from tests.faults.side_by_side import at_all_places
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
            assert old.says("failed 0, dead 0"), "a move was charged to records"
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
    pauses, stalls = await _longest_pauses(fleet)
    print(f"{len(jobs)} jobs, {ROUNDS} rounds; longest pause of each partition: {', '.join(f'{p} ms' for p in pauses)}")
    print(f"longest stall of all at once, which no move causes: {stalls} ms")
    assert max(pauses) < 1_000, "members did not hear of one another"


@at_all_places(fleet=Fleet)
async def test_while_a_slow_batch_ends_the_other_partitions_go_on_elsewhere(fleet: Fleet, tmp_path: Path) -> None:
    await fleet.fill([], partitions=4)
    keys = {crc32(key.encode()) % 4: key for key in KEYS}
    leaving, other = fleet.start("leaving"), fleet.start("other")
    wait_until(lambda: sorted(len(each) for each in _owned(fleet).values()) == [2, 2])
    (owned,) = (partitions for name, partitions in _owned(fleet).items() if name.startswith("leaving"))
    slow = keys[owned[0]]
    jobs = [(0, slow), *((1 + n, key) for n, key in enumerate(keys.values()))]
    async with fleet.open() as broker:
        await broker.append("jobs", [job(0, slow, do="sleep", go=str(tmp_path / "go"))])
        wait_until(lambda: leaving.says("start 0 "))
        leaving.signal(signal.SIGTERM)
        wait_until(lambda: not (_owner(fleet, owned[1]) or "").startswith("leaving"))
        await broker.append("jobs", [job(n, key) for n, key in jobs[1:]])
        await fleet.wait_for_lag(2, within_s=15)
        assert leaving.process.poll() is None, "it had ended already"
        (tmp_path / "go").touch()
    assert leaving.end() == 0
    await fleet.wait_for_lag()
    other.signal(signal.SIGTERM)
    assert other.end() == 0
    await fleet.check(jobs)


def _owned(fleet: Fleet) -> dict[str, list[int]]:
    """Return the partitions of each worker."""
    return {each["worker"]: [p for s in each["subscriptions"] for p in s["partitions"]] for each in fleet.workers()}


async def _longest_pauses(fleet: Fleet) -> tuple[list[int], int]:
    """Return for how long, in milliseconds, a partition's jobs waited at most for their outputs; and all partitions'.

    The jobs of all partitions are appended together: what the quickest of them waited for was the machine.
    """
    waits: list[dict[int, int]] = []
    async with fleet.open() as broker:
        for partition in range(PARTITIONS):
            stored = {json.loads(r.value)["n"]: r.timestamp_ms for r in await read_all(broker, "jobs", partition)}
            done = {json.loads(r.value)["n"]: r.timestamp_ms for r in await read_all(broker, "steps", partition)}
            longest: dict[int, int] = {}
            for n, stored_ms in stored.items():
                longest[n // len(KEYS)] = max(longest.get(n // len(KEYS), 0), done[n] - stored_ms)
            waits.append(longest)
    stalls = {batch: min(longest[batch] for longest in waits) for batch in waits[0]}
    return [max(ms - stalls[batch] for batch, ms in longest.items()) for longest in waits], max(stalls.values())


def _owner(fleet: Fleet, partition: int) -> str | None:
    """Return who holds a partition."""
    found = json.loads(fleet.pspf("groups", "inspect", "runtime", "--json").stdout)["groups"][0]["partitions"]
    owner: str | None = found[partition]["owner"]
    return owner
