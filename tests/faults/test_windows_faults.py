"""Open windows through crashes, zombies and handlers that fail: each closes once, with what belongs to it.

`PSPF_FAULT_RUNS` runs more (`make faults` takes 20); `PSPF_SEED` repeats a failure.
"""

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import orjson
import pytest

from pspf.connectors.contract.broker import Broker
from pspf.engine.open_windows import each_window, find_windows
from pspf.faults import POINTS
from pspf.records import NewRecord, partition_of
from pspf.windowing.definitions import Window
from tests.faults import windows_app as app
from tests.faults.forked import Forks
from tests.faults.runs import RUNS, SEED, Place
from tests.faults.side_by_side import at_all_places
from tests.integration.test_windows_reference import Expected, Input, expect
from tests.support.workers import read_all

PARTITIONS: Final = 2
EVENTS: Final = 300
APP: Final = "tests.faults.windows_app:stream"
ALONE: Final = "tests.faults.windows_app:alone"
WINDOWS: Final[dict[str, Window]] = {"tumbled": app.TUMBLING, "slid": app.SLIDING, "sessions": app.SESSIONS}

Outcome = Counter[tuple[str, int, int, tuple[int, ...]]]


def make_inputs(rng: random.Random) -> list[Input]:
    """Return events whose time moves on, some of them out of order, some too late."""
    now, inputs = -20, []
    for n in range(EVENTS):
        now += rng.choice((0, 0, 1, 1, 2))
        inputs.append(Input(n, f"key-{rng.randrange(6)}", now - rng.choice((0, 0, 0, 1, 3, 9))))
    return inputs


async def fill(place: Place, inputs: Sequence[Input], *, partitions: int = PARTITIONS) -> None:
    """Make the topic and append to it."""
    records = []
    for each in inputs:
        event = {"event_id": f"e{each.n}", "event_type": "Tick", "n": each.n, "key": each.key, "timestamp": each.at}
        records.append(NewRecord(each.key.encode(), orjson.dumps(event)))
    async with place.open() as broker:
        await broker.create_topic("ticks", partitions=partitions)
        await broker.append("ticks", records)


def expect_all(window: Window, inputs: Sequence[Input], partitions: int) -> Expected:
    """Return what windows come to where each partition has a watermark of its own."""
    whole = Expected()
    for partition in range(partitions):
        mine = [each for each in inputs if partition_of(each.key.encode(), partitions) == partition]
        part = expect(window, mine, app.DELAY_MS, 0)
        whole.finals += part.finals
        whole.still_open += part.still_open
        whole.late += part.late
    return whole


async def check(
    place: Place, inputs: Sequence[Input], *, handlers: Sequence[str] = tuple(WINDOWS), partitions: int = PARTITIONS
) -> None:
    """Check results, what is still open, and late records against one undisturbed pass."""
    async with place.open() as broker:
        late: Counter[int] = Counter()
        for name in handlers:
            expected = expect_all(WINDOWS[name], inputs, partitions)
            assert await read_results(broker, name) == in_order(expected.finals), name
            assert await read_open(broker, name) == in_order(expected.still_open), name
            late.update(expected.late)
        records = [record for number in range(partitions) for record in await read_all(broker, "ticks-late", number)]
        assert Counter(orjson.loads(record.value)["n"] for record in records) == late
        assert await broker.list_dead_letters() == []
    place.check()


def in_order(found: Outcome) -> Outcome:
    return Counter({(*place[:3], tuple(sorted(place[3]))): n for place, n in found.items()})


async def read_results(broker: Broker, topic: str) -> Outcome:
    events = [orjson.loads(record.value) for record in await read_all(broker, topic)]
    return in_order(Counter((e["key"], e["window_start_ms"], e["window_end_ms"], tuple(e["value"])) for e in events))


async def read_open(broker: Broker, handler: str) -> Outcome:
    found: Outcome = Counter()
    for cursor in await find_windows(broker, handler=handler):
        async for one in each_window(broker, cursor):
            found[one.key or "", one.start_ms, one.end_ms, tuple(orjson.loads(one.value or b""))] += 1
    return in_order(found)


