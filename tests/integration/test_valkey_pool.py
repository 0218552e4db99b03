"""The connection pool: one lane for a purpose and a server, and each command by the lane of its key."""

import asyncio
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pspf.connectors.contract.limits import Limits
from pspf.connectors.valkey.broker import ValkeyBroker
from pspf.connectors.valkey.connection.connector import ValkeyConnector
from pspf.connectors.valkey.connection.pool import ConnectionPool
from pspf.connectors.valkey.connection.scripts import ScriptCall, load_script
from pspf.records import Cursor
from tests.support.servers import hall
from tests.support.workers import GROUP, HANDLER, TOPIC, numbered, read_all, settle, share, take_batch, values

PARTITIONS = 8
_SURVEY = load_script("survey")


def connector_of(name: str, folder: Path) -> ValkeyConnector:
    shared = hall(name)
    return ValkeyConnector(host="127.0.0.1", port=shared.server.port, db=shared.database_of(folder))


def tag_of(key: bytes) -> bytes:
    """Return what a Cluster would hash: what stands between the braces, or all."""
    _, brace, rest = key.partition(b"{")
    tag, end, _ = rest.partition(b"}")
    return tag if brace and end and tag else key


@pytest.fixture
def servers(tmp_path: Path) -> list[ValkeyConnector]:
    return [connector_of("valkey", tmp_path), connector_of("redis", tmp_path)]


