"""Timers through kills: each fires once, those of a key in order; one that kills its process is a dead letter."""

import random
from collections import defaultdict
from pathlib import Path
from typing import Final

import orjson
import pytest

from pspf.connectors.contract.broker import Broker
from pspf.records import NewRecord
from tests.faults.forked import Forks
from tests.faults.runs import RUNS, SECONDS, SEED, Place, Run
from tests.faults.side_by_side import at_all_places
from tests.support.workers import read_all

APP: Final = "tests.faults.timers_app:stream"
EVENTS: Final = 120
KEYS: Final = 6
POINTS: Final = ("read.reply", "commit.built", "commit.sent", "commit.reply", "handler.before", "handler.after")


def make_records() -> list[NewRecord]:
    """Return events of which the key's next one comes before its timer in event time, but for the middle."""
    return [
        NewRecord(
            f"k{n % KEYS}".encode(),
            orjson.dumps({"n": n, "key": f"k{n % KEYS}", "timestamp": n + (1_000 if n >= EVENTS // 2 else 0)}),
        )
        for n in range(EVENTS)
    ]


async def check_fired(broker: Broker, *, missing: str | None = None) -> None:
    """Check that each timer by the clock has fired once and, of those in event time, one a key at the gap."""
    fired = defaultdict(list)
    for record in await read_all(broker, "fired"):
        fired[record.key].append(orjson.loads(record.value))
    clock = sorted(each["n"] for events in fired.values() for each in events if each["name"] != "last")
    assert clock == [n for n in range(EVENTS) if f"clock-{n}" != missing]
    for key, events in fired.items():
        assert [each["count"] for each in events] == list(range(1, len(events) + 1)), f"{key}: state and emits agree"
        assert [each["n"] for each in events if each["name"] == "last"] == expected_last(int((key or "k0")[1:]))


def expected_last(key: int) -> list[int]:
    """Return which timers in event time of a key fire: one that is not replaced before the watermark gets there."""
    found = []
    watermark_ms = due = None
    for n in range(EVENTS):
        watermark_ms = max(watermark_ms or 0, (n + (1_000 if n >= EVENTS // 2 else 0)) * 1_000)
        if due is not None and due * 1_000 + 5_500 <= watermark_ms:
            found.append(due)
            due = None
        if n % KEYS == key:
            due = n
            if n * 1_000 + 5_500 <= watermark_ms:
                found.append(n)
                due = None
    return found


@pytest.mark.parametrize("number", range(max(1, RUNS // 4)))
@pytest.mark.parametrize("point", POINTS)
@at_all_places()
async def test_a_kill_between_any_two_steps_loses_and_doubles_no_timer(
    tmp_path: Path, place: Place, point: str, number: int
) -> None:
    seed = SEED + number
    rng = random.Random(f"{point} {seed}")
    print(f"PSPF_SEED={seed}")
    async with place.open() as broker:
        await broker.create_topic("ticks", partitions=1)
        await broker.append("ticks", make_records())
    kills = 0
    with Forks(tmp_path, place, APP) as forks:
        for _ in range(max(2, min(RUNS, 3))):
            code = forks.wait(forks.start(f"{point}:{rng.randint(1, 12)}:kill"))
            assert code in (0, -9), f"exit code {code}\n{forks.tail_of_log()}"
            kills += code == -9
        assert kills, f"no worker came to {point}\n{forks.tail_of_log()}"
        for _ in range(20):
            forks.finish()
            async with place.open() as broker:
                if len(await read_all(broker, "fired")) >= EVENTS:
                    break
    async with place.open() as broker:
        await check_fired(broker)
        assert await broker.list_dead_letters() == []
    place.check()


@at_all_places()
async def test_a_timer_that_always_kills_is_the_only_dead_letter(tmp_path: Path, place: Place) -> None:
    async with place.open() as broker:
        await broker.create_topic("ticks", partitions=1)
        await broker.append("ticks", make_records())
    run = Run(tmp_path, place, partitions=1, lease_ms=1_000, app=APP)
    kills = 0
    while (code := run.start(FAULTS_KILL="clock-61").wait(SECONDS)) != 0:
        assert code == -9, f"exit code {code}\n{run.tail_of_log()}"
        kills += 1
        assert kills < 12, f"still killing\n{run.tail_of_log()}"
    assert kills >= 4, "it is noted three times, and runs once before"
    async with place.open() as broker:
        (letter,) = await broker.list_dead_letters()
        assert letter.error_type.rpartition(".")[2] == "HandlerCrashed"
        assert letter.record.headers["timer"] == "clock-61"
        await check_fired(broker, missing="clock-61")
