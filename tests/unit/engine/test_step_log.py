"""The step log: what a cancellation leaves, and what goes with which commit."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from pspf.engine.step_log import StepLog
from pspf.errors import CommitStale
from pspf.events.step_places import STEPS, StepPlaces, split_step_key, step_key
from pspf.records import Commit, EntryPlace


class Stored:
    """What the broker holds; it can be made to answer late, or to refuse."""

    def __init__(self) -> None:
        self.steps: dict[bytes, bytes] = {}
        self.answers = asyncio.Event()
        self.answers.set()
        self.refuses = False

    async def read(self, places: Sequence[EntryPlace]) -> Mapping[EntryPlace, bytes]:
        return {place: self.steps[place[1]] for place in places if place[1] in self.steps}

    async def scan(self, namespace: int, after: bytes | None, most: int) -> Sequence[tuple[bytes, bytes]]:
        assert namespace == STEPS
        return sorted(each for each in self.steps.items() if after is None or each[0] > after)[:most]

    async def write(self, commit: Commit) -> None:
        assert not commit.done
        assert not commit.retries
        assert commit.position is None
        await self.answers.wait()
        if self.refuses:
            raise CommitStale("moved")
        for key, value in commit.changes.entries[STEPS].items():
            assert value is not None
            self.steps[key] = value


async def make(stored: Stored, done: Sequence[int] = ()) -> StepLog:
    log = StepLog(stored.read, stored.scan, stored.write, StepPlaces(("orders",)))
    await log.load(lambda topic, offset: offset not in done)
    return log


async def test_a_step_whose_caller_is_cancelled_is_kept_all_the_same() -> None:
    stored = Stored()
    log = await make(stored)
    stored.answers.clear()
    task = asyncio.create_task(log.keep(7, "charge", b"1"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    stored.answers.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert await log.find(7, "charge") == b"1"


async def test_steps_go_with_the_commit_of_their_record_and_no_other() -> None:
    stored = Stored()
    log = await make(stored)
    for offset in (1 << 100, 2):
        for name in ("a", "ü"):
            await log.keep(offset, name, b"1")
    assert log.drops([3]) == {}
    assert {split_step_key(key) for key in log.drops([1 << 100, 3])[STEPS]} == {(1 << 100, "a"), (1 << 100, "ü")}
    log.settle([1 << 100, 3])
    assert log.drops([1 << 100]) == {}
    assert await log.find(1 << 100, "a") is None
    assert await log.find(2, "a") == b"1"


async def test_a_new_owner_knows_the_steps_and_drops_those_of_records_that_are_gone() -> None:
    stored = Stored()
    stored.steps = {step_key(n, "a"): b"%d" % n for n in range(250)}
    log = await make(stored, done=[5, 200])
    assert await log.find(249, "a") == b"249"
    assert set(log.drops([])[STEPS]) == {step_key(5, "a"), step_key(200, "a")}
    log.settle([])
    assert log.drops([]) == {}


async def test_a_refusal_is_told_and_nothing_is_known_of_the_step() -> None:
    stored, told = Stored(), list[int]()
    log = await make(stored)
    log.on_refusal = lambda: told.append(1)
    stored.refuses = True
    with pytest.raises(CommitStale):
        await log.keep(1, "a", b"1")
    assert isinstance(log.error, CommitStale)
    assert told == [1]
    assert await log.find(1, "a") is None


async def test_at_the_end_no_step_is_left_that_waits_to_be_kept() -> None:
    stored = Stored()
    log = await make(stored)
    stored.answers.clear()
    task = asyncio.create_task(log.keep(7, "charge", b"1"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await log.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
