"""Sessions of the embedded broker that are taken for gone and are not: they come back, and nothing is charged."""

import asyncio
import os
import shutil
import warnings
from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest

from pspf.clock import ManualClock
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.limits import Limits
from pspf.connectors.sqlite import SQLiteBroker
from pspf.connectors.sqlite.engine.threaded import ThreadEngine
from pspf.connectors.sqlite.silence import Silences
from pspf.errors import CommitFenced
from tests.support.brokers import leased, still
from tests.support.waiting import wait_until
from tests.support.workers import (
    GROUP,
    HANDLER,
    TOPIC,
    Member,
    numbered,
    offsets,
    own,
    settle,
    share,
    take,
    take_batch,
)

LIMITS = Limits(synchronous="NORMAL")
MODES = pytest.mark.parametrize("handler", [None, HANDLER], ids=["shared", "ordered"])


class Pair:
    """Two processes' brokers on one file and one clock; the first may stand still."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = ManualClock()
        self.one = SQLiteBroker(path, LIMITS, self.clock)
        self.other = SQLiteBroker(path, LIMITS, self.clock)

    async def pass_time(self, by_ms: int, *working: Broker) -> None:
        """Let time pass, in which only some of them work."""
        for _ in range(0, by_ms, 1_000):
            self.clock.advance(1_000)
            for broker in working:
                await _do_chores(broker)


async def _do_chores(broker: Broker) -> None:
    assert isinstance(broker, SQLiteBroker)
    await broker._engine.read(lambda storage: broker._engine.run_chores())


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    pair = Pair(tmp_path / "broker.db")
    async with pair.one, pair.other:
        await pair.one.append(TOPIC, numbered(4))
        yield pair


async def join(broker: Broker, handler: str | None) -> Member:
    return await (own(broker, handler=handler) if handler else share(broker))


async def test_a_session_that_stood_still_takes_part_again_and_is_not_taken_for_gone_again(pair: Pair) -> None:
    session = (await share(pair.one)).session
    other = (await share(pair.other)).session
    async with still(pair.one):
        await pair.pass_time(14_000, pair.other)
    assert await pair.other.list_consumers(group=GROUP) != []
    assert await leased(other).read_members(TOPIC, GROUP, None) == [other.id]
    for _ in range(3):
        await pair.pass_time(14_000, pair.one, pair.other)
        assert await leased(other).read_members(TOPIC, GROUP, None) == sorted([session.id, other.id])
    assert os.listdir(f"{pair.path}-sessions").count(session.id) == 1


@MODES
async def test_a_record_whose_processes_stood_still_is_charged_with_no_crash(pair: Pair, handler: str | None) -> None:
    """Each stands still in turn with the same record alone in its hands; none has ended."""
    holder, candidate = await join(pair.one, handler), pair.other
    await (await pair.other.open_session()).register(TOPIC, GROUP, handler)
    await take_batch(holder.consumer, 1)
    for _ in range(6):
        brokers = (candidate, pair.one if candidate is pair.other else pair.other)
        async with still(brokers[1]):
            await pair.pass_time(14_000, candidate)
            holder = await join(candidate, handler)
            batch = await take_batch(holder.consumer, 1)
            assert (offsets(batch.records), batch.suspect, batch.crashes) == ([1], True, 0)
            await holder.consumer.intend([1])
        await pair.pass_time(4_000, *brokers)
        candidate = brokers[1]


@MODES
async def test_a_record_whose_process_stood_still_and_then_ended_is_charged(pair: Pair, handler: str | None) -> None:
    """A pattern without end in `re` holds the interpreter, and the supervisor ends its process after a while."""
    await (await pair.other.open_session()).register(TOPIC, GROUP, handler)
    gone = await join(pair.one, handler)
    await take_batch(gone.consumer, 1)
    gone.session.abandon()
    await pair.pass_time(2_000, pair.other)
    hangs = await join(pair.one, handler)
    batch = await take_batch(hangs.consumer, 1)
    assert batch.suspect
    await hangs.consumer.intend(offsets(batch.records))
    async with still(pair.one):
        await pair.pass_time(14_000, pair.other)
        hangs.session.abandon()
        await pair.pass_time(2_000, pair.other)
    batch = await take_batch((await join(pair.other, handler)).consumer, 1)
    assert (offsets(batch.records), batch.crashes) == ([1], 1)


@MODES
async def test_what_others_ran_beside_is_not_charged_where_its_process_stood_still_and_then_ended(
    pair: Pair, handler: str | None
) -> None:
    await (await pair.other.open_session()).register(TOPIC, GROUP, handler)
    gone = await join(pair.one, handler)
    await take_batch(gone.consumer, 1)
    gone.session.abandon()
    await pair.pass_time(2_000, pair.other)
    hangs = await join(pair.one, handler)
    batch = await take_batch(hangs.consumer, 1)
    for is_alone in (True, False):
        await hangs.consumer.intend(offsets(batch.records), is_alone=is_alone)
    async with still(pair.one):
        await pair.pass_time(14_000, pair.other)
        hangs.session.abandon()
        await pair.pass_time(2_000, pair.other)
    batch = await take_batch((await join(pair.other, handler)).consumer, 1)
    assert (offsets(batch.records), batch.suspect, batch.crashes) == ([1], True, 0)


async def test_an_owner_that_stood_still_while_nobody_else_works_keeps_its_lease(pair: Pair) -> None:
    owner = await own(pair.one)
    records = await take(owner.consumer)
    async with still(pair.one):
        await pair.pass_time(30_000, pair.other)
    await owner.consumer.commit(settle(records, position=5))


async def test_an_owner_that_stood_still_is_fenced_where_another_works(pair: Pair) -> None:
    owner = await own(pair.one)
    records = await take(owner.consumer)
    await (await pair.other.open_session()).register(TOPIC, GROUP, HANDLER)
    async with still(pair.one):
        await pair.pass_time(14_000, pair.other)
    with pytest.raises(CommitFenced):
        await owner.consumer.commit(settle(records, position=5))


@pytest.mark.parametrize("what", ["file", "folder"])
async def test_a_lock_file_that_somebody_removes_is_made_again(pair: Pair, what: str) -> None:
    session = (await share(pair.one)).session
    folder = Path(f"{pair.path}-sessions")
    if what == "file":
        (folder / session.id).unlink()
    else:
        shutil.rmtree(folder)
    await pair.pass_time(3_000, pair.other)
    assert [each.consumer for each in await pair.other.list_consumers(group=GROUP)] == [session.id]
    await pair.pass_time(4_000, pair.one, pair.other)
    assert (folder / session.id).exists()


async def test_a_session_that_ended_without_reaching_the_file_is_removed_uncharged(pair: Pair) -> None:
    await (await pair.other.open_session()).register(TOPIC, GROUP, None)
    gone = await share(pair.one)
    await take_batch(gone.consumer, 1)
    gone.session.abandon()
    await pair.pass_time(2_000, pair.other)
    leaver = await share(pair.one)
    batch = await take_batch(leaver.consumer, 1)
    await leaver.consumer.intend(offsets(batch.records))
    engine = pair.one._engine
    assert isinstance(engine, ThreadEngine)
    engine._thread, thread = None, engine._thread  # as where it can't be written to
    with pytest.raises(Exception, match="not connected"):
        await leaver.session.close()
    engine._thread = thread
    await pair.pass_time(14_000, pair.other)
    batch = await take_batch((await share(pair.other)).consumer, 1)
    assert (offsets(batch.records), batch.crashes) == ([1], 0)


async def test_while_nothing_can_be_written_nobody_is_taken_for_silent(tmp_path: Path) -> None:
    limits = Limits(lease_ms=1_500, renew_ms=300, synchronous="NORMAL")
    path = tmp_path / "broker.db"
    async with SQLiteBroker(path, limits) as one, SQLiteBroker(path, limits) as other:
        await one.append(TOPIC, numbered(1))
        owner = await own(one)
        records = await take(owner.consumer)
        await (await other.open_session()).register(TOPIC, GROUP, HANDLER)
        blocker = apsw.Connection(str(path))
        blocker.execute("BEGIN IMMEDIATE").fetchall()
        await asyncio.sleep(3.5)
        blocker.execute("ROLLBACK").fetchall()
        blocker.close()
        await owner.consumer.commit(settle(records, position=2))
        await asyncio.sleep(1)
        assert await leased(owner.session).read_members(TOPIC, GROUP, HANDLER) == sorted(
            [owner.session.id, *[each.id for each in other._sessions]]
        )


def test_an_observer_that_stood_still_itself_blames_nobody() -> None:
    silences = Silences(10_000, 3_000)
    for now_ms in (0, 1_000, 60_000):
        silences.look({"other": 7}, now_ms)
    assert not silences.has_to_ask
    assert not silences.has_ended("other")


def test_silence_counts_only_where_the_file_could_be_written_to() -> None:
    silences = Silences(10_000, 3_000)
    for now_ms in range(0, 30_000, 1_000):
        silences.look({"other": 7}, now_ms)
    assert not silences.has_ended("other"), "nobody has seen that it could renew"
    silences.asked()
    assert not silences.has_ended("other")
    for now_ms in range(30_000, 33_000, 1_000):
        silences.look({"other": 7}, now_ms)
    assert silences.has_ended("other")


async def test_a_child_that_is_forked_does_not_keep_its_parents_session(tmp_path: Path) -> None:
    async with SQLiteBroker(tmp_path / "broker.db", LIMITS) as broker:
        member = await share(broker)
        read_end, write_end = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, which handlers do
            pid = os.fork()
        if pid == 0:
            os.close(write_end)
            os.read(read_end, 1)  # as long as the parent lives
            os._exit(0)
        member.session.abandon()

        async def is_dead() -> bool:
            return broker._liveness.is_dead(member.session.id)

        try:
            await wait_until(is_dead, timeout_ms=5_000)
        finally:
            os.close(write_end)
            os.close(read_end)
            os.waitpid(pid, 0)  # noqa: ASYNC222 (it has ended)