@pytest.fixture
def halves(servers: list[ValkeyConnector], monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the slots are on the one server, half on the other, as on a Cluster of two."""

    def server_of(self: ConnectionPool, key: bytes) -> ValkeyConnector:
        return servers[zlib.crc32(tag_of(key)) % 2]

    monkeypatch.setattr(ConnectionPool, "server_of", server_of)


@pytest.fixture
async def broker(servers: list[ValkeyConnector], halves: None) -> AsyncIterator[ValkeyBroker]:
    async with ValkeyBroker(servers[0]) as broker:
        yield broker


async def read_client_names(connector: ValkeyConnector) -> list[str]:
    """Return the purposes of the connections to a server's database that a pool has opened."""
    asking = ConnectionPool(connector)
    listed = await asking.lane_for(b"any", "asks").call("CLIENT", "LIST")
    await asking.close()
    lines = [dict(part.partition("=")[::2] for part in line.split()) for line in listed.decode().splitlines()]
    return sorted(line["name"] for line in lines if line["db"] == str(connector.db) and "asks" not in line["name"])


async def test_one_server_has_one_lane_for_a_purpose_whatever_the_key(servers: list[ValkeyConnector]) -> None:
    pool = ConnectionPool(servers[0])
    assert pool.lane_for(b"one", "commits") is pool.lane_for(b"two", "commits")
    assert pool.lane_for(b"one", "commits") is not pool.lane_for(b"one", "commands")
    own = pool.open_lanes("commits")
    assert own.lane_for(b"one") is own.lane_for(b"two")
    assert own.lane_for(b"one") is not pool.lane_for(b"one", "commits")
    for key in (b"one", b"two", b"three"):
        await pool.lane_for(key, "commits").call("GET", key)
        await own.lane_for(key).call("GET", key)
    assert len(await read_client_names(servers[0])) == 2
    await pool.close()
    assert await read_client_names(servers[0]) == []


@pytest.mark.usefixtures("halves")
async def test_replies_of_several_servers_come_in_the_order_of_what_was_asked(servers: list[ValkeyConnector]) -> None:
    pool = ConnectionPool(servers[0])
    lanes, keys = pool.lanes("commands"), [b"key-%d" % n for n in range(20)]
    assert len({lanes.lane_for(key) for key in keys}) == 2
    await lanes.call_many([("SET", key, n) for n, key in enumerate(keys)])
    assert await lanes.call_many([("GET", key) for key in keys]) == [b"%d" % n for n in range(20)]
    sizes = await lanes.call_many([("MEMORY", "USAGE", key) for key in keys])
    assert all(size > 0 for size in sizes)
    for n, key in enumerate(keys):
        await lanes.lane_for(b"s" + key).call("XADD", b"s" + key, f"{n + 1}-0", "a", "b")
    surveys = await lanes.run_many([ScriptCall(_SURVEY, (b"s" + key,), ()) for key in keys])
    assert [survey[2] for survey in surveys] == [b"%d-0" % (n + 1) for n in range(20)]
    await pool.close()


async def test_commands_with_one_key_each_reach_the_server_of_their_partition(broker: ValkeyBroker) -> None:
    """What a Cluster needs before all else: no script or command of one partition goes by another one's connection."""
    await broker.create_topic(TOPIC, partitions=PARTITIONS)
    placed = await broker.append(TOPIC, numbered(64))
    assert {place.partition for place in placed} == set(range(PARTITIONS))
    assert [place.id for place in placed] == [place.id for place in sorted(placed, key=placed.index)]
    found = [values(await read_all(broker, TOPIC, number)) for number in range(PARTITIONS)]
    assert sorted((value for some in found for value in some), key=int) == [str(n) for n in range(64)]
    info, partitions = await broker.read_topic(TOPIC)
    assert (info.records, [each.records for each in partitions]) == (64, [8] * PARTITIONS)


async def test_both_modes_poll_and_commit_by_the_lanes_of_their_partition(broker: ValkeyBroker) -> None:
    await broker.create_topic(TOPIC, partitions=PARTITIONS)
    await broker.append(TOPIC, numbered(64))
    session = await broker.open_session()
    await session.register(TOPIC, GROUP, HANDLER)
    assert await session.read_members(TOPIC, GROUP, HANDLER) == [session.id]  # type: ignore[attr-defined]
    assert await session.read_free(TOPIC, GROUP, HANDLER) == list(range(PARTITIONS))  # type: ignore[attr-defined]
    for number in range(PARTITIONS):
        consumer = await session.acquire(Cursor(TOPIC, GROUP, HANDLER, number))  # type: ignore[attr-defined]
        batch = await take_batch(consumer)
        await consumer.commit(settle(batch.records, position=batch.end, state={(b"k", "n"): b"%d" % number}))
        member = await share(broker, partition=number)
        batch = await take_batch(member.consumer)
        await member.consumer.commit(settle(batch.records))
    assert [info.lag for info in await broker.list_cursors()] == [0] * 2 * PARTITIONS
    assert sorted(entry.value for entry in await broker.list_state()) == [b"%d" % n for n in range(PARTITIONS)]
    assert await session.read_free(TOPIC, GROUP, HANDLER) == []  # type: ignore[attr-defined]
    await session.close()
    assert [info.owner for info in await broker.list_cursors()] == [None] * 2 * PARTITIONS


async def test_leases_are_renewed_on_the_server_of_each_partition(
    servers: list[ValkeyConnector], halves: None, caplog: pytest.LogCaptureFixture
) -> None:
    limits = Limits(lease_ms=500, renew_ms=100)
    async with ValkeyBroker(servers[0], limits) as broker:
        await broker.create_topic(TOPIC, partitions=PARTITIONS)
        session = await broker.open_session()
        await session.register(TOPIC, GROUP, HANDLER)
        for number in range(PARTITIONS):
            assert await session.acquire(Cursor(TOPIC, GROUP, HANDLER, number))  # type: ignore[attr-defined]
        await asyncio.sleep(3 * limits.lease_ms / 1000)
        assert {info.owner for info in await broker.list_cursors()} == {session.id}
        assert session.lease_left_ms is not None
        assert 0 < session.lease_left_ms <= limits.lease_ms
        await session.close()
    assert [record.getMessage() for record in caplog.records if "lease" in record.getMessage()] == []


async def test_a_poll_that_waits_is_called_back_by_the_lane_of_its_partition(broker: ValkeyBroker) -> None:
    await broker.create_topic(TOPIC, partitions=PARTITIONS)
    members = [await share(broker, partition=number) for number in range(PARTITIONS)]
    polls = [asyncio.create_task(each.consumer.poll(max_records=10, timeout_ms=20_000)) for each in members]
    await asyncio.sleep(0.2)
    async with asyncio.timeout(8):
        for member in members:
            await member.session.close()
        assert [list((await poll).records) for poll in polls] == [[]] * PARTITIONS
