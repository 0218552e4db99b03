"""Handlers that block, hang or never end, and processes that are stopped: who is replaced, and who is left alone."""

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults import side_by_side
from tests.faults.fleet import LEASE_MS, Fleet, job
from tests.process.commands import is_running, name_of, state_of, wait_until
from tests.support.workers import read_all

STALL = {"PSPF_LOOP_STALL_MS": "1500"}


at_all_places = side_by_side.at_all_places(fleet=Fleet)


@at_all_places
async def test_a_handler_that_blocks_the_loop_is_logged_with_its_stack_and_replaced(
    fleet: Fleet, tmp_path: Path
) -> None:
    await fleet.fill([job(1), job(2, do="block", seconds=80, mark=str(tmp_path / "mark")), job(3)])
    worker = fleet.start("one", **STALL)
    worker.wait_for("its event loop has been silent for")
    assert worker.says("in _do")  # where it blocks
    assert worker.says("runtime_app.py")
    assert fleet.pspf("health", "ready").returncode == 10
    worker.wait_for("another one starts")
    await fleet.wait_for_lag()
    wait_until(lambda: fleet.pspf("health", "ready").returncode == 0)
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0
    await fleet.check([(1, "k"), (2, "k"), (3, "k")])


@at_all_places
async def test_while_a_handler_blocks_longer_than_the_lease_nobody_else_commits_its_partition(fleet: Fleet) -> None:
    await fleet.fill([job(1, do="block", seconds=2 * LEASE_MS / 1000), job(2)])
    one = fleet.start("one")
    one.wait_for("start 1")
    other = fleet.start("other")
    await fleet.wait_for_lag()
    assert not other.says("start 1")
    for worker in (one, other):
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0
    await fleet.check([(1, "k"), (2, "k")])


def _busy(fleet: Fleet) -> list[dict[str, Any]]:
    """Return the calls that take long, as workers told of them at most 3 s ago."""
    return [busy for process in fleet.workers() for busy in process["busy"]]


@pytest.mark.parametrize("do", ["sleep", "thread"])
@at_all_places
async def test_a_handler_that_is_slow_is_neither_replaced_nor_run_twice(fleet: Fleet, tmp_path: Path, do: str) -> None:
    slow = job(1, do=do, seconds=10, go=str(tmp_path / "go"))
    await fleet.fill([slow, *(job(n, f"other-{n}") for n in range(2, 12))], partitions=4)
    one = fleet.start("one", **STALL)
    one.wait_for("start 1")
    other = fleet.start("other", **STALL)
    wait_until(lambda: fleet.pspf("health", "ready", "--everywhere").returncode == 0 and len(fleet.workers()) == 2)
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        assert fleet.pspf("health", "ready", "--everywhere").returncode == 0
    wait_until(lambda: [busy["handler"] for busy in _busy(fleet) if busy["for_ms"] > 1_500] == ["steps"])
    (tmp_path / "go").touch()
    await fleet.wait_for_lag()
    for worker in (one, other):
        assert not worker.says("silent")
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0
    assert sum(worker.log.read_text().count("start 1 ") for worker in (one, other)) == 1
    await fleet.check([(1, "k"), *((n, f"other-{n}") for n in range(2, 12))])


@pytest.mark.parametrize("point", ["handler.mid", "commit.built"])
@at_all_places
async def test_a_process_that_was_stopped_longer_than_its_lease_commits_nothing_of_the_others(
    fleet: Fleet, point: str
) -> None:
    jobs = [job(n) for n in range(60)]
    await fleet.fill(jobs)
    zombie = fleet.start("zombie", PSPF_FAULT=f"{point}:3:stop")
    wait_until(lambda: any(state_of(pid) == "T" for pid in zombie.children()))
    (stopped,) = (pid for pid in zombie.children() if state_of(pid) == "T")
    other = fleet.start("other")
    took = await fleet.wait_for_lag()
    assert took < LEASE_MS / 1000 + 10
    os.kill(stopped, signal.SIGCONT)
    zombie.wait_for("the lease of epoch 1 is lost; nothing was committed")
    assert stopped in zombie.children(), "it goes on, without what it had"
    async with fleet.open() as broker:
        await broker.append("jobs", [job(60)])
    await fleet.wait_for_lag()
    for worker in (zombie, other):
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0
    await fleet.check([(n, "k") for n in range(61)])


@at_all_places
async def test_a_process_that_stays_stopped_is_replaced(fleet: Fleet) -> None:
    await fleet.fill([job(1)])
    worker = fleet.start("one", **STALL)
    await fleet.wait_for_lag()
    (child,) = worker.children()
    await asyncio.sleep(1.2)  # it has told that its loop turns
    os.kill(child, signal.SIGSTOP)
    worker.wait_for("its event loop has been silent for")
    wait_until(lambda: worker.children() != [child] and len(worker.children()) == 1, within_s=30)
    async with fleet.open() as broker:
        await broker.append("jobs", [job(2)])
    await fleet.wait_for_lag()
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0
    await fleet.check([(1, "k"), (2, "k")])


@at_all_places
async def test_a_supervisor_that_was_stopped_blames_nobody_for_the_silence(fleet: Fleet) -> None:
    await fleet.fill([job(1)])
    worker = fleet.start("one", **STALL)
    await fleet.wait_for_lag()
    children = worker.children()
    worker.signal(signal.SIGSTOP)
    await asyncio.sleep(4)
    worker.signal(signal.SIGCONT)
    await asyncio.sleep(2)
    assert worker.children() == children
    assert not worker.says("silent")
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0


@at_all_places
async def test_after_the_supervisor_is_killed_nothing_is_left_and_another_machine_goes_on(fleet: Fleet) -> None:
    await fleet.fill([job(2)])
    one = fleet.start("one")
    await fleet.wait_for_lag()
    family = one.family()
    assert {name_of(pid) for pid in family} == {"pspf jobs/runti", "pspf-forkserver"}
    one.signal(signal.SIGKILL)
    wait_until(lambda: not any(map(is_running, family)), within_s=2)
    async with fleet.open() as broker:
        await broker.append("jobs", [job(3)])
    other = fleet.start("other")
    await fleet.wait_for_lag(within_s=LEASE_MS / 1000 + 10)
    other.signal(signal.SIGTERM)
    assert other.end() == 0
    async with fleet.open() as broker:
        assert len(await read_all(broker, "steps")) == 2


@at_all_places
async def test_a_worker_is_not_ready_while_a_process_of_it_does_not_hold_its_session(fleet: Fleet) -> None:
    await fleet.fill([job(1)])
    worker = fleet.start("one")
    await fleet.wait_for_lag()
    wait_until(lambda: fleet.pspf("health", "ready").returncode == 0)
    (child,) = worker.children()
    await asyncio.sleep(1.5)  # it has told of its session, and renewed it
    os.kill(child, signal.SIGSTOP)
    wait_until(lambda: fleet.pspf("health", "ready").returncode == 10)
    assert b"its session is not renewed" in fleet.pspf("health", "ready").stderr
    os.kill(child, signal.SIGCONT)
    wait_until(lambda: fleet.pspf("health", "ready").returncode == 0)
    assert worker.children() == [child]
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0