# What is rare in a worker's life is hit early.
PASSINGS: Final = {"lease.acquired": 4, "release": 6, "checkpoint": 1, "renew": 1, "decode": 200}
SOME_POINTS: Final = ("handler.mid", "commit.sent", "commit.reply")
"""The others in the long runs only."""
CASES: Final = [
    (point, number)
    for point in (POINTS if RUNS > 2 else SOME_POINTS)
    for number in range(1 if RUNS <= 2 else RUNS)
    if point not in ("checkpoint", "renew", "decode")
]


@pytest.mark.parametrize(("point", "number"), CASES)
@at_all_places(forks=lambda folder, place: Forks(folder, place, APP))
async def test_a_kill_with_open_windows_changes_no_result(forks: Forks, point: str, number: int) -> None:
    seed = SEED + number
    rng = random.Random(f"{point} {seed}")
    print(f"PSPF_SEED={seed} PSPF_FAULT_RUNS=1 pytest 'tests/faults/test_windows_faults.py' -k '{point}'")
    inputs = make_inputs(rng)
    await fill(forks.place, inputs)
    kills = 0
    for _ in range(2):
        fault = f"{point}:{rng.randint(1, PASSINGS.get(point, 60 if point.startswith('handler.') else 20))}:kill"
        print(fault)
        code = forks.wait(forks.start(fault))
        assert code in (0, -9), f"exit code {code}\n{forks.tail_of_log()}"
        kills += code == -9
    assert kills, f"no worker came to {point}\n{forks.tail_of_log()}"
    forks.finish()
    await check(forks.place, inputs)


@pytest.mark.parametrize("point", ["commit.built", "handler.mid"] if RUNS > 2 else ["commit.built"])
@at_all_places()
async def test_a_worker_that_was_stopped_with_open_windows_changes_none_of_its_heirs(
    tmp_path: Path, place: Place, point: str
) -> None:
    """One cursor: a process that is stopped while another of its cursors commits keeps the file's lock."""
    rng = random.Random(SEED)
    print(f"PSPF_SEED={SEED}")
    inputs = make_inputs(rng)
    await fill(place, inputs, partitions=1)
    with Forks(tmp_path, place, ALONE) as forks:
        zombie = forks.start(f"{point}:{rng.randint(5, 20)}:stop")
        with forks.frozen(zombie):
            forks.finish()
        assert forks.wait(zombie) == 0, forks.tail_of_log()
        assert "is lost; nothing was committed" in forks.tail_of_log()
    await check(place, inputs, handlers=["tumbled"], partitions=1)


# Windows that are due when nothing comes any more

MANY: Final = [f"key-{n:03}" for n in range(60)]


@pytest.mark.parametrize("done", [1, 2])
@at_all_places()
async def test_what_was_due_at_a_crash_goes_out_once_without_another_event(
    tmp_path: Path, place: Place, done: int
) -> None:
    """The last event closes 60 windows, with room for 25 results a commit at most, half of it beside an event.

    The states of the others take two commits before.
    """
    inputs = [*(Input(n, key, 1) for n, key in enumerate(MANY)), Input(99, MANY[0], 100)]
    await fill(place, inputs, partitions=1)
    few = {"PSPF_MAX_OPERATIONS": "25", "FAULTS_BATCH_SIZE": "61"}
    with Forks(tmp_path, place, ALONE, few) as forks:
        code = forks.wait(forks.start(f"commit.built:{done + 3}:kill"))
        assert code == -9, f"exit code {code}\n{forks.tail_of_log()}"
        async with place.open() as broker:
            assert 12 * done < len(await read_results(broker, "tumbled")) < len(MANY)
        forks.finish()
    async with place.open() as broker:
        expected = expect(app.TUMBLING, inputs, app.DELAY_MS, 0)
        assert await read_results(broker, "tumbled") == in_order(expected.finals)
        assert await read_open(broker, "tumbled") == in_order(expected.still_open)
