"""What lies beside the embedded broker's file when several users of one machine share it."""

import asyncio
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pspf.cli.exit_codes import ExitCode, code_of
from pspf.connectors.sqlite import SQLiteBroker
from pspf.errors import BackendUnavailable
from pspf.records import NewRecord
from tests.support.waiting import wait_until
from tests.support.workers import TOPIC, share

NOBODY = 65534


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder whose name is short: the path of a socket below it has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="pspf-") as made:
        yield Path(made)


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")


async def make_file(path: Path, mode: int) -> None:
    """Make a broker's file as an emit does, which opens no session."""
    async with SQLiteBroker(path) as broker:
        await broker.append(TOPIC, [NewRecord(None, b"{}")])
    os.chmod(path, mode)


def find_files(path: Path) -> list[Path]:
    """Return the database and what SQLite and the lock have beside it."""
    return [each for each in path.parent.glob(f"{path.name}*") if each.is_file()]


def sockets(path: Path) -> list[Path]:
    """Return who listens for what is appended."""
    return list(Path(f"{path}-wake").glob("*"))


async def work(path: Path) -> list[os.stat_result]:
    """Join as a worker does; return what the directories beside the file, and the socket in one of them, are like."""
    async with SQLiteBroker(path) as broker:
        member = await share(broker)
        await member.consumer.poll(max_records=10, timeout_ms=0)
        waiting = asyncio.create_task(member.consumer.poll(max_records=10, timeout_ms=60_000))

        async def listens() -> bool:
            return bool(sockets(path))

        await wait_until(listens)
        found = [os.stat(each) for each in (f"{path}-sessions", f"{path}-wake", *map(str, sockets(path)))]
        waiting.cancel()
        await asyncio.wait([waiting])
        await member.session.close()
    return found


@pytest.mark.parametrize(("file", "directory"), [(0o660, 0o770), (0o600, 0o700), (0o644, 0o755)])
async def test_what_lies_beside_the_file_is_open_to_those_whom_the_file_is_open_to(
    tmp_path: Path, file: int, directory: int
) -> None:
    path = tmp_path / "b.db"
    await make_file(path, file)
    sessions, wake, socket = await work(path)
    assert [stat.S_IMODE(each.st_mode) for each in (sessions, wake, socket)] == [directory, directory, file]


@as_root
async def test_what_root_makes_beside_a_file_of_another_user_is_that_user_s(tmp_path: Path) -> None:
    path = tmp_path / "b.db"
    await make_file(path, 0o644)
    os.chown(path, NOBODY, NOBODY)
    assert [(each.st_uid, each.st_gid) for each in await work(path)] == [(NOBODY, NOBODY)] * 3


@as_root
async def test_a_session_that_may_not_be_shown_names_the_directory_and_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "b.db"
    await make_file(path, 0o644)
    sessions = f"{path}-sessions"
    os.mkdir(sessions, mode=0o755)
    for each in (tmp_path, *find_files(path)):
        os.chown(each, NOBODY, NOBODY)
    broker = SQLiteBroker(path)
    await broker.connect()
    os.seteuid(NOBODY)
    try:
        with pytest.raises(BackendUnavailable, match=f"Permission denied\n  give {sessions} to the user that b.db"):
            await broker.open_session()
    finally:
        os.seteuid(0)
        await broker.close()


@as_root
@pytest.mark.parametrize("named", ["b.db", ""], ids=["the file", "its directory"])
async def test_a_file_of_another_user_is_not_permitted_and_says_whose_it_is(named: str) -> None:
    with tempfile.TemporaryDirectory() as made:
        path = Path(made, "b.db")
        os.chmod(made, 0o755)  # noqa: S103  (others are to get as far as the file)
        await make_file(path, 0o644)
        if not named:
            os.chown(path, NOBODY, NOBODY)
        os.seteuid(NOBODY)
        try:
            with pytest.raises(BackendUnavailable, match=f"{Path(made, named)} is of user root, with mode") as refused:
                await SQLiteBroker(path).connect()
        finally:
            os.seteuid(0)
    assert code_of(refused.value) is ExitCode.NOT_PERMITTED
