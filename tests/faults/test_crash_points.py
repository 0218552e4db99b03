"""Workers killed with SIGKILL at every crash point: the result is that of one undisturbed pass.

`PSPF_FAULT_RUNS` runs a point (2; `make faults` takes 20); `PSPF_SEED` repeats a failure.
"""

import random
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from pspf.faults import POINTS
from tests.faults.runs import KINDS, RUNS, SECONDS, SEED, Place, Run, check_exactly_once, make_events
from tests.faults.side_by_side import make_place, run_side_by_side

EVENTS: Final = 600
KEYS: Final = 20
PARTITIONS: Final = 4
WORKERS: Final = 2
ROUNDS: Final = 2

# How often a worker passes a point at least, in half of the work; rare ones are hit early.
PASSINGS: Final = {"lease.acquired": 2, "checkpoint": 1, "renew": 1, "release": 3, "decode": 200}
PASSINGS_OF_HANDLERS: Final = 200
PASSINGS_OF_BATCHES: Final = 25
# What makes workers come to a point that they would seldom reach in so short a run.
MORE: Final[dict[str, dict[str, Any]]] = {
    "checkpoint": {"FAULTS_PADDING": "12000"},
    "renew": {"FAULTS_BATCH_SIZE": "2"},
}


def passings(point: str) -> int:
    """Return the largest n to arm a point with."""
    return PASSINGS.get(point, PASSINGS_OF_HANDLERS if point.startswith("handler.") else PASSINGS_OF_BATCHES)


# A server has no checkpoint of ours; and in short runs it gets one of each, for they wait for leases there.
CASES: Final = {
    point: [
        (kind, number)
        for kind in KINDS
        for number in range(1 if kind != "sqlite" and RUNS <= 2 else RUNS)
        if kind == "sqlite" or point != "checkpoint"
    ]
    for point in POINTS
}
AT_ONCE: Final = 4
"""How many of them run beside each other."""


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_any_point_changes_no_result(tmp_path: Path, point: str) -> None:
    for first in range(0, len(CASES[point]), AT_ONCE):
        runs = {}
        for kind, number in CASES[point][first : first + AT_ONCE]:
            folder = tmp_path / f"{kind}-{number}"
            folder.mkdir()
            runs[folder.name] = partial(kill_at, folder, make_place(kind, folder), point, number)
        run_side_by_side(runs)


async def kill_at(folder: Path, place: Place, point: str, number: int) -> None:
    """Kill workers at a point, then let one finish; check the result."""
    seed = SEED + number
    rng = random.Random(f"{point} {seed}")
    print(f"PSPF_SEED={seed} PSPF_FAULT_RUNS=1 pytest 'tests/faults/test_crash_points.py' -k '{point}'")
    events = make_events(EVENTS, KEYS)
    run = Run(folder, place, partitions=PARTITIONS)
    await run.fill([event.as_record() for event in events])
    kills = 0
    for _ in range(ROUNDS):
        faults = [f"{point}:{rng.randint(1, passings(point))}:kill" for _ in range(WORKERS)]
        print(*faults)
        workers = [run.start(PSPF_FAULT=fault, **MORE.get(point, {})) for fault in faults]
        codes = [worker.wait(SECONDS) for worker in workers]
        assert set(codes) <= {0, -9}, f"exit codes {codes}\n{run.tail_of_log()}"
        kills += codes.count(-9)
        if 0 in codes:
            break  # one lived long enough to finish everything
    assert kills, f"no worker came to {point}\n{run.tail_of_log()}"
    run.finish()
    async with run.open() as broker:
        await check_exactly_once(broker, events)
    run.check()
