"""The broker's file when something is wrong with it: full disk, foreign locks, other programs, damage."""

import asyncio
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from pspf.connectors.contract.limits import Limits
from pspf.connectors.sqlite import SQLiteBroker
from pspf.connectors.sqlite.formats import FORMAT
from pspf.errors import BackendCorrupt, BackendUnavailable, DiskFull
from pspf.records import NewRecord
from tests.support.old_formats import make_older
from tests.support.waiting import wait_until


def records(count: int, size_bytes: int = 10) -> list[NewRecord]:
    return [NewRecord(None, b"x" * size_bytes) for _ in range(count)]


async def test_a_file_of_a_newer_format_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    async with SQLiteBroker(path) as broker:
        await broker.append("orders", records(1))
    connection = apsw.Connection(str(path))
    connection.execute("UPDATE meta SET value = ? WHERE name = 'format'", (FORMAT + 1,)).fetchall()
    connection.close()
    with pytest.raises(BackendCorrupt, match=f"format {FORMAT + 1}.*newer PSPF"):
        await SQLiteBroker(path).connect()


async def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE notes (text)").fetchall()
    connection.close()
    with pytest.raises(BackendCorrupt, match="another program"):
        await SQLiteBroker(path).connect()


async def test_a_file_that_is_no_database_is_refused_and_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    path.write_bytes(b"no database at all " * 400)
    with pytest.raises(BackendCorrupt, match="damaged or no database"):
        await SQLiteBroker(path).connect()
    assert path.read_bytes().startswith(b"no database at all")


async def test_a_folder_that_can_not_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BackendUnavailable, match="broker"):
        await SQLiteBroker(tmp_path / "file" / "broker.db").connect()


@pytest.mark.parametrize("what", ["deleted", "replaced"])
async def test_a_file_that_is_taken_away_under_its_users_stops_them(tmp_path: Path, what: str) -> None:
    path = tmp_path / "broker.db"
    broker = SQLiteBroker(path)
    await broker.connect()
    await broker.append("orders", records(1))
    if what == "deleted":
        path.unlink()
    else:
        other = tmp_path / "other.db"
        other.write_bytes(path.read_bytes())
        os.replace(other, path)

    async def is_noticed() -> bool:
        try:
            await broker.append("orders", records(1))
        except BackendCorrupt as error:
            return what in str(error)
        return False

    await wait_until(is_noticed, timeout_ms=5_000)
    await broker.close()


async def test_a_full_disk_refuses_an_append_and_takes_it_again_after(tmp_path: Path) -> None:
    broker = SQLiteBroker(tmp_path / "broker.db")
    async with broker:
        await broker.append("orders", records(1))
        engine = broker._engine
        pages = await engine.read(lambda storage: storage.rows("PRAGMA page_count")[0][0])
        await engine.read(lambda storage: storage.rows(f"PRAGMA max_page_count = {pages + 10}"))
        with pytest.raises(DiskFull):
            await broker.append("orders", records(100, size_bytes=10_000))
        assert len(await broker.read("orders", 0, offset=0, max_records=500)) == 1
        await engine.read(lambda storage: storage.rows("PRAGMA max_page_count = 100000"))
        await broker.append("orders", records(100, size_bytes=10_000))
        assert len(await broker.read("orders", 0, offset=0, max_records=500)) == 101


async def test_a_foreign_lock_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    async with SQLiteBroker(path) as broker:
        await broker.append("orders", records(1))
        foreign = apsw.Connection(str(path))
        foreign.execute("BEGIN IMMEDIATE").fetchall()
        emit = asyncio.create_task(broker.append("orders", records(1)))
        done, _ = await asyncio.wait([emit], timeout=0.3)
        assert not done
        foreign.execute("ROLLBACK").fetchall()
        foreign.close()
        assert (await emit)[0].offset == 2


STARTER = """
import asyncio, sys
from pathlib import Path
from pspf.connectors.sqlite import SQLiteBroker
from pspf.records import NewRecord

async def main():
    async with SQLiteBroker(Path(sys.argv[1])) as broker:
        session = await broker.open_session()
        await session.register("orders", "billing", None)
        await broker.append("orders", [NewRecord(None, b"{}")] * 10)
        await session.close()

asyncio.run(main())
"""


def test_eight_processes_may_start_at_once_on_a_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    starters = [subprocess.Popen([sys.executable, "-c", STARTER, str(path)]) for _ in range(8)]
    assert [starter.wait(timeout=60) for starter in starters] == [0] * 8
    connection = apsw.Connection(str(path))
    assert connection.execute("SELECT next_offset FROM partitions").fetchall() == [(81,)]
    assert connection.execute("SELECT count(*) FROM records").fetchall() == [(80,)]
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


async def test_a_long_reader_does_not_let_the_log_grow_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    async with SQLiteBroker(path, Limits(synchronous="NORMAL")) as broker:
        await broker.append("orders", records(1))
        reader = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM records").fetchone()
        for _ in range(30):
            await broker.append("orders", records(100, size_bytes=10_000))
        reader.close()
        for _ in range(30):
            await broker.append("orders", records(100, size_bytes=10_000))
        wal_bytes = await asyncio.to_thread(os.path.getsize, f"{path}-wal")
    assert wal_bytes < 80 << 20


@pytest.mark.parametrize("version", range(1, FORMAT))
async def test_a_file_of_an_older_format_is_brought_up_to_date_with_what_it_holds(tmp_path: Path, version: int) -> None:
    path = tmp_path / "broker.db"
    async with SQLiteBroker(path) as broker:
        await broker.append("orders", records(2))
    make_older(path, version)
    async with SQLiteBroker(path) as broker:
        assert len(await broker.read("orders", 0, offset=0, max_records=10)) == 2
        await broker.list_cursors()
    connection = apsw.Connection(str(path))
    assert connection.execute("SELECT value FROM meta WHERE name = 'format'").fetchall() == [(FORMAT,)]
    known = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    assert {"entries", "operators", "entry_log", "replayed"} <= known
    assert not {"state", "windows", "window_log"} & known
    connection.close()


async def test_a_broker_that_is_opened_again_while_it_closes_is_open(tmp_path: Path) -> None:
    broker = SQLiteBroker(tmp_path / "broker.db")
    await broker.connect()
    for _ in range(20):
        closing = asyncio.create_task(broker.close())
        await asyncio.sleep(0)
        await broker.connect()
        await closing
        await broker.ping()
    await broker.close()
