"""A failover behind a name that does not change: connections stand to the old primary, new ones meet the new one."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pspf import Stream
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.valkey.broker import ValkeyBroker
from pspf.connectors.valkey.connection.connector import ValkeyConnector
from pspf.connectors.valkey.connection.failures import GroupGone, ReplyError, is_of_no_primary, translate
from pspf.connectors.valkey.connection.wire import Lane
from pspf.errors import BackendUnavailable
from tests.faults.valkey import QUICK, Site
from tests.integration.running import Number, running, until
from tests.support.proxy import Proxy
from tests.support.servers import Server, find, find_free_port
from tests.support.waiting import wait_until

Pair = tuple[Server, Server, Proxy]


@pytest.fixture(params=["valkey", "redis"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    """A primary, its replica, and a proxy that leads to the primary."""
    with ExitStack() as stack:
        servers: list[Server] = []
        for name in ("one", "two"):
            folder = tmp_path / name
            folder.mkdir()
            servers.append(
                stack.enter_context(Server(find(request.param), folder, options={"repl-diskless-sync-delay": "0"}))
            )
        one, two = servers
        two.call("REPLICAOF", "127.0.0.1", one.port)
        yield one, two, stack.enter_context(Proxy(one.port))


def fail_over(pair: Pair, *, to_nowhere: bool = False) -> None:
    """Make the replica the primary, and lead new connections to it; with `to_nowhere` the old one gets no more data."""
    one, two, proxy = pair
    two.call("REPLICAOF", "NO", "ONE")
    one.call("REPLICAOF", "127.0.0.1", find_free_port() if to_nowhere else two.port)
    proxy.target = two.port


async def in_step(pair: Pair) -> None:
    """Return when the replica has what the primary has."""
    one, two, _ = pair

    async def same() -> bool:
        return bool(two.call("INFO", "replication").find(b"master_link_status:up") > 0) and (
            one.call("DBSIZE") == two.call("DBSIZE") > 0
        )

    await wait_until(same)


@pytest.mark.parametrize("stale", ["yes", "no"], ids=["READONLY", "MASTERDOWN"])
async def test_a_server_that_is_no_primary_any_more_is_left_for_the_new_one(pair: Pair, stale: str) -> None:
    one, two, proxy = pair
    connector = ValkeyConnector("127.0.0.1", proxy.port)
    writing, reading = Lane(connector, "writes"), Lane(connector, "reads")
    for lane in (writing, reading):
        await lane.call("PING")
    one.configure("replica-serve-stale-data", stale)
    fail_over(pair, to_nowhere=True)
    with pytest.raises(BackendUnavailable, match=r"READONLY|MASTERDOWN"):
        await writing.call("SET", "a", "x")
    await writing.call("SET", "a", "x")
    assert await reading.call("GET", "a") == b"x"  # a replica answers reads: by itself it would never find out
    assert two.call("GET", "a") == b"x"
    for lane in (writing, reading):
        await lane.close()


@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_a_worker_that_only_waits_reads_from_the_new_primary(pair: Pair, ordering: str) -> None:
    _, two, proxy = pair
    stream = Stream(StreamingBackend(ValkeyBroker(ValkeyConnector("127.0.0.1", proxy.port), QUICK), "numbers", "g"))
    seen: list[int] = []

    @stream.subscribe("numbers", ordering=ordering, name="handle")  # type: ignore[arg-type]
    async def handle(event: Number) -> None:
        seen.append(event.n)

    async with running(stream):
        await stream.emit({"n": 0, "key": "a"})
        await until(lambda: seen == [0])
        await in_step(pair)
        await asyncio.to_thread(fail_over, pair, to_nowhere=True)
        async with Site(two, proxy).broker(direct=True) as broker:
            await Stream(StreamingBackend(broker, "numbers", "g")).emit({"n": 1, "key": "a"})
            await until(lambda: 1 in seen, within_ms=20_000)


async def test_emits_and_commits_go_on_with_the_new_primary(pair: Pair) -> None:
    _, two, proxy = pair
    stream = Stream(StreamingBackend(ValkeyBroker(ValkeyConnector("127.0.0.1", proxy.port), QUICK), "numbers", "g"))
    seen: list[int] = []

    @stream.subscribe("numbers", name="handle")
    async def handle(event: Number) -> None:
        seen.append(event.n)

    async with running(stream):
        await stream.emit({"n": 0})
        await until(lambda: seen == [0])
        await in_step(pair)
        await asyncio.to_thread(fail_over, pair)
        for n in range(1, 20):
            while True:
                try:
                    await stream.emit({"n": n})
                    break
                except BackendUnavailable:  # not stored
                    await asyncio.sleep(0.05)
        await until(lambda: set(seen) == set(range(20)), within_ms=20_000)
    assert two.call("XPENDING", "numbers", "g")[0] == 0


@pytest.mark.parametrize(
    ("text", "moves"),
    [
        ("READONLY You can't write against a read only replica.", True),
        ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", True),
        ("LOADING Valkey is loading the dataset in memory", True),
        ("UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)", True),
        ("NOGROUP No such key", False),
        ("UNBLOCKED the stream key no longer exists", False),
        ("OOM command not allowed", False),
    ],
)
def test_what_a_server_says_that_is_no_primary(text: str, moves: bool) -> None:
    assert is_of_no_primary([b"OK", ReplyError(text)]) is moves
    if moves:
        error = translate(ReplyError(text), "valkey://here", "XREADGROUP")
        assert isinstance(error, BackendUnavailable)
        assert not isinstance(error, GroupGone)


async def test_a_name_that_leads_to_the_old_primary_for_long_is_not_stormed(pair: Pair) -> None:
    one, _, proxy = pair
    connector = ValkeyConnector("127.0.0.1", proxy.port)
    lanes = [Lane(connector, "test") for _ in range(20)]
    for lane in lanes:
        await lane.call("PING")
    one.call("REPLICAOF", "127.0.0.1", find_free_port())
    before = proxy.connects
    for _ in range(5):
        with pytest.raises(BackendUnavailable, match="READONLY"):
            await lanes[0].call("SET", "a", "x")
        for lane in lanes[1:]:
            await lane.call("PING")
    assert proxy.connects - before <= 4 + 19
    for lane in lanes:
        await lane.close()
