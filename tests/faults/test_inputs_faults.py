"""A handler of two topics through kills: each event counts once, in the order of event time, of whichever topic."""

import random
from pathlib import Path
from typing import Final

import orjson
import pytest

from pspf.connectors.contract.broker import Broker
from pspf.records import NewRecord
from tests.faults.forked import Forks
from tests.faults.runs import RUNS, SEED, Place
from tests.faults.side_by_side import at_all_places
from tests.support.workers import read_all

EVENTS: Final = 90
KEYS: Final = 6
POINTS: Final = ("read.reply", "commit.built", "commit.sent", "commit.reply", "lease.acquired", "release")
APP: Final = "tests.faults.inputs_app:stream"


async def append(broker: Broker, rng: random.Random) -> None:
    """Append numbered events, an event a second, to a topic each that is drawn by lot."""
    for topic in ("left", "right", "merged"):
        await broker.create_topic(topic, partitions=2)
    parts: dict[str, list[NewRecord]] = {"left": [], "right": []}
    for n in range(EVENTS):
        key = f"k{n % KEYS}"
        event = {"n": n, "key": key, "timestamp": 1_700_000_000 + n}
        parts[rng.choice(["left", "right"])].append(NewRecord(key.encode(), orjson.dumps(event)))
    for topic, records in parts.items():
        await broker.append(topic, records)


async def check(broker: Broker, *, without: int = -1) -> None:
    """Check that each event but one was handled once, in order for its key."""
    seen = {entry.key.decode(): orjson.loads(entry.value) for entry in await broker.list_state()}
    assert seen == {f"k{n}": [each for each in range(n, EVENTS, KEYS) if each != without] for n in range(KEYS)}
    out = [orjson.loads(record.value)["n"] for p in range(2) for record in await read_all(broker, "merged", p)]
    assert sorted(out) == [n for n in range(EVENTS) if n != without]
    assert [info.lag for info in await broker.list_cursors()] == [0, 0, 0, 0]


@pytest.mark.parametrize("number", range(max(1, RUNS // 4)))
@pytest.mark.parametrize("point", POINTS)
@at_all_places()
async def test_a_kill_between_any_two_steps_loses_and_doubles_nothing(
    tmp_path: Path, place: Place, point: str, number: int
) -> None:
    seed = SEED + number
    rng = random.Random(f"{point} {seed}")
    print(f"PSPF_SEED={seed}")
    async with place.open() as broker:
        await append(broker, rng)
    kills = 0
    with Forks(tmp_path, place, APP) as forks:
        for _ in range(max(2, min(RUNS, 3))):
            most = 2 if point in ("lease.acquired", "release") else 6
            code = forks.wait(forks.start(f"{point}:{rng.randint(1, most)}:kill"))
            assert code in (0, -9), f"exit code {code}\n{forks.tail_of_log()}"
            kills += code == -9
        assert kills, f"no worker came to {point}\n{forks.tail_of_log()}"
        forks.finish()
    async with place.open() as broker:
        await check(broker)
    place.check()


@at_all_places()
async def test_a_record_that_always_kills_is_the_only_dead_letter(tmp_path: Path, place: Place) -> None:
    poison = 31
    async with place.open() as broker:
        await append(broker, random.Random(SEED))
    print(f"PSPF_SEED={SEED}")
    with Forks(tmp_path, place, APP, {"FAULTS_POISON": str(poison)}) as forks:
        for _ in range(30):
            code = forks.wait(forks.start(""))
            assert code in (0, -9), f"exit code {code}\n{forks.tail_of_log()}"
            if code == 0:
                break
        assert code == 0, forks.tail_of_log()
    async with place.open() as broker:
        (dead,) = await broker.list_dead_letters()
        assert (orjson.loads(dead.record.value)["n"], dead.error_type) == (poison, "HandlerCrashed")
        await check(broker, without=poison)
    place.check()
