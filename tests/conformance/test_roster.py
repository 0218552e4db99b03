"""Workers show what they are at, and are told what to do."""

import asyncio

import pytest

from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.roster import MAX_STATUS_BYTES
from pspf.errors import NotFound
from tests.support.brokers import World, needs

pytestmark = needs("roster")

TTL_MS = 10_000


async def shown(broker: Broker) -> dict[str, bytes]:
    return {info.worker: info.status for info in await broker.roster.list_workers()}


async def test_nobody_is_shown_at_first(broker: Broker) -> None:
    assert await broker.roster.list_workers() == []
    assert await broker.roster.take_commands("a") == []
    await broker.roster.withdraw("a")


async def test_a_worker_is_shown_with_its_last_status_by_id(broker: Broker) -> None:
    await broker.roster.publish("b", b"2", ttl_ms=TTL_MS)
    await broker.roster.publish("a", b"1", ttl_ms=TTL_MS)
    await broker.roster.publish("b", b"\x00 \xff", ttl_ms=TTL_MS)
    assert [info.worker for info in await broker.roster.list_workers()] == ["a", "b"]
    assert await shown(broker) == {"a": b"1", "b": b"\x00 \xff"}


async def test_other_processes_see_it(world: World) -> None:
    await world.broker.roster.publish("a", b"1", ttl_ms=TTL_MS)
    assert await shown(await world.open_other()) == {"a": b"1"}


async def test_a_status_grows_old_and_is_gone_in_its_time(world: World) -> None:
    await world.broker.roster.publish("a", b"1", ttl_ms=TTL_MS)
    await world.pass_time(4_000)
    assert [info.age_ms for info in await world.broker.roster.list_workers()] == [4_000]
    await world.pass_time(6_000)
    assert await shown(world.broker) == {}


async def test_a_worker_that_publishes_in_time_stays(world: World) -> None:
    for status in (b"1", b"2", b"3"):
        await world.broker.roster.publish("a", status, ttl_ms=TTL_MS)
        await world.pass_time(8_000)
    assert await shown(world.broker) == {"a": b"3"}


async def test_a_worker_that_withdrew_is_shown_no_longer(broker: Broker) -> None:
    await broker.roster.publish("a", b"1", ttl_ms=TTL_MS)
    await broker.roster.send("a", b"stop")
    await broker.roster.withdraw("a")
    assert await shown(broker) == {}
    await broker.roster.publish("a", b"1", ttl_ms=TTL_MS)
    assert await broker.roster.take_commands("a") == []


async def test_commands_come_once_and_in_order_to_their_worker(world: World) -> None:
    broker, other = world.broker, await world.open_other()
    await broker.roster.publish("a", b"1", ttl_ms=TTL_MS)
    await broker.roster.publish("b", b"1", ttl_ms=TTL_MS)
    for command in (b"1", b"\xff\x00", b"3"):
        await other.roster.send("a", command)
    assert await broker.roster.take_commands("b") == []
    assert await broker.roster.take_commands("a") == [b"1", b"\xff\x00", b"3"]
    assert await broker.roster.take_commands("a") == []


async def test_a_worker_may_wait_for_its_next_command(world: World) -> None:
    broker, other = world.broker, await world.open_other()
    await broker.roster.publish("a", b"1", ttl_ms=TTL_MS)
    assert await broker.roster.take_commands("a", wait_ms=10) == []
    waiting = asyncio.create_task(broker.roster.take_commands("a", wait_ms=30_000))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await other.roster.send("a", b"stop")
    assert await waiting == [b"stop"]
    assert await broker.roster.take_commands("a") == []


async def test_a_command_for_nobody_is_refused(world: World) -> None:
    with pytest.raises(NotFound, match="no worker 'a'"):
        await world.broker.roster.send("a", b"stop")
    await world.broker.roster.publish("a", b"1", ttl_ms=TTL_MS)
    await world.pass_time(TTL_MS)
    with pytest.raises(NotFound):
        await world.broker.roster.send("a", b"stop")


async def test_a_status_may_be_large(broker: Broker) -> None:
    await broker.roster.publish("a", b"x" * MAX_STATUS_BYTES, ttl_ms=TTL_MS)
    assert len((await shown(broker))["a"]) == MAX_STATUS_BYTES
