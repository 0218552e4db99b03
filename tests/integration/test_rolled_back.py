"""The embedded broker where a transaction fails at its commit: what a process remembers is what was committed."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pspf import faults
from pspf.connectors.contract.broker import Broker
from pspf.connectors.memory import MemoryBroker
from pspf.connectors.sqlite import SQLiteBroker
from pspf.errors import PSPFError
from pspf.records import Cursor
from tests.support.windows import with_windows
from tests.support.workers import GROUP, TOPIC, Member, numbered, offsets, own, read_lag, retry, settle, share, take

CURSOR = Cursor(TOPIC, GROUP, None, 0)


@pytest.fixture(params=["memory", "sqlite"])
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Broker]:
    chosen = MemoryBroker() if request.param == "memory" else SQLiteBroker(tmp_path / "broker.db")
    async with chosen:
        await chosen.append(TOPIC, numbered(20))
        yield chosen
    faults.arm(None)


BEFORE = "commit.sent:1:raise"
"""The transaction is rolled back."""
AFTER = "commit.reply:1:raise"
"""It is committed, and its caller does not learn of it."""


async def take_in_vain(member: Member, fault: str) -> None:
    faults.arm(fault)
    with pytest.raises(PSPFError):
        await take(member.consumer, 10)


@pytest.mark.parametrize("fault", [BEFORE, AFTER])
async def test_what_was_claimed_in_vain_is_claimed_again_and_done(broker: Broker, fault: str) -> None:
    member = await share(broker)
    first = await take(member.consumer, 10)
    await take_in_vain(member, fault)
    assert await member.consumer.commit(settle(first[:-1], retries=[retry(first[-1], due_ms=1)])) == []
    rest = await take(member.consumer, 50)
    assert sorted(offsets(rest)) == list(range(10, 21))
    assert await member.consumer.commit(settle(rest)) == []
    assert await read_lag(broker, CURSOR) == 0


@pytest.mark.parametrize("fault", [BEFORE, AFTER])
async def test_what_was_claimed_in_vain_is_given_back_with_the_rest(broker: Broker, fault: str) -> None:
    member = await share(broker)
    await take(member.consumer, 10)
    await take_in_vain(member, fault)
    await member.consumer.release()
    other = await share(broker)
    assert offsets(await take(other.consumer, 50)) == list(range(1, 21))


async def test_a_commit_that_was_rolled_back_settles_nothing(broker: Broker) -> None:
    member = await share(broker)
    records = await take(member.consumer, 10)
    commit = settle(records)
    faults.arm(BEFORE)
    with pytest.raises(PSPFError):
        await member.consumer.commit(commit)
    assert await read_lag(broker, CURSOR) == 20
    assert await member.consumer.commit(commit) == []
    assert await read_lag(broker, CURSOR) == 10


@pytest.mark.parametrize("fault", [BEFORE, AFTER])
async def test_windows_are_read_as_they_were_committed(broker: Broker, fault: str) -> None:
    member = await own(broker)
    await _write_window(member, 1, b"one")
    faults.arm(fault)
    with pytest.raises(PSPFError):
        await _write_window(member, 2, b"two")
    expected = b"one" if fault == BEFORE else b"two"
    assert await member.consumer.read_entries([(0, b"k")]) == {(0, b"k"): expected}


async def _write_window(member: Member, position: int, state: bytes) -> None:
    await member.consumer.commit(with_windows(settle(position=position), None, b"progress", (), {0: {b"k": state}}))


async def test_a_roster_that_was_not_made_is_made_by_the_next(tmp_path: Path) -> None:
    async with SQLiteBroker(tmp_path / "broker.db") as broker:
        gate = threading.Event()
        held = asyncio.create_task(broker._engine.read(lambda storage: gate.wait()))
        shown = [asyncio.create_task(broker.roster.publish(name, b"{}", ttl_ms=60_000)) for name in ("one", "two")]
        await asyncio.sleep(0)  # until both wait behind the read: they share a transaction
        faults.arm(BEFORE)
        gate.set()
        outcomes = await asyncio.gather(held, *shown, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes[1:]] == [faults.InjectedFault] * 2
        await broker.roster.publish("three", b"{}", ttl_ms=60_000)
        assert [worker.worker for worker in await broker.roster.list_workers()] == ["three"]
    faults.arm(None)
