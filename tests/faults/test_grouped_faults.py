"""Handlers that group by another key, through crashes and zombies: each record counts once, for its grouping key.

`PSPF_FAULT_RUNS` runs more (`make faults` takes 20); `PSPF_SEED` repeats a failure.
"""

import random
from collections import Counter
from pathlib import Path
from typing import Final

import orjson
import pytest

from pspf.records import NewRecord
from tests.faults.forked import Forks
from tests.faults.runs import RUNS, SEED, Place
from tests.faults.side_by_side import at_all_places
from tests.support.workers import read_all

EVENTS: Final = 200
APP: Final = "tests.faults.grouped_app:stream"
POINTS: Final = ("handler.mid", "commit.built", "commit.sent", "commit.reply")
PASSINGS: Final = {"handler.mid": 60}

Sent = list[tuple[int, str, str]]
"""(number, own key, customer) of each event."""


async def fill(place: Place, partitions: int, rng: random.Random) -> Sent:
    sent = [(n, f"key-{rng.randrange(8)}", f"customer-{rng.randrange(5)}") for n in range(EVENTS)]
    records = [
        NewRecord(own.encode(), orjson.dumps({"event_type": "Order", "n": n, "customer": customer}))
        for n, own, customer in sent
    ]
    async with place.open() as broker:
        await broker.create_topic("orders", partitions=partitions)
        await broker.append("orders", records)
    return sent


async def check(place: Place, sent: Sent) -> None:
    """Compare state and what was told with one undisturbed pass; within a customer and own key, order too."""
    async with place.open() as broker:
        told = [orjson.loads(record.value) for record in await read_all(broker, "totals")]
        assert Counter((e["n"], e["own"], e["customer"]) for e in told) == Counter(sent)
        entries = await broker.list_state(group="sums", name="numbers")
        state = {entry.key.decode(): orjson.loads(entry.value) for entry in entries}
        assert {key: sorted(numbers) for key, numbers in state.items()} == {
            customer: sorted(n for n, _, other in sent if other == customer) for customer in {each[2] for each in sent}
        }
        owners = {n: own for n, own, _ in sent}
        for customer, numbers in state.items():
            mine = [e for e in told if e["customer"] == customer]
            assert [e["n"] for e in mine] == numbers, "what was told is what is remembered, in its order"
            assert [e["count"] for e in mine] == list(range(1, len(mine) + 1))
            for own in set(owners.values()):
                in_order = [n for n in numbers if owners[n] == own]
                assert in_order == sorted(in_order)
        assert await broker.list_dead_letters() == []
    place.check()


@pytest.mark.parametrize("partitions", [1, 4])
@pytest.mark.parametrize("point", POINTS if RUNS > 2 else ("handler.mid", "commit.sent"))
@at_all_places()
async def test_a_kill_changes_no_sum(tmp_path: Path, place: Place, point: str, partitions: int) -> None:
    rng = random.Random(f"{point} {partitions} {SEED}")
    print(f"PSPF_SEED={SEED} pytest tests/faults/test_grouped_faults.py -k '{point}'")
    sent = await fill(place, partitions, rng)
    with Forks(tmp_path, place, APP) as forks:
        kills = 0
        for _ in range(RUNS):
            fault = f"{point}:{rng.randint(1, PASSINGS.get(point, 15))}:kill"
            print(fault)
            code = forks.wait(forks.start(fault))
            assert code in (0, -9), f"exit code {code}\n{forks.tail_of_log()}"
            kills += code == -9
        assert kills, f"no worker came to {point}\n{forks.tail_of_log()}"
        forks.finish()
    await check(place, sent)


@at_all_places()
async def test_a_worker_that_was_stopped_changes_no_sum_of_its_heirs(tmp_path: Path, place: Place) -> None:
    rng = random.Random(SEED)
    print(f"PSPF_SEED={SEED}")
    sent = await fill(place, 1, rng)
    with Forks(tmp_path, place, APP) as forks:
        zombie = forks.start(f"commit.built:{rng.randint(2, 10)}:stop")
        with forks.frozen(zombie):
            forks.finish()
        assert forks.wait(zombie) == 0, forks.tail_of_log()
        assert "is lost; nothing was committed" in forks.tail_of_log()
    await check(place, sent)
