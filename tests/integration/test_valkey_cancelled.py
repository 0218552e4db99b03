"""Appends that travel together, and what becomes of them when somebody cancels the task that sends them."""

import asyncio
from pathlib import Path

import pytest

from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.limits import Limits
from pspf.connectors.valkey.connection.failures import OutcomeUnknown
from pspf.errors import BackendUnavailable
from tests.support.brokers import KINDS, Kind
from tests.support.workers import GROUP, TOPIC, new

SERVERS = [kind for kind in KINDS if kind.name in ("valkey", "redis")]


@pytest.mark.parametrize("kind", SERVERS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("turns", [0, 1, 3])
async def test_appends_are_answered_though_somebody_cancels_all_other_tasks(
    kind: Kind, tmp_path: Path, turns: int
) -> None:
    mine = asyncio.all_tasks()
    async with kind.make(tmp_path, Limits(), None) as broker:
        await broker.append(TOPIC, [new("0")])
        appends = [asyncio.create_task(broker.append(TOPIC, [new(str(n))])) for n in range(1, 6)]
        for _ in range(1 + turns):  # cancelled before it has begun, and while it waits
            await asyncio.sleep(0)
        (sender,) = [task for task in asyncio.all_tasks() - mine - {*appends} if task.get_name() == "pspf appends"]
        sender.cancel()
        async with asyncio.timeout(10):
            outcomes = await asyncio.gather(*appends, return_exceptions=True)
        assert {type(each) for each in outcomes} <= {BackendUnavailable, OutcomeUnknown, list}
        assert any(isinstance(each, BackendUnavailable) for each in outcomes)
        async with asyncio.timeout(10):  # and the next ones are sent
            await asyncio.gather(*[broker.append(TOPIC, [new(str(n))]) for n in range(6, 12)])


async def ask(broker: Broker) -> None:
    """Connect, and ask something by a connection of each kind that a worker's start opens."""
    await broker.connect()
    await broker.list_cursors()
    await (await broker.open_session()).register(TOPIC, GROUP, None)


@pytest.mark.parametrize("kind", SERVERS, ids=lambda kind: kind.name)
async def test_a_cancellation_is_not_lost_in_any_step_of_connecting(kind: Kind, tmp_path: Path) -> None:
    """`asyncio.wait_for` of Python 3.11 loses one that comes as what it waits for is done; a time-out with it."""
    steps, is_done = 0, False
    while not is_done:
        broker = kind.make(tmp_path, Limits(), None)
        asking = asyncio.create_task(ask(broker))
        for _ in range(steps):
            await asyncio.sleep(0)
        is_done = asking.done()
        asking.cancel()
        await asyncio.wait([asking])
        assert asking.cancelled() or is_done, f"cancelled in step {steps}, it went on"
        await broker.close()
        steps += 1
    assert steps > 20
