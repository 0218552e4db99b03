"""Meeting a server: how to get in, what is refused, and what a connection survives."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pspf.clock import ManualClock
from pspf.connectors.contract.limits import Limits
from pspf.connectors.urls import make_broker
from pspf.connectors.valkey.broker import ValkeyBroker, ValkeyStreamBackend
from pspf.connectors.valkey.connection.connector import ValkeyConnector
from pspf.connectors.valkey.connection.failures import NotPermitted, OutcomeUnknown, ReplyError
from pspf.connectors.valkey.connection.format import FORMAT
from pspf.connectors.valkey.connection.scripts import ScriptCall, load_script
from pspf.connectors.valkey.connection.wire import Lane
from pspf.errors import BackendCorrupt, BackendUnavailable, ConfigurationError, DiskFull, EmitIncomplete, NotAvailable
from pspf.records import Cursor, NewRecord
from tests.support.brokers import leased
from tests.support.servers import Server, find, hall, make_certificates
from tests.support.workers import new, numbered, read_all, values

NAMES = pytest.mark.parametrize("name", ["valkey", "redis"])
ADMIN = "user default on nopass ~* &* +@all\n"
SECRET = "s3cret-phrase"


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start a server for this test alone."""
    with ExitStack() as stack:

        def start(name: str = "valkey", **parts: Any) -> Server:
            return stack.enter_context(Server(find(name), tmp_path, **parts))

        yield start


@pytest.fixture
def connector(tmp_path: Path) -> ValkeyConnector:
    """An empty database of the shared server."""
    shared = hall("valkey")
    return ValkeyConnector("127.0.0.1", shared.server.port, shared.database_of(tmp_path))


async def emit_and_read(broker: ValkeyBroker) -> None:
    async with broker:
        await broker.append("orders", numbered(2))
        assert values(await read_all(broker, "orders")) == ["0", "1"]
        session = await broker.open_session()
        await session.register("orders", "g", None)


# Getting in


@NAMES
async def test_a_unix_socket_leads_to_the_server(own: Callable[..., Server], name: str) -> None:
    server = own(name)
    await emit_and_read(ValkeyBroker(ValkeyConnector(unix_socket_path=str(server.socket_path), db=3)))
    assert server.call("XLEN", "orders", database=3) == 2


async def test_a_url_with_a_user_leads_to_the_server(own: Callable[..., Server]) -> None:
    server = own(users=f"{ADMIN}user app on >{SECRET} ~* &* +@all\n")
    broker = make_broker(f"redis://app:{SECRET}@127.0.0.1:{server.port}/1")
    assert isinstance(broker, ValkeyBroker)
    await emit_and_read(broker)


@NAMES
async def test_a_default_password_is_enough(own: Callable[..., Server], name: str) -> None:
    server = own(name, options={"requirepass": SECRET})
    await emit_and_read(ValkeyBroker(ValkeyConnector("127.0.0.1", server.port, password=SECRET)))
    with pytest.raises(NotPermitted, match=r"NOAUTH|uthentication required"):
        await ValkeyBroker(ValkeyConnector("127.0.0.1", server.port)).connect()


async def test_tls_with_a_client_certificate(own: Callable[..., Server], tmp_path: Path) -> None:
    files = make_certificates(tmp_path)
    server = own("redis", certificates=files, options={"tls-auth-clients": "yes"})
    with pytest.raises(BackendUnavailable):
        await ValkeyBroker(ValkeyConnector("127.0.0.1", server.port, ssl=True, ssl_ca_certs=str(files.ca))).connect()
    own_certificate: dict[str, Any] = {"ssl_certfile": str(files.certificate), "ssl_keyfile": str(files.key)}
    await emit_and_read(
        ValkeyBroker(ValkeyConnector("127.0.0.1", server.port, ssl=True, ssl_ca_certs=str(files.ca), **own_certificate))
    )


