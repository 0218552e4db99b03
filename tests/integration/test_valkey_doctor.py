"""What the doctor finds on a server when something about it is unsafe."""

from pathlib import Path

import pytest

from pspf.clock import ManualClock
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.limits import Limits
from pspf.connectors.contract.operations import Check, Status
from pspf.connectors.valkey.broker import ValkeyBroker
from pspf.connectors.valkey.connection.connector import ValkeyConnector
from pspf.connectors.valkey.connection.format import FORMAT
from pspf.connectors.valkey.operations.doctor import (
    IDLE_MS,
    Server,
    check_eviction,
    check_memory,
    check_persistence,
    check_replication,
    describe_persistence,
)
from tests.support import servers
from tests.support.workers import numbered, settle, share, take


async def look(broker: Broker, name: str) -> Check:
    """Return the check of one name."""
    (found,) = [check for check in await broker.operations.diagnose() if check.name == name]
    return found


@pytest.mark.parametrize(
    ("policy", "status"),
    [
        ("noeviction", Status.OK),
        ("volatile-lru", Status.WARN),
        ("allkeys-lru", Status.FAIL),
        ("allkeys-random", Status.FAIL),
    ],
)
def test_what_throws_data_away_is_told(policy: str, status: Status) -> None:
    check = check_eviction(Server({"maxmemory_policy": policy}, {}))
    assert (check.status, "noeviction" in check.remedy) == (status, status is not Status.OK)


@pytest.mark.parametrize(
    ("info", "settings", "says", "status"),
    [
        ({"aof_enabled": "1"}, {"appendfsync": "always"}, "nothing that was acknowledged is lost", Status.OK),
        ({"aof_enabled": "1"}, {"appendfsync": "everysec"}, "up to 2 s", Status.OK),
        ({"aof_enabled": "1"}, {"appendfsync": "no"}, "half a minute", Status.WARN),
        ({"aof_enabled": "1"}, {}, "append-only file", Status.OK),
        ({"aof_enabled": "0"}, {"save": "3600 1"}, "snapshots only", Status.WARN),
        ({"aof_enabled": "0"}, {"save": ""}, "all is lost", Status.WARN),
        ({"aof_enabled": "0"}, {}, "snapshots only", Status.WARN),
    ],
)
def test_what_a_power_cut_loses_is_told(
    info: dict[str, str], settings: dict[str, str], says: str, status: Status
) -> None:
    found, how = describe_persistence(Server(info, settings))
    assert says in found
    assert how is status
    assert bool(check_persistence(Server(info, settings)).remedy) == (status is not Status.OK)


def test_a_disk_that_takes_no_writes_is_told() -> None:
    for info in ({"aof_enabled": "1", "aof_last_write_status": "err"}, {"rdb_last_bgsave_status": "err"}):
        assert check_persistence(Server(info, {})).status is Status.FAIL


def test_memory_that_is_nearly_full_is_told() -> None:
    assert check_memory(Server({"used_memory": "95", "maxmemory": "100"}, {})).status is Status.WARN
    assert check_memory(Server({"used_memory": "50", "maxmemory": "100"}, {})).status is Status.OK
    assert check_memory(Server({"used_memory": "95", "maxmemory": "0"}, {})).status is Status.OK


def test_a_replica_is_told() -> None:
    assert check_replication(Server({"role": "slave"}, {})).status is Status.FAIL
    assert "failover" in check_replication(Server({"role": "master", "connected_slaves": "2"}, {})).found


@pytest.mark.parametrize("name", ["valkey", "redis"])
async def test_a_server_is_looked_at(name: str, tmp_path: Path) -> None:
    with servers.Server(servers.find(name), tmp_path, options=servers.AOF_ALWAYS) as server:
        async with ValkeyBroker(ValkeyConnector("127.0.0.1", server.port)) as broker:
            await broker.append("orders", numbered(3))
            checks = await broker.operations.diagnose()
            assert {check.status for check in checks} == {Status.OK}, checks
            info = await broker.operations.read_info()
            assert (info.kind, info.topics, info.records, info.format) == (name, 1, 3, FORMAT)
            assert "synced at each write" in info.persistence
            server.configure("maxmemory-policy", "allkeys-lru")
            assert (await look(broker, "eviction")).status is Status.FAIL


async def test_a_group_that_holds_records_back_for_14_days_is_named(tmp_path: Path) -> None:
    hall = servers.hall("valkey")
    clock = ManualClock()
    connector = ValkeyConnector("127.0.0.1", hall.server.port, hall.database_of(tmp_path))
    async with ValkeyBroker(connector, Limits(), clock) as broker:
        await broker.append("orders", numbered(3))
        member = await share(broker, group="gone")
        await member.consumer.commit(settle((await take(member.consumer))[:1]))
        await member.session.close()
        await broker.append("orders", numbered(2))
        assert (await look(broker, "groups")).status is Status.OK
        clock.advance(IDLE_MS + 1)
        check = await look(broker, "idle group")
        assert "gone on orders has done nothing for 14 days" in check.found
        assert "pspf groups delete gone --topic orders" in check.remedy
