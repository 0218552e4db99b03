"""A toy operator through kills: each event of it counts once, each result goes out once, timers outlive a worker."""

import random
from collections import Counter
from pathlib import Path
from typing import Final

import orjson
import pytest

from pspf.connectors.contract.backend import StreamingBackend
from pspf.records import NewRecord
from pspf.stream import Stream
from tests.faults.forked import Forks
from tests.faults.runs import RUNS, SEED, Place
from tests.faults.side_by_side import at_all_places
from tests.integration.running import running, wait_until
from tests.support.debouncing import GROUP, TOPIC, add_debounce, read_settled

EVENTS: Final = 90
KEYS: Final = 6
POINTS: Final = ("read.reply", "commit.built", "commit.sent", "commit.reply")


@pytest.mark.parametrize("number", range(max(1, RUNS // 4)))
@pytest.mark.parametrize("point", POINTS)
@at_all_places()
async def test_a_kill_between_any_two_steps_loses_and_doubles_nothing(
    tmp_path: Path, place: Place, point: str, number: int
) -> None:
    seed = SEED + number
    rng = random.Random(f"{point} {seed}")
    print(f"PSPF_SEED={seed}")
    records = [
        NewRecord(key.encode(), orjson.dumps({"n": n, "key": key})) for n in range(EVENTS) for key in [f"k{n % KEYS}"]
    ]
    async with place.open() as broker:
        await broker.create_topic(TOPIC, partitions=2)
        await broker.append(TOPIC, records)
    kills = 0
    with Forks(tmp_path, place, "tests.faults.debounce_app:stream") as forks:
        for _ in range(2):
            code = forks.wait(forks.start(f"{point}:{rng.randint(1, 6)}:kill"))
            assert code in (0, -9), f"exit code {code}\n{forks.tail_of_log()}"
            kills += code == -9
        assert kills, f"no worker came to {point}\n{forks.tail_of_log()}"
        forks.finish()
    broker = place.open()
    stream = Stream(StreamingBackend(broker, TOPIC, GROUP))
    add_debounce(stream, quiet_ms=50)

    async def all_out() -> bool:
        return sum(count for _, _, count in await read_settled(broker)) >= EVENTS

    async with running(stream):
        await wait_until(all_out, within_ms=30_000)
    settled = await read_settled(broker)
    counts = Counter[str]()
    for key, _, count in settled:
        counts[key] += count
    assert counts == {f"k{n}": EVENTS // KEYS for n in range(KEYS)}
    for name in counts:
        values = [value for key, value, _ in settled if key == name]
        assert values == sorted(set(values)), "each result once, in order"
        assert values[-1] % KEYS == int(name[1:])
        assert values[-1] >= EVENTS - KEYS
    await broker.close()
    place.check()
