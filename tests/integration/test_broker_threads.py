"""The embedded broker's thread when the system fails it: it goes on, and nobody waits for ever."""

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pspf.connectors.sqlite import SQLiteBroker
from pspf.connectors.sqlite.engine.base import ANY_PARTITION, Engine, Nothing, Poll
from pspf.errors import BackendUnavailable
from pspf.records import Cursor, NewRecord
from tests.support.descriptors import no_descriptors
from tests.support.threads import no_threads
from tests.support.waiting import wait_until

ONE = [NewRecord(None, b"{}")]


async def test_emits_and_polls_go_on_while_there_are_no_descriptors(tmp_path: Path) -> None:
    async with SQLiteBroker(tmp_path / "b.db") as broker:
        session = await broker.open_session()
        await session.register("orders", "billing", None)
        consumer = await session.share(Cursor("orders", "billing", None, 0))
        with no_descriptors():
            await asyncio.wait_for(broker.append("orders", ONE), 5)
            batch = await asyncio.wait_for(consumer.poll(max_records=5, timeout_ms=1_000), 5)
            assert len(batch.records) == 1
            waiting = asyncio.create_task(consumer.poll(max_records=5, timeout_ms=5_000))
            await asyncio.sleep(0)
            await asyncio.wait_for(broker.append("orders", ONE), 5)
            assert len((await asyncio.wait_for(waiting, 5)).records) == 1


async def test_a_broker_can_not_be_opened_without_descriptors_and_can_be_later(tmp_path: Path) -> None:
    broker = SQLiteBroker(tmp_path / "b.db")
    with no_descriptors(), pytest.raises(BackendUnavailable, match=r"can't be opened"):
        await asyncio.wait_for(broker.connect(), 10)
    async with broker:
        await broker.append("orders", ONE)


class Failing:
    """A chore that fails as none of ours should."""

    every_ms = 10

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.runs = 0

    def run(self, engine: Engine) -> None:
        self.runs += 1
        raise self.error


@pytest.mark.parametrize(
    "error", [PermissionError(13, "no"), ZeroDivisionError("a mistake")], ids=["system", "mistake"]
)
async def test_a_chore_that_fails_ends_neither_the_thread_nor_other_chores(tmp_path: Path, error: Exception) -> None:
    broker = SQLiteBroker(tmp_path / "b.db")
    failing, after = Failing(error), Failing(error)
    for chore in (failing, after):
        broker._engine.add_chore(chore)
    async with broker:

        async def both_ran_again() -> bool:
            return failing.runs > 1 and after.runs > 1

        await wait_until(both_ran_again)
        await asyncio.wait_for(broker.append("orders", ONE), 5)


async def test_whoever_waits_for_a_thread_that_ends_is_answered(tmp_path: Path) -> None:
    """SystemExit, for one, is no reason to leave callers waiting."""
    broker = SQLiteBroker(tmp_path / "b.db")
    await broker.connect()

    def end(storage: object) -> None:
        raise SystemExit

    hook, threading.excepthook = threading.excepthook, lambda args: None
    try:
        for _ in range(2):
            with pytest.raises(BackendUnavailable, match=r"thread has ended|not connected"):
                await asyncio.wait_for(broker._engine.read(end), 5)
        await asyncio.wait_for(broker.close(), 5)
    finally:
        threading.excepthook = hook


SLOW = """
import asyncio, sys, time
from pathlib import Path
from pspf.connectors.contract.limits import Limits
from pspf.connectors.sqlite import SQLiteBroker
from pspf.errors import EmitUnknown, BackendUnavailable
from pspf.records import NewRecord

async def main():
    broker = SQLiteBroker(Path(sys.argv[1]), Limits(emit_timeout_ms=500))
    await broker.connect()
    commit = broker._engine.storage.commit
    broker._engine.storage.commit = lambda: time.sleep(60)
    one = [NewRecord(None, b"{}")]
    results = await asyncio.wait_for(asyncio.gather(
        broker.append("orders", one), broker.append("orders", one), return_exceptions=True), 5)
    await asyncio.sleep(0)
    late = await asyncio.wait_for(asyncio.gather(broker.append("orders", one), return_exceptions=True), 5)
    print(*(type(each).__name__ for each in (*results, *late)), flush=True)
    import os
    os._exit(0)

asyncio.run(main())
"""


def test_emits_end_in_time_though_the_disk_does_not_answer(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SLOW, str(tmp_path / "b.db")], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stdout.split()[:1] == ["EmitUnknown"], done.stderr
    assert done.stdout.split()[-1:] == ["BackendUnavailable"], done.stderr


async def test_a_poll_behind_the_one_that_ends_the_thread_is_answered(tmp_path: Path) -> None:
    broker = SQLiteBroker(tmp_path / "b.db")
    await broker.connect()
    looks = 0

    def end_later(storage: object) -> Nothing:
        nonlocal looks
        looks += 1
        if looks > 1:
            raise SystemExit
        return Nothing()

    hook, threading.excepthook = threading.excepthook, lambda args: None
    try:
        polls = [
            asyncio.create_task(broker._engine.poll(Poll(ANY_PARTITION, look, None, 60_000)))
            for look in (end_later, lambda storage: Nothing())
        ]

        async def has_looked() -> bool:
            return looks == 1

        await wait_until(has_looked)
        await asyncio.wait_for(broker.append("orders", ONE), 5)
        for poll in polls:
            with pytest.raises(BackendUnavailable, match="thread has ended"):
                await asyncio.wait_for(poll, 5)
        await asyncio.wait_for(broker.close(), 5)
    finally:
        threading.excepthook = hook


async def test_a_broker_is_closed_without_a_thread_and_opened_once_there_is_one(tmp_path: Path) -> None:
    broker = SQLiteBroker(tmp_path / "b.db")
    await broker.connect()
    with no_threads():
        await asyncio.wait_for(broker.close(), 10)
        with pytest.raises(BackendUnavailable, match="can't start new thread"):
            await asyncio.wait_for(broker.connect(), 10)
    async with broker:
        await broker.append("orders", ONE)