@pytest.mark.parametrize(
    "arguments",
    [
        {"ssl": True, "unix_socket_path": "/s"},
        {"db": -1},
        {"port": 0},
        {"username": "u"},
    ],
)
def test_what_no_server_has_is_refused_at_construction(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        ValkeyConnector(**arguments)


async def test_where_nobody_listens_is_said(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match=r"valkey://127\.0\.0\.1:1/0"):
        await ValkeyBroker(ValkeyConnector("127.0.0.1", 1)).connect()
    with pytest.raises(BackendUnavailable, match=r"nobody\.sock"):
        await ValkeyBroker(ValkeyConnector(unix_socket_path=str(tmp_path / "nobody.sock"))).connect()


async def test_a_database_that_the_server_does_not_have_is_said() -> None:
    connector = ValkeyConnector("127.0.0.1", hall("valkey").server.port, 9_999)
    with pytest.raises(NotAvailable, match="9999"):
        await ValkeyBroker(connector).connect()


# What is refused


async def test_a_server_that_throws_events_away_is_refused_until_it_does_not(own: Callable[..., Server]) -> None:
    server = own(options={"maxmemory-policy": "allkeys-lru"})
    broker = ValkeyBroker(ValkeyConnector("127.0.0.1", server.port))
    with pytest.raises(ConfigurationError, match=r"allkeys-lru.*noeviction"):
        await broker.connect()
    assert server.call("DBSIZE") == 0
    server.configure("maxmemory-policy", "noeviction")
    await emit_and_read(broker)


@pytest.mark.parametrize(
    ("found", "reason"),
    [(str(FORMAT + 1), "use a newer PSPF"), ("one", "no number"), ("99", f"this version of PSPF knows {FORMAT}")],
)
async def test_a_format_that_this_version_does_not_know_is_refused(
    connector: ValkeyConnector, found: str, reason: str
) -> None:
    hall("valkey").server.call("SET", "pspf:format", found, database=connector.db)
    with pytest.raises(BackendCorrupt, match=reason):
        await ValkeyBroker(connector).connect()


async def test_the_format_is_written_once(connector: ValkeyConnector) -> None:
    for _ in range(2):
        async with ValkeyBroker(connector):
            pass
    assert hall("valkey").server.call("GET", "pspf:format", database=connector.db) == b"%d" % FORMAT


async def test_an_older_format_is_brought_up_to_date(connector: ValkeyConnector) -> None:
    hall("valkey").server.call("SET", "pspf:format", "1", database=connector.db)
    async with ValkeyBroker(connector):
        assert hall("valkey").server.call("GET", "pspf:format", database=connector.db) == b"%d" % FORMAT


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        ({}, "keeps nothing on disk"),
        ({"save": "3600 1"}, "snapshots only"),
        ({"appendonly": "yes"}, None),
        ({"appendonly": "yes", "maxmemory-policy": "volatile-lru"}, "volatile-lru"),
    ],
)
async def test_a_worker_is_warned_of_what_a_server_loses(
    own: Callable[..., Server], caplog: pytest.LogCaptureFixture, options: dict[str, str], warning: str | None
) -> None:
    server = own(options=options)
    async with ValkeyBroker(ValkeyConnector("127.0.0.1", server.port)) as broker:
        assert caplog.records == []  # who only looks or emits is not bothered
        await broker.open_session()
        await broker.open_session()
        said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) == (warning is not None)
    assert warning is None or warning in said[0]


# A lane


async def test_an_error_among_many_replies_is_a_value(connector: ValkeyConnector) -> None:
    lane = Lane(connector, "test")
    first, second, third = await lane.call_many([("SET", "a", "x"), ("LPUSH", "a", "y"), ("GET", "a")])
    assert (first, third) == (b"OK", b"x")
    assert isinstance(second, ReplyError)
    with pytest.raises(BackendCorrupt, match="LPUSH: WRONGTYPE"):
        await lane.call("LPUSH", "a", "y")
    await lane.close()


async def test_a_call_that_is_cancelled_leaves_no_reply_behind(connector: ValkeyConnector) -> None:
    lane = Lane(connector, "test")
    waiting = asyncio.create_task(lane.call("BLPOP", "nothing", 5))
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not lane.is_open
    assert await lane.call("ECHO", "mine") == b"mine"
    await lane.close()


@pytest.mark.parametrize("has_come", [False, True], ids=["on its way", "there in the same moment"])
async def test_the_reply_of_a_cancelled_call_is_kept_and_taken_for_no_other(
    connector: ValkeyConnector, has_come: bool
) -> None:
    lane = Lane(connector, "test")
    found: list[object] = []
    waiting = asyncio.create_task(lane.call("BLPOP", "later", 5, keep=found.append))
    await asyncio.sleep(0.05)
    if has_come:
        push(connector)  # in this turn of the loop; in the next one the reply is read, and behind it is cancelled
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: loop.call_soon(waiting.cancel))
    else:
        waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert lane.is_busy != has_come
    if not has_come:
        push(connector)
    assert await lane.call("ECHO", "mine") == b"mine"
    assert found == [[b"later", b"x"]]
    await lane.close()


def push(connector: ValkeyConnector) -> None:
    hall("valkey").server.call("RPUSH", "later", "x", database=connector.db)
    time.sleep(0.02)  # until the other connection has its reply


