"""The contract of a state store, for each store; then what is the SQLite one's own."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextvars import Context
from pathlib import Path
from typing import Any

import apsw
import pytest

from pspf.clock import ManualClock
from pspf.errors import BackendCorrupt, BackendUnavailable, ConfigurationError, EventRejected
from pspf.state import MemoryStateStore, SQLiteStateStore, StateStore
from tests.support.threads import no_threads


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> AsyncIterator[StateStore]:
    made: StateStore
    made = (
        MemoryStateStore(clock) if request.param == "memory" else SQLiteStateStore(tmp_path / "s" / "s.db", clock=clock)
    )
    async with made:
        yield made


VALUES: list[Any] = [0, "", False, "ä\x00", 1.5, [1, [2]], {"a": {"b": None}}, b"", b"\x00\xff", b"{}", 1 << 63]


@pytest.mark.parametrize("value", VALUES, ids=repr)
async def test_a_value_comes_back_as_it_was_put(store: StateStore, value: Any) -> None:
    await store.put("key", value)
    found = await store.get("key")
    assert found == value
    assert type(found) is type(value)


async def test_an_unknown_key_is_none(store: StateStore) -> None:
    assert await store.get("key") is None
    await store.delete("key")


async def test_a_put_replaces_and_a_delete_forgets(store: StateStore) -> None:
    await store.put("key", 1)
    await store.put("key", 2)
    assert await store.get("key") == 2
    await store.delete("key")
    assert await store.get("key") is None


async def test_values_are_copies(store: StateStore) -> None:
    value = {"list": [1]}
    await store.put("key", value)
    value["list"].append(2)
    found = await store.get("key")
    found["list"].append(3)
    assert await store.get("key") == {"list": [1]}


async def test_a_value_is_gone_after_its_time(store: StateStore, clock: ManualClock) -> None:
    await store.put("short", 1, ttl_seconds=1.5)
    await store.put("long", 1, 60)
    await store.put("kept", 1)
    clock.advance(1_499)
    assert await store.get("short") == 1
    clock.advance(1)
    assert await store.get("short") is None
    assert (await store.get("long"), await store.get("kept")) == (1, 1)


async def test_putting_again_without_a_time_keeps_the_value(store: StateStore, clock: ManualClock) -> None:
    await store.put("key", 1, ttl_seconds=1)
    await store.put("key", 2)
    clock.advance(5_000)
    await store.put("other", 1)
    assert await store.get("key") == 2


@pytest.mark.parametrize("ttl_seconds", [0, -1, float("nan"), float("inf")])
async def test_a_time_to_live_is_above_zero(store: StateStore, ttl_seconds: float) -> None:
    with pytest.raises(ConfigurationError, match="ttl_seconds"):
        await store.put("key", 1, ttl_seconds)


@pytest.mark.parametrize(
    "value", [pytest.param(object(), id="object"), float("nan"), {1: 2}, "\ud800", [b"x\xff"]], ids=repr
)
async def test_a_value_that_json_can_not_hold_is_rejected_and_nothing_stored(store: StateStore, value: object) -> None:
    with pytest.raises(EventRejected):
        await store.put_batch({"good": 1, "bad": value})
    assert await store.get("good") is None


@pytest.mark.parametrize("key", ["\ud800", 7, None])
async def test_a_key_is_text(store: StateStore, key: Any) -> None:
    with pytest.raises(EventRejected, match="state key"):
        await store.put(key, 1)


async def test_a_batch_is_put_as_one(store: StateStore, clock: ManualClock) -> None:
    await store.put_batch({f"key{n}": n for n in range(1_000)}, ttl_seconds=1)
    await store.put_batch({})
    assert await store.get("key999") == 999
    clock.advance(1_000)
    assert await store.get("key0") is None


async def test_checkpoints_are_apart_from_keys(store: StateStore) -> None:
    await store.checkpoint("orders:0", {"offset": 7})
    await store.put("orders:0", "state")
    assert await store.get_checkpoint("orders:0") == {"offset": 7}
    assert await store.get("orders:0") == "state"
    assert await store.get_checkpoint("orders:1") is None
    await store.flush()


async def test_a_transaction_is_seen_by_others_at_its_end(store: StateStore) -> None:
    await store.put("gone", 1)
    async with store.transaction() as inside:
        await inside.put("key", 1)
        await store.delete("gone")
        await store.checkpoint("offset", 5)
        assert (await store.get("key"), await store.get("gone"), await store.get_checkpoint("offset")) == (1, None, 5)
        outside = asyncio.get_running_loop().create_task(_read(store), context=Context())
        assert await outside == (None, 1, None)
    assert await _read(store) == (1, None, 5)


async def _read(store: StateStore) -> tuple[Any, Any, Any]:
    return await store.get("key"), await store.get("gone"), await store.get_checkpoint("offset")


async def test_an_exception_undoes_a_transaction(store: StateStore) -> None:
    await store.put("key", 1)

    async def fail() -> None:
        async with store.transaction():
            await store.put("key", 2)
            await store.checkpoint("offset", 5)
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    assert await store.get("key") == 1
    assert await store.get_checkpoint("offset") is None
    await store.put("key", 3)
    assert await store.get("key") == 3


async def test_an_inner_transaction_joins_the_outer_one(store: StateStore) -> None:
    async with store.transaction():
        async with store.transaction():
            await store.put("key", 1)
        assert await store.get("key") == 1
    assert await store.get("key") == 1


async def test_transactions_of_one_store_do_not_lose_updates(store: StateStore) -> None:
    async def add_one() -> None:
        async with store.transaction():
            count = await store.get("count") or 0
            await asyncio.sleep(0)
            await store.put("count", count + 1)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(20):
            tasks.create_task(add_one())
    assert await store.get("count") == 20


async def test_a_task_that_outlives_its_transaction_writes_directly(store: StateStore) -> None:
    go_on = asyncio.Event()

    async def put_later() -> None:
        await go_on.wait()
        await store.put("late", 1)

    async with store.transaction():
        task = asyncio.get_running_loop().create_task(put_later())
        await asyncio.sleep(0)
    go_on.set()
    await task
    assert await store.get("late") == 1


async def test_a_store_keeps_its_values_over_stop_and_start(store: StateStore) -> None:
    await store.start()
    await store.put("key", 1)
    await store.checkpoint("offset", 5)
    await store.stop()
    await store.stop()
    with pytest.raises(ConfigurationError, match="not started"):
        await store.get("key")
    await store.start()
    assert (await store.get("key"), await store.get_checkpoint("offset")) == (1, 5)


def test_a_store_works_in_one_event_loop_after_another() -> None:
    store = MemoryStateStore()

    async def add_one() -> None:
        async with store.transaction():
            await asyncio.sleep(0)
            await store.put("count", (await store.get("count") or 0) + 1)

    async def run() -> None:
        async with store, asyncio.TaskGroup() as tasks:
            for _ in range(5):
                tasks.create_task(add_one())

    asyncio.run(run())
    asyncio.run(run())

    async def read() -> object:
        async with store:
            return await store.get("count")

    assert asyncio.run(read()) == 10


# SQLite


def test_making_one_opens_nothing(tmp_path: Path) -> None:
    threads = threading.active_count()
    SQLiteStateStore(tmp_path / "s.db")
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == threads


async def test_two_stores_share_a_file(tmp_path: Path) -> None:
    async with SQLiteStateStore(tmp_path / "s.db") as one, SQLiteStateStore(tmp_path / "s.db") as two:
        await asyncio.gather(*(store.put(f"{n}", n) for n in range(50) for store in (one, two)))
        await one.put("key", 1)
        assert await two.get("key") == 1


def test_two_processes_share_a_file(tmp_path: Path) -> None:
    code = """
