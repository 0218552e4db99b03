"""Durable steps through kills: a finished step does not run again, one in flight does with the same idempotency key."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from pspf.events.step_places import STEPS, STEPS_BESIDE
from pspf.records import Cursor, NewRecord
from tests.faults.forked import Forks
from tests.faults.runs import RUNS, SECONDS, SEED, Place
from tests.faults.side_by_side import at_all_places
from tests.support.workers import read_all

APP: Final = "tests.faults.steps_app:stream"
KILLS: Final = 10 if RUNS > 2 else 3
KEYS: Final = 6
MOST_LINES: Final = 12
"""How far a worker comes at most before it is killed."""
NAMES: Final = ("charge", "reserve", "mail")


async def fill(place: Place, events: int, topics: Sequence[str] = ("orders",)) -> None:
    """Append events to topics in turn: offsets of two may be equal."""
    async with place.open() as broker:
        for index, topic in enumerate(topics):
            await broker.create_topic(topic, partitions=1)
            numbers = range(index, events, len(topics))
            for begin in range(0, len(numbers), 50):
                await broker.append(
                    topic,
                    [
                        NewRecord(f"k{n % KEYS}".encode(), json.dumps({"n": n, "key": f"k{n % KEYS}"}).encode())
                        for n in numbers[begin : begin + 50]
                    ],
                )


def read_lines(path: Path) -> list[tuple[int, str, str]]:
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(n), step, key) for n, step, key in map(str.split, lines)]


@pytest.mark.parametrize("topics", [("orders",), ("orders", "returns")], ids=["one topic", "two topics"])
@pytest.mark.parametrize("number", range(max(1, RUNS // 2)))
@at_all_places()
async def test_each_finished_step_ran_once_and_at_most_the_one_in_flight_at_a_kill_twice(
    tmp_path: Path, place: Place, number: int, topics: tuple[str, ...]
) -> None:
    seed = SEED + number
    print(f"PSPF_SEED={seed}")
    rng, events, path = random.Random(seed), 10 + 4 * KILLS, tmp_path / "steps.txt"
    await fill(place, events, topics)
    kills = 0
    environment = {
        "STEPS_FILE": str(path),
        "STEPS_TOPICS": " ".join(topics),
        "PSPF_MAX_CRASHES": "1000000",
        "PSPF_LEASE_MS": "600",
        "PSPF_RENEW_MS": "100",
    }
    with Forks(tmp_path, place, APP, environment) as forks:
        while kills < KILLS:
            worker, wanted = forks.start(), len(read_lines(path)) + rng.randint(1, MOST_LINES)
            deadline = time.monotonic() + SECONDS
            while len(read_lines(path)) < wanted and worker.poll() is None:
                assert time.monotonic() < deadline, f"it does not come on\n{forks.tail_of_log()}"
                await asyncio.sleep(0.001)
            await asyncio.sleep(rng.uniform(0, 0.01))
            worker.kill()
            if forks.wait(worker) == 0:
                break
            kills += 1
        forks.finish()
    assert kills >= KILLS // 2
    lines = read_lines(path)
    counts = Counter((n, step) for n, step, _ in lines)
    assert counts.keys() == {(n, step) for n in range(events) for step in NAMES}
    doubles = [place for place, count in counts.items() if count > 1]
    print(f"{kills} kills, {len(doubles)} steps were in flight at one")
    assert sum(counts.values()) - len(counts) <= kills, "one a kill at most"
    keys = {(n, step): {key for m, name, key in lines if (m, name) == (n, step)} for n, step in doubles}
    assert all(len(found) == 1 for found in keys.values()), "the same key each time"
    assert len({key for _, _, key in lines}) == 3 * events
    async with place.open() as broker:
        fulfilled = [json.loads(record.value) for record in await read_all(broker, "fulfilled")]
        assert sorted(each["n"] for each in fulfilled) == list(range(events))
        assert all(each["done"] == [f"{step}-{each['n']}" for step in NAMES] for each in fulfilled)
        assert await broker.list_dead_letters() == []
        assert sum(json.loads(entry.value) for entry in await broker.list_state()) == events
        for namespace in (STEPS, STEPS_BESIDE):
            assert not await broker.scan_entries(Cursor("orders", "steps", "fulfil", 0), namespace)
    place.check()


@at_all_places()
async def test_a_record_that_kills_behind_a_step_is_dead_in_the_end_and_its_step_ran_once(
    tmp_path: Path, place: Place
) -> None:
    await fill(place, 12)
    path = tmp_path / "steps.txt"
    environment = {"STEPS_FILE": str(path), "STEPS_KILL_AT": "7", "PSPF_LEASE_MS": "600", "PSPF_RENEW_MS": "100"}
    with Forks(tmp_path, place, APP, environment) as forks:
        kills = 0
        while (code := forks.wait(forks.start())) != 0:
            assert code == -9, f"exit code {code}\n{forks.tail_of_log()}"
            kills += 1
            assert kills < 20, f"still killing\n{forks.tail_of_log()}"
    counts = Counter((n, step) for n, step, _ in read_lines(path))
    assert counts == {(n, step): 1 for n in range(12) for step in NAMES if n != 7 or step == "charge"}
    async with place.open() as broker:
        letters = await broker.list_dead_letters()
        assert [letter.error_type.rpartition(".")[2] for letter in letters] == ["HandlerCrashed"]
        assert not await broker.scan_entries(Cursor("orders", "steps", "fulfil", 0), STEPS)
    place.check()
