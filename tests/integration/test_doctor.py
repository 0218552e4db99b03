"""What the doctor finds on the embedded broker when something is wrong."""

import asyncio
from pathlib import Path

import apsw
import pytest

from pspf.clock import ManualClock
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.limits import Limits
from pspf.connectors.contract.operations import Check, Status
from pspf.connectors.sqlite.broker import SQLiteBroker
from pspf.connectors.sqlite.doctor import IDLE_MS, check_filesystem, find_openers
from pspf.connectors.sqlite.filesystem import FileSystem, warn_of_network
from tests.support.workers import numbered, settle, share, take

LIMITS = Limits(synchronous="NORMAL")


async def look(broker: Broker, name: str) -> Check:
    """Return the check of one name."""
    found = [check for check in await broker.operations.diagnose() if check.name == name]
    assert len(found) == 1, name
    return found[0]


async def test_a_group_that_holds_records_back_for_14_days_is_named(tmp_path: Path) -> None:
    clock = ManualClock()
    async with SQLiteBroker(tmp_path / "b.db", LIMITS, clock) as broker:
        await broker.append("orders", numbered(3))
        member = await share(broker, group="gone")
        await member.consumer.commit(settle((await take(member.consumer))[:1]))
        await member.session.close()
        await broker.append("orders", numbered(2))
        assert (await look(broker, "groups")).status is Status.OK
        clock.advance(IDLE_MS + 1)
        check = await look(broker, "idle group")
        assert check.status is Status.WARN
        assert "gone on orders has done nothing for 14 days" in check.found
        assert "pspf groups delete gone --topic orders" in check.remedy


async def test_a_group_with_nothing_to_do_is_not_idle(tmp_path: Path) -> None:
    clock = ManualClock()
    async with SQLiteBroker(tmp_path / "b.db", LIMITS, clock) as broker:
        await broker.append("orders", numbered(1))
        member = await share(broker)
        await member.consumer.commit(settle(await take(member.consumer)))
        await member.session.close()
        clock.advance(IDLE_MS * 2)
        assert (await look(broker, "groups")).status is Status.OK


async def test_a_clock_that_was_set_back_is_told(tmp_path: Path) -> None:
    clock = ManualClock()
    async with SQLiteBroker(tmp_path / "b.db", LIMITS, clock) as broker:
        await broker.append("orders", numbered(1))
        member = await share(broker)
        await member.consumer.commit(settle(await take(member.consumer)))
        await member.session.close()
    async with SQLiteBroker(tmp_path / "b.db", LIMITS, ManualClock(clock.now_ms() - 3_600_000)) as broker:
        check = await look(broker, "clock")
        assert (check.status, "3,600 s" in check.found) == (Status.WARN, True)


async def test_a_worker_that_hangs_is_named(tmp_path: Path) -> None:
    clock = ManualClock()
    async with SQLiteBroker(tmp_path / "b.db", LIMITS, clock) as worker:
        await share(worker)
        late = ManualClock(clock.now_ms() + LIMITS.lease_ms + 1)
        async with SQLiteBroker(tmp_path / "b.db", LIMITS, late) as broker:
            check = await look(broker, "workers")
    assert check.status is Status.WARN
    assert "silent" in check.found


async def test_damage_is_found(tmp_path: Path) -> None:
    path = tmp_path / "b.db"
    async with SQLiteBroker(path, LIMITS) as broker:
        await broker.append("orders", numbered(20_000))
        assert (await look(broker, "integrity")).status is Status.OK
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.close()
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 4_096] = b"\xff" * 4_096
    path.write_bytes(content)
    async with SQLiteBroker(path, LIMITS) as broker:
        check = await look(broker, "integrity")
    assert check.status is Status.FAIL
    assert ".recover" in check.remedy


async def test_what_keeps_the_file_open_is_found(tmp_path: Path) -> None:
    path = tmp_path / "b.db"
    path.write_bytes(b"")
    with path.open("rb") as opened:
        process = await asyncio.create_subprocess_exec("sleep", "60", stdin=opened)
    try:
        assert find_openers(path) == [process.pid]
    finally:
        process.kill()
        await process.wait()


def test_a_file_on_a_network_is_warned_about_at_the_start(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_network("sqlite:///b.db", FileSystem("ext4", "/"))
    assert caplog.text == ""
    warn_of_network("sqlite:///b.db", FileSystem("nfs4", "/mnt"))
    assert "sqlite:///b.db is on nfs4" in caplog.text


@pytest.mark.parametrize(
    ("kind", "status"),
    [("ext4", Status.OK), ("nfs4", Status.FAIL), ("cifs", Status.FAIL), ("tmpfs", Status.WARN), ("9p", Status.WARN)],
)
def test_a_file_system_is_judged_by_its_kind(kind: str, status: Status) -> None:
    check = check_filesystem(FileSystem(kind, "/mnt"))
    assert (check.status, bool(check.remedy)) == (status, status is not Status.OK)