import asyncio, sys
from pspf.state import SQLiteStateStore

async def run():
    async with SQLiteStateStore(sys.argv[1]) as store:
        for n in range(50):
            await store.put(f"{sys.argv[2]}{n}", n)

asyncio.run(run())
"""
    path = tmp_path / "s.db"
    children = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in "ab"]
    assert [child.wait(30) for child in children] == [0, 0]

    async def read() -> list[object]:
        async with SQLiteStateStore(path) as store:
            return [await store.get(f"{name}{n}") for name in "ab" for n in range(50)]

    assert asyncio.run(read()) == [*range(50)] * 2


async def test_expired_rows_leave_the_file(tmp_path: Path, clock: ManualClock) -> None:
    async with SQLiteStateStore(tmp_path / "s.db", clock=clock) as store:
        await store.put_batch({f"{n}": n for n in range(150)}, ttl_seconds=1)
        clock.advance(1_000)
        await store.put("a", 1)
        await store.put("b", 1)
    with apsw.Connection(str(tmp_path / "s.db")) as connection:
        assert connection.execute("SELECT count(*) FROM entry").fetchall() == [(2,)]


def test_a_store_that_is_not_stopped_lets_the_interpreter_end(tmp_path: Path) -> None:
    code = """
import asyncio, sys
from pspf.state import SQLiteStateStore

