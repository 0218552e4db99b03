"""A schedule of three workers, two of which are killed as a tick has begun: each tick has run once, in order."""

import os
import random
from pathlib import Path
from typing import Final

import orjson

from tests.faults.runs import RUNS, SECONDS, SEED, Place, Run
from tests.faults.side_by_side import at_all_places
from tests.process.commands import wait_until
from tests.support.forks import Fork
from tests.support.workers import read_all

APP: Final = "tests.faults.schedules_app:stream"
EVERY_MS: Final = 200
KILLS: Final = 200 if RUNS > 2 else 3


def lines(log: Path) -> list[str]:
    """Return what the ticks have said, whole lines."""
    return log.read_text().split("\n")[:-1] if log.exists() else []


def last_tick(log: Path) -> tuple[int, int]:
    """Return which process has begun a tick last, and which tick; zeros before the first."""
    found = lines(log)
    pid, at_ms = found[-1].split() if found else ("0", "0")
    return int(pid), int(at_ms)


def wait_for_tick(log: Path, after_ms: int) -> None:
    """Return when a tick behind that time has begun."""
    wait_until(lambda: last_tick(log)[1] > after_ms, within_s=SECONDS)


@at_all_places()
async def test_each_tick_runs_once_though_two_of_three_workers_are_killed_at_it(tmp_path: Path, place: Place) -> None:
    rng = random.Random(SEED)
    print(f"PSPF_SEED={SEED}")
    log = tmp_path / "ticks.log"
    run = Run(tmp_path, place, partitions=1, lease_ms=1_000, app=APP)

    def start() -> Fork:
        return run.start(burst=False, SCHEDULES_LOG=str(log), SCHEDULES_EVERY_MS=str(EVERY_MS), PSPF_WORKER_ADMIN="off")

    workers = [start() for _ in range(3)]
    try:
        killed_ms = 0
        for _ in range(KILLS):
            wait_for_tick(log, killed_ms)
            at_work, killed_ms = last_tick(log)
            chosen = [worker for worker in workers if worker.pid == at_work]
            chosen += rng.sample([worker for worker in workers if worker.pid != at_work], 2 - len(chosen))
            for worker in chosen:
                worker.kill()
            for worker in chosen:
                assert worker.wait(SECONDS) == -9, run.tail_of_log()
                workers[workers.index(worker)] = start()
        wait_for_tick(log, killed_ms + 3 * EVERY_MS)
    finally:
        for worker in workers:
            worker.terminate()
    for worker in workers:
        assert worker.wait(SECONDS) in (0, 143), run.tail_of_log()
    async with place.open() as broker:
        events = [orjson.loads(record.value) for record in await read_all(broker, "out")]
        assert await broker.list_dead_letters() == []
    times = [event["at"] for event in events]
    assert times == list(range(times[0], times[0] + EVERY_MS * len(times), EVERY_MS)), "each once, none left out"
    assert [event["count"] for event in events] == list(range(1, len(events) + 1)), "state and emits agree"
    begun = [int(line.split()[1]) for line in lines(log)]
    assert set(begun) >= set(times)
    assert len(begun) - len(times) <= 2 * KILLS, "a tick has begun again only where it was killed"
    if os.environ.get("PSPF_FAULT_RUNS"):
        print(f"{len(times)} ticks, {KILLS} times two workers killed, {len(begun) - len(times)} begun again")
    place.check()
