"""The broker's file when it is taken away, replaced or updated under its users; and files of other programs."""

import asyncio
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from pspf.admin.broker import BrokerDesk
from pspf.admin.http_error import HttpError
from pspf.connectors.sqlite import SQLiteBroker
from pspf.connectors.sqlite.formats import FORMAT
from pspf.connectors.sqlite.storage import LOOK_EVERY_S
from pspf.errors import BackendCorrupt, BackendGone
from pspf.records import NewRecord
from tests.support.old_formats import make_older
from tests.support.waiting import wait_until

ONE = [NewRecord(None, b"{}")]


def replace_by_a_copy(path: Path) -> None:
    copy = path.with_name("copy.db")
    copy.write_bytes(path.read_bytes())
    os.replace(copy, path)


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda path: path.unlink(), "deleted or moved"),
        (lambda path: Path(f"{path}-wal").unlink(), "b.db-wal was deleted"),
        (replace_by_a_copy, "replaced"),
        (lambda path: path.parent.rename(path.parent.with_name("moved")), "deleted or moved"),
    ],
    ids=["deleted", "log deleted", "replaced", "folder moved"],
)
async def test_an_emit_into_a_file_that_was_taken_away_is_refused_and_makes_no_other(
    tmp_path: Path, act: Callable[[Path], None], said: str
) -> None:
    path = tmp_path / "broker" / "b.db"
    broker = SQLiteBroker(path)
    await broker.connect()
    await broker.append("orders", ONE)
    was_there = path.stat().st_ino
    act(path)
    await asyncio.sleep(LOOK_EVERY_S)
    for _ in range(2):
        with pytest.raises(BackendGone, match=said):
            await broker.append("orders", ONE)
    assert not path.exists() or path.stat().st_ino == was_there or said == "replaced"
    await broker.close()


async def test_no_emit_is_acknowledged_that_begins_later_than_the_next_look_after_its_file_went(tmp_path: Path) -> None:
    path = tmp_path / "b.db"
    broker = SQLiteBroker(path)
    await broker.connect()
    for _ in range(100):
        await broker.append("orders", ONE)
    path.unlink()
    gone_s = time.monotonic()
    acknowledged: list[float] = []

    async def emit() -> None:
        while True:
            began_s = time.monotonic()
            await broker.append("orders", ONE)
            acknowledged.append(began_s - gone_s)

    with pytest.raises(BackendGone, match="deleted or moved"):
        await emit()
    assert max(acknowledged, default=0) <= LOOK_EVERY_S
    await broker.close()


async def test_a_reader_of_a_file_that_was_taken_away_is_told_soon(tmp_path: Path) -> None:
    path = tmp_path / "b.db"
    broker = SQLiteBroker(path)
    await broker.connect()
    path.unlink()

    async def is_told() -> bool:
        try:
            await broker.list_topics()
        except BackendGone:
            return True
        return False

    await wait_until(is_told, timeout_ms=5_000)
    await broker.close()


@pytest.mark.parametrize("reads_between", [False, True], ids=["", "after a read"])
async def test_a_commit_after_another_version_updated_the_file_is_refused(tmp_path: Path, reads_between: bool) -> None:
    path = tmp_path / "b.db"
    async with SQLiteBroker(path) as broker:
        await broker.append("orders", ONE)
        newer = apsw.Connection(str(path))
        newer.execute("UPDATE meta SET value = ? WHERE name = 'format'", (FORMAT + 1,)).fetchall()
        if reads_between:
            await broker.list_topics()
        with pytest.raises(BackendGone, match=f"format {FORMAT + 1} by now, this version writes {FORMAT}"):
            await broker.append("orders", ONE)
        assert newer.execute("SELECT count(*) FROM records").fetchall() == [(1,)]
        newer.close()


KILLED = """
import os, signal, sys
from pathlib import Path
from pspf.connectors.contract.limits import Limits
from pspf.connectors.sqlite import formats
from pspf.connectors.sqlite.storage import Storage

update = formats._update

def update_and_end(connection, version):
    update(connection, version)
    os.kill(os.getpid(), signal.SIGKILL)

formats._update = update_and_end
Storage(Path(sys.argv[1]), Limits()).open()
"""


async def test_an_update_of_the_format_that_was_killed_is_done_again(tmp_path: Path) -> None:
    path = tmp_path / "b.db"
    async with SQLiteBroker(path) as broker:
        await broker.append("orders", ONE)
    make_older(path, 2)
    connection = apsw.Connection(str(path))
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, str(path))
    assert await process.wait() == -signal.SIGKILL
    assert connection.execute("SELECT value FROM meta WHERE name = 'format'").fetchall() == [(2,)]
    assert connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'entry_log'").fetchall() == []
    connection.close()
    async with SQLiteBroker(path) as broker:
        await broker.append("orders", ONE)
        assert len(await broker.read("orders", 0, offset=0, max_records=9)) == 2


@pytest.mark.parametrize("mode", ["delete", "wal"])
async def test_a_refused_database_of_another_program_is_not_changed(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "notes.db"
    other = sqlite3.connect(path)
    other.execute(f"PRAGMA journal_mode={mode}")
    other.execute("CREATE TABLE meta (name, value)")
    other.commit()
    other.close()
    before = path.read_bytes()
    with pytest.raises(BackendCorrupt, match="another program"):
        await SQLiteBroker(path).connect()
    assert path.read_bytes() == before
    beside = {name for name in os.listdir(tmp_path) if not name.endswith(("-wal", "-shm"))}
    assert beside == {"notes.db"}


@pytest.mark.parametrize("act", [lambda path: path.unlink(), replace_by_a_copy], ids=["deleted", "replaced"])
async def test_a_broker_that_was_closed_is_not_opened_again_on_another_file(
    tmp_path: Path, act: Callable[[Path], None]
) -> None:
    path = tmp_path / "b.db"
    broker = SQLiteBroker(path)
    await broker.connect()
    identity = broker.identity
    await broker.close()
    act(path)
    before = path.read_bytes() if path.exists() else None
    other = SQLiteBroker(path)
    other.expect(identity)
    for each in (broker, other):
        with pytest.raises(BackendGone, match="while in use"):
            await each.connect()
    assert (path.read_bytes() if path.exists() else None) == before


async def test_what_is_expected_of_one_file_is_not_asked_of_another(tmp_path: Path) -> None:
    async with SQLiteBroker(tmp_path / "one.db") as one:
        other = SQLiteBroker(tmp_path / "other.db")
        other.expect(one.identity)
        async with other:
            await other.append("orders", ONE)


async def test_the_admin_of_a_worker_makes_no_broker(tmp_path: Path) -> None:
    path = tmp_path / "b.db"
    desk = BrokerDesk(f"sqlite:///{path}", "b.db")
    with pytest.raises(HttpError, match="no such file"):
        async with desk.ask():
            pass
    assert os.listdir(tmp_path) == []