async def run():
    store = SQLiteStateStore(sys.argv[1])
    await store.start()
    await store.put("key", 1)

asyncio.run(run())
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "s.db")], check=True, timeout=20)


async def test_another_program_s_database_is_refused_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with apsw.Connection(str(path)) as connection:
        connection.execute("CREATE TABLE theirs (a)")
    with pytest.raises(BackendCorrupt, match="another program"):
        await SQLiteStateStore(path).start()
    with apsw.Connection(str(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_schema").fetchall() == [("theirs",)]


async def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    async with SQLiteStateStore(path):
        pass
    with apsw.Connection(str(path)) as connection:
        connection.execute("PRAGMA user_version=99")
    with pytest.raises(BackendCorrupt, match="format 99"):
        await SQLiteStateStore(path).start()


async def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.db").write_bytes(b"not a database, but long enough to be read as the header of one" * 50)
    with pytest.raises(BackendCorrupt, match="damaged or no database"):
        await SQLiteStateStore(tmp_path / "s.db").start()


async def test_a_place_that_can_not_be_written_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "s.db", tmp_path):
        with pytest.raises(BackendUnavailable):
            await SQLiteStateStore(path).start()


def test_synchronous_is_full_or_normal(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="FULL or NORMAL"):
        SQLiteStateStore(tmp_path / "s.db", synchronous="OFF")


FORKING = """
import asyncio, os, sys
from pathlib import Path
from pspf.errors import BackendUnavailable, ConfigurationError
from pspf.state import SQLiteStateStore

path = Path(sys.argv[1])

def say(text):
    os.write(1, text.encode() + b"\\n")

async def child(store):
    try:
        await store.get("a")
    except BackendUnavailable as error:
        say(f"get: {error}")
    await asyncio.wait_for(store.stop(), 5)
    say("stopped")
    for again in (store, SQLiteStateStore(path)):
        try:
            await asyncio.wait_for(again.start(), 5)
        except ConfigurationError as error:
            say(f"start: {error}")
    async with SQLiteStateStore(path.with_name("another.db")) as another:
        await another.put("b", 1)
        say("another")

async def parent():
    store = SQLiteStateStore(path)
    async with store:
        await store.put("a", 1)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                asyncio.run(child(store))
                code = 0
            except BaseException as error:
                say(repr(error))
            finally:
                os._exit(code)
        assert (await asyncio.to_thread(os.waitpid, pid, 0))[1] == 0
        await store.put("a", 2)
        say(f"the parent goes on: {await store.get('a')}")

asyncio.run(parent())
"""


def test_a_forked_child_stops_and_refuses_its_parent_s_store_and_may_use_another(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORKING, str(tmp_path / "state.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert [line.partition(":")[0] for line in lines] == [
        "get",
        "stopped",
        "start",
        "start",
        "another",
        "the parent goes on",
    ]
    assert lines[-1].endswith(": 2")
    assert lines[2].endswith("this process was forked from one that had it open; SQLite's locks don't hold here")


async def test_a_store_without_a_thread_is_unavailable_and_starts_once_there_is_one(tmp_path: Path) -> None:
    store = SQLiteStateStore(tmp_path / "state.db")
    with no_threads(), pytest.raises(BackendUnavailable, match="can't start new thread"):
        await store.start()
    async with store:
        await store.put("a", 1)
        assert await store.get("a") == 1