async def test_a_reply_that_nobody_asked_for_closes_the_connection(connector: ValkeyConnector) -> None:
    lane = Lane(connector, "test")
    before = await lane.call("CLIENT", "ID")
    (end,) = lane._ends.values()
    assert end.link is not None
    end.link._transport.write(b"PING\r\n")
    await asyncio.sleep(0.05)
    assert await lane.call("CLIENT", "ID") != before
    await lane.close()


async def test_a_short_call_after_a_long_one_has_its_own_time(connector: ValkeyConnector) -> None:
    lane = Lane(connector, "test")
    assert await lane.call("BLPOP", "nothing", "0.2", timeout_ms=400) is None
    assert await lane.call("BLPOP", "nothing", "0.3", timeout_ms=5_000) is None  # past the time of the one before
    started = time.monotonic()
    with pytest.raises(OutcomeUnknown, match="in 100 ms"):
        await lane.call("BLPOP", "nothing", 5, timeout_ms=100)
    assert time.monotonic() - started < 2
    await lane.close()


async def test_a_call_without_an_answer_in_time_is_of_unknown_outcome(connector: ValkeyConnector) -> None:
    lane = Lane(connector, "test")
    started = time.monotonic()
    with pytest.raises(OutcomeUnknown, match="no answer to BLPOP in 100 ms"):
        await lane.call("BLPOP", "nothing", 5, timeout_ms=100)
    assert time.monotonic() - started < 2
    assert await lane.call("ECHO", "mine") == b"mine"
    await lane.close()


async def test_calls_of_many_tasks_get_their_own_replies(connector: ValkeyConnector) -> None:
    lane = Lane(connector, "test")
    replies = await asyncio.gather(*[lane.call("ECHO", number) for number in range(200)])
    assert replies == [b"%d" % number for number in range(200)]
    await lane.close()


async def test_a_connection_that_the_server_closed_while_idle_is_opened_again(own: Callable[..., Server]) -> None:
    server = own()
    lane = Lane(ValkeyConnector("127.0.0.1", server.port), "test")
    assert await lane.call("PING") == b"PONG"
    server.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await asyncio.sleep(0.05)
    assert await lane.call("PING") == b"PONG"
    await lane.close()


async def test_a_server_that_is_gone_is_no_unknown_outcome(own: Callable[..., Server]) -> None:
    server = own()
    lane = Lane(ValkeyConnector("127.0.0.1", server.port), "test")
    await lane.call("PING")
    server.kill()
    await asyncio.sleep(0.05)
    with pytest.raises(BackendUnavailable) as refusal:
        await lane.call("PING")
    assert not isinstance(refusal.value, OutcomeUnknown)
    await lane.close()


async def test_scripts_that_the_server_forgot_are_sent_again(connector: ValkeyConnector) -> None:
    lane = Lane(connector, "test")
    survey = load_script("survey")
    for _ in range(2):
        hall("valkey").server.call("SCRIPT", "FLUSH")
        assert await lane.run(survey, [b"none"], []) == [0, b"", b"0-0"]
        hall("valkey").server.call("SCRIPT", "FLUSH")
        assert await lane.run_many([ScriptCall(survey, [b"none"], [])] * 3) == [[0, b"", b"0-0"]] * 3
    await lane.close()


# A broker


def test_a_broker_is_used_from_one_event_loop_after_the_other(connector: ValkeyConnector) -> None:
    broker = ValkeyBroker(connector)

    async def once() -> int:
        async with broker:
            await broker.append("orders", numbered(1))
            return len(await read_all(broker, "orders"))

    assert [asyncio.run(once()) for _ in range(3)] == [1, 2, 3]


async def test_what_many_tasks_append_at_once_is_stored_each_for_itself(connector: ValkeyConnector) -> None:
    async with ValkeyBroker(connector) as broker:
        await broker.create_topic("orders", partitions=3)
        given = [[new(f"{task}-{n}", f"k{n}", event_id=f"{task // 2}-{n}") for n in range(5)] for task in range(100)]
        placed = await asyncio.gather(*[broker.append("orders", records) for records in given])
        stored = {record.id: record.value for p in range(3) for record in await read_all(broker, "orders", p)}
    assert len(stored) == 250
    for task, places in enumerate(placed):
        for n, place in enumerate(places):
            assert stored[place.id].decode() in (f"{task // 2 * 2}-{n}", f"{task // 2 * 2 + 1}-{n}")
            assert place.duplicate == (stored[place.id].decode() != f"{task}-{n}")


