"""The writers' lock of the embedded broker when a process keeps it: whoever waits is told by whom, and goes on."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

from pspf.connectors.contract.limits import Limits
from pspf.connectors.sqlite import SQLiteBroker
from pspf.errors import BackendUnavailable, ConfigurationError
from pspf.records import NewRecord

STOPPED = """
import asyncio, sys
from pathlib import Path
from pspf import faults
from pspf.connectors.sqlite import SQLiteBroker
from pspf.records import NewRecord

async def main():
    async with SQLiteBroker(Path(sys.argv[1])) as broker:
        await broker.append("orders", [NewRecord(None, b"{}")])
        faults.arm("commit.sent:1:stop")
        await broker.append("orders", [NewRecord(None, b"{}")])

asyncio.run(main())
"""


def records(count: int, size_bytes: int = 10) -> list[NewRecord]:
    return [NewRecord(None, b"x" * size_bytes) for _ in range(count)]


@contextmanager
def stopped_in_a_commit(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that is stopped inside its second append; kill it at the end."""
    process = subprocess.Popen([sys.executable, "-c", STOPPED, str(path)])
    try:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        yield process
    finally:
        process.kill()
        process.wait()


async def test_an_emit_behind_a_stopped_process_ends_in_time_and_names_it(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    async with SQLiteBroker(path, Limits(emit_timeout_ms=700)) as broker:
        with stopped_in_a_commit(path) as process:
            begun = time.monotonic()
            with pytest.raises(BackendUnavailable, match=rf"pid {process.pid} \(.*\), which is stopped since .*s\)"):
                await broker.append("orders", records(1))
            assert time.monotonic() - begun < 2


async def test_reads_go_on_while_a_stopped_process_keeps_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    async with SQLiteBroker(path) as broker:
        with stopped_in_a_commit(path):
            emit = asyncio.create_task(broker.append("orders", records(1)))
            assert len(await asyncio.wait_for(broker.read("orders", 0, offset=0, max_records=9), 3)) == 1
            assert not emit.done()
        assert (await emit)[0].offset == 2  # the one that was stopped had not committed


async def test_a_broker_is_opened_read_and_closed_while_a_stopped_process_keeps_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    with stopped_in_a_commit(path):
        async with asyncio.timeout(3), SQLiteBroker(path) as broker:
            assert [info.topic for info in await broker.list_topics()] == ["orders"]


async def test_a_broker_with_an_emit_behind_the_lock_is_closed_in_time(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    broker = SQLiteBroker(path)
    await broker.connect()
    with stopped_in_a_commit(path):
        emit = asyncio.create_task(broker.append("orders", records(1)))
        await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await broker.close()
            with pytest.raises(BackendUnavailable, match="closed"):
                await emit


async def test_twelve_emits_behind_another_programs_lock_end_in_time(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    async with SQLiteBroker(path, Limits(emit_timeout_ms=800)) as broker:
        await broker.append("orders", records(1))
        foreign = apsw.Connection(str(path))
        foreign.execute("BEGIN IMMEDIATE").fetchall()
        begun = time.monotonic()
        emits = [asyncio.create_task(broker.append("orders", records(1))) for _ in range(12)]
        errors = await asyncio.gather(*emits, return_exceptions=True)
        assert time.monotonic() - begun < 2.5
        assert all(isinstance(error, BackendUnavailable) for error in errors)
        foreign.execute("ROLLBACK").fetchall()
        foreign.close()
        assert (await broker.append("orders", records(1)))[0].offset == 2  # nothing of what was given up came later


async def test_a_child_that_a_handler_forked_does_not_keep_the_lock_of_a_parent_that_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", FORKS, str(path), stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(await parent.stdout.readline())
    try:
        assert await parent.wait() == -signal.SIGKILL
        os.kill(child, 0)
        async with SQLiteBroker(path, Limits(emit_timeout_ms=2_000)) as broker:
            await broker.append("orders", records(1))
    finally:
        os.kill(child, signal.SIGKILL)


FORKS = """
import asyncio, os, signal, sys, time
from pathlib import Path
from pspf import faults
from pspf.connectors.sqlite import SQLiteBroker
from pspf.records import NewRecord

async def main():
    async with SQLiteBroker(Path(sys.argv[1])) as broker:
        session = await broker.open_session()
        await session.register("orders", "billing", None)
        child = os.fork()
        if child == 0:
            os.close(1)
            time.sleep(60)
            os._exit(0)
        print(child, flush=True)
        faults.arm("commit.sent:1:kill")
        await broker.append("orders", [NewRecord(None, b"{}")])

asyncio.run(main())
"""


async def test_what_a_process_had_open_is_refused_in_its_forked_child_and_goes_on_in_the_parent(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    async with SQLiteBroker(path) as broker:
        await broker.append("orders", records(1))
        read_fd, write_fd = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read_fd)
            os.write(write_fd, "\n".join(_try_in_child(broker, path)).encode())
            os._exit(0)
        os.close(write_fd)
        with os.fdopen(read_fd) as pipe:
            said = (await asyncio.to_thread(pipe.read)).split("\n")
        await asyncio.to_thread(os.waitpid, child, 0)
        assert said == ["BackendUnavailable: it can't be used here", "ConfigurationError: True"]
        await broker.append("orders", records(1))


def _try_in_child(broker: SQLiteBroker, path: Path) -> Iterator[str]:
    for act in (broker.ping, SQLiteBroker(path).connect):
        coroutine = act()
        asyncio.events._set_running_loop(None)
        try:
            asyncio.new_event_loop().run_until_complete(asyncio.wait_for(coroutine, 5))
        except BackendUnavailable as error:
            yield f"BackendUnavailable: {str(error).rpartition('; ')[2]}"
        except ConfigurationError as error:
            yield f"ConfigurationError: {'forked' in str(error)}"
        else:
            yield "nothing"


async def test_one_open_reader_slows_no_writer_of_a_long_log_down_and_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "broker.db"
    async with SQLiteBroker(path, Limits(synchronous="NORMAL")) as broker:
        await broker.append("orders", records(1))
        reader = await asyncio.create_subprocess_exec(sys.executable, "-c", READER, str(path), stdout=subprocess.PIPE)
        assert reader.stdout is not None
        assert await reader.stdout.readline() == b"reads\n"
        slowest = 0.0
        for _ in range(90):  # 90 MB
            begun = time.monotonic()
            await broker.append("orders", records(100, size_bytes=10_000))
            slowest = max(slowest, time.monotonic() - begun)
        reader.kill()
        await reader.wait()
    assert slowest < 3  # a wait for the reader is longer
    assert f"pid {reader.pid} (python" in caplog.text


READER = """
import sqlite3, sys, time
reader = sqlite3.connect(sys.argv[1])
reader.execute("BEGIN")
reader.execute("SELECT count(*) FROM records").fetchone()
print("reads", flush=True)
time.sleep(60)
"""


async def test_a_log_that_several_processes_write_without_a_pause_is_started_anew(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    limits = Limits(synchronous="NORMAL")
    async with SQLiteBroker(path, limits) as one, SQLiteBroker(path, limits) as other:
        for _ in range(100):
            await asyncio.gather(*(each.append("orders", records(100, size_bytes=10_000)) for each in (one, other)))
        wal_bytes = await asyncio.to_thread(os.path.getsize, f"{path}-wal")
    assert wal_bytes < 64 << 20


async def test_the_lock_file_may_be_deleted_under_its_users(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    async with SQLiteBroker(path) as broker:
        (tmp_path / "broker.db.lock").unlink()
        await broker.append("orders", records(1))
        connection = apsw.Connection(str(path))
        assert connection.execute("SELECT count(*) FROM records").fetchall() == [(1,)]
        connection.close()