async def test_an_append_that_is_cancelled_takes_no_other_with_it(connector: ValkeyConnector) -> None:
    async with ValkeyBroker(connector) as broker:
        await broker.append("orders", [new("0")])
        tasks = [asyncio.create_task(broker.append("orders", [new(str(n))])) for n in range(1, 21)]
        await asyncio.sleep(0)
        for task in tasks[1::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await broker.append("orders", [new("end")])
        stored = values(await read_all(broker, "orders"))
    assert set(stored) >= {"0", "end", *(str(n) for n in range(1, 21, 2))}
    assert len(set(stored)) == len(stored)


async def test_the_leases_are_renewed_while_a_handler_blocks_the_loop(connector: ValkeyConnector) -> None:
    limits = Limits(lease_ms=400, renew_ms=100)
    async with ValkeyBroker(connector, limits) as broker, ValkeyBroker(connector, limits) as other:
        session, dead = await broker.open_session(), await other.open_session()
        await session.register("orders", "g", None)
        await dead.register("orders", "g", None)
        dead.abandon()
        time.sleep(1)  # noqa: ASYNC251  # the handler that blocks
        assert await leased(await other.open_session()).read_members("orders", "g", None) == [session.id]


async def test_a_topic_is_a_stream_that_the_usual_tools_show(connector: ValkeyConnector) -> None:
    server = hall("valkey").server
    backend = ValkeyStreamBackend(connector, "orders", "billing", "till-3")
    await backend.connect()
    record_id = await backend.add_event({"order_id": 7}, key="k", headers={"trace": "1"})
    session = await backend.broker.open_session()
    await session.register("orders", "billing", None)
    ((entry_id, fields),) = server.call("XRANGE", "orders", "-", "+", database=connector.db)
    assert entry_id.decode() == record_id
    assert fields == [b"data", b'{"order_id":7}', b"key", b"k", b"headers", b'{"trace":"1"}']
    groups = server.call("XINFO", "GROUPS", "orders", database=connector.db)
    assert groups[0][1] == b"billing"
    assert session.id.startswith("till-3-")
    await backend.close()


async def test_a_flushed_server_gets_its_topic_again_with_the_next_append(connector: ValkeyConnector) -> None:
    async with ValkeyBroker(connector) as broker:
        await broker.append("orders", numbered(3))
        hall("valkey").server.call("FLUSHDB", database=connector.db)
        await broker.append("orders", [NewRecord(None, b"new", event_id="1")])
        assert [info.topic for info in await broker.list_topics()] == ["orders"]
        assert values(await read_all(broker, "orders")) == ["new"]


async def test_a_flushed_topic_gets_its_partitions_again(connector: ValkeyConnector) -> None:
    async with ValkeyBroker(connector) as broker:
        await broker.create_topic("orders", partitions=4, retention_ms=5_000)
        session = await broker.open_session()
        await session.register("orders", "g", None)
        consumers = [await session.share(Cursor("orders", "g", None, partition)) for partition in range(4)]
        hall("valkey").server.call("FLUSHDB", database=connector.db)
        await broker.append("orders", numbered(8))
        info, _ = await broker.read_topic("orders")
        assert (info.partitions, info.retention_ms) == (4, 5_000)
        polled = [await consumer.poll(max_records=10, timeout_ms=1_000) for consumer in consumers]
        assert sorted(values([record for batch in polled for record in batch.records])) == [str(n) for n in range(8)]


async def test_records_of_many_partitions_that_are_stored_in_part_are_named(connector: ValkeyConnector) -> None:
    async with ValkeyBroker(connector) as broker:
        await broker.create_topic("orders", partitions=2)
        hall("valkey").server.call("SET", "orders:1", "no stream", database=connector.db)
        with pytest.raises(EmitIncomplete, match="WRONGTYPE") as incomplete:
            await broker.append("orders", numbered(4))
        assert [given is None for given in incomplete.value.ids] == [False, True, False, True]


async def test_a_server_out_of_memory_is_trimmed_all_the_same(own: Callable[..., Server]) -> None:
    server, clock = own(), ManualClock()
    async with ValkeyBroker(ValkeyConnector("127.0.0.1", server.port), clock=clock) as broker:
        await broker.create_topic("orders", retention_ms=60_000)
        await broker.append("orders", numbered(10))
        clock.advance(61_000)
        server.configure("maxmemory", 1)
        with pytest.raises(DiskFull, match="OOM"):
            await broker.append("orders", numbered(1, start=10))
        assert (await broker.read_topic("orders"))[0].records == 0
        server.configure("maxmemory", 0)
        await broker.append("orders", numbered(1, start=10))
        assert values(await read_all(broker, "orders")) == ["10"]
