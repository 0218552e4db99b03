"""The least that PSPF needs of a server: the conformance tests themselves, as a user who may nothing else."""

import inspect
import pkgutil
import re
from collections.abc import AsyncIterator, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio

import pspf.connectors.valkey
import tests.conformance
from pspf.clock import ManualClock
from pspf.connectors.contract.limits import Limits
from pspf.connectors.contract.operations import Check, Status
from pspf.connectors.valkey.broker import ValkeyBroker
from pspf.connectors.valkey.connection.acl import COMMANDS, OPERATORS, OPTIONAL, find_missing, least_acl
from pspf.connectors.valkey.connection.connector import ValkeyConnector
from pspf.errors import BackendUnavailable
from tests.support.brokers import Kind, World
from tests.support.servers import Server, find
from tests.support.workers import HANDLER, numbered, own, settle, share, take

FOLDER: Final = Path(pspf.connectors.valkey.__file__).parent
MODULES: Final = sorted(
    module.name for module in pkgutil.iter_modules(tests.conformance.__path__, "tests.conformance.")
)
GIVEN: Final = {"world", "broker", "clock", "handler", "live_world", "member"}
"""What these tests may ask for; others of conformance are left out."""
SECRET: Final = "correct-horse"


def find_tests() -> Iterator[Any]:
    """Yield the conformance tests that ask for nothing else than `GIVEN`, in both modes where they ask for one."""
    for module in MODULES:
        loaded = import_module(module)
        if "limits" in vars(loaded):
            continue  # it has limits of its own
        for name, test in vars(loaded).items():
            if not name.startswith("test_") or not inspect.iscoroutinefunction(test):
                continue
            parameters = set(inspect.signature(test).parameters)
            if parameters <= GIVEN:
                for handler in (None, HANDLER) if "handler" in parameters else (None,):
                    yield pytest.param(test, handler, id=f"{module.rpartition('.')[2]}-{name}-{handler}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that has a user with the least rights."""
    with Server(find("valkey"), tmp_path_factory.mktemp("acl")) as running:
        running.call(*least_acl("pspf").replace("PASSWORD", SECRET).split())
        yield running


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def limits() -> Limits:
    return Limits()


def connect(
    server: Server, limits: Limits | None = None, clock: ManualClock | None = None, database: int = 3
) -> ValkeyBroker:
    """Return a broker that logs in as the user, to a database that has to be selected."""
    connector = ValkeyConnector("127.0.0.1", server.port, database, username="pspf", password=SECRET)
    return ValkeyBroker(connector, limits, clock)


@pytest_asyncio.fixture
async def world(server: Server, tmp_path: Path, limits: Limits, clock: ManualClock) -> AsyncIterator[World]:
    server.call("FLUSHALL")
    kind = Kind("valkey", lambda _, limits, clock: connect(server, limits, clock), ValkeyBroker.capabilities)
    opened = World(kind, tmp_path, limits, clock)
    await opened.start()
    yield opened
    await opened.stop()


@pytest_asyncio.fixture
async def live_world(server: Server, tmp_path: Path, limits: Limits) -> AsyncIterator[World]:
    kind = Kind("valkey", lambda _, limits, clock: connect(server, limits, clock, 4), ValkeyBroker.capabilities)
    opened = World(kind, tmp_path, limits, None)
    await opened.start()
    yield opened
    await opened.stop()


@pytest.mark.parametrize(("test", "handler"), list(find_tests()))
async def test_conformance_needs_no_more(
    test: Any, handler: str | None, world: World, live_world: World, clock: ManualClock, server: Server
) -> None:
    given: dict[str, Any] = {"world": world, "live_world": live_world, "broker": world.broker, "clock": clock}
    given["handler"] = handler
    if "member" in inspect.signature(test).parameters:  # as the tests of windows have it
        await world.broker.append("orders", numbered(3))
        given["member"] = await own(world.broker)
    await test(**{name: given[name] for name in inspect.signature(test).parameters})
    denied = {entry[entry.index(b"object") + 1] for entry in server.call("ACL", "LOG")}
    assert denied <= {b"config|get"}, "which is asked for where it may be, and not needed"


def test_every_command_of_the_scripts_is_permitted() -> None:
    for script in FOLDER.glob("lua/*.lua"):
        for command, sub in re.findall(r"redis\.p?call\('([A-Z]+)'(?:, '([A-Z]+)')?", script.read_text()):
            name = f"{command}|{sub}" if command in ("XGROUP", "XINFO") else command
            assert name.lower() in COMMANDS, f"{script.name} calls {name}"


def test_every_command_that_a_client_sends_is_permitted() -> None:
    asked_where_permitted = {"config", *(command.partition("|")[0] for command in OPTIONAL)}
    known = {command.partition("|")[0] for command in COMMANDS} | asked_where_permitted
    for path in sorted(FOLDER.rglob("*.py")):
        source = path.read_text() if path.name != "failures.py" else ""
        for command in re.findall(r"""(?:call\(|\()\s*"([A-Z]{2,})"(?!\s*[:%])""", source):
            if command == "STREAMS":
                continue  # an option
            assert command.lower() in known, f"{path.name} sends {command}"


async def test_every_permitted_command_is_needed(server: Server, limits: Limits) -> None:
    """What no test of conformance sends is sent by a worker on the machine's clock, or by the command line."""
    sources = "".join(path.read_text() for path in [*FOLDER.rglob("*.py"), *FOLDER.glob("lua/*.lua")])
    by_the_client = {"client|setname", "select"}
    for command in set(COMMANDS) - by_the_client:
        word, _, sub = command.upper().partition("|")
        assert re.search(rf"[\"']{word}[\"']" + (rf", [\"']{sub}[\"']" if sub else ""), sources), command


async def test_a_worker_on_the_machines_clock_needs_no_more(server: Server) -> None:
    server.call("FLUSHALL")
    async with connect(server) as broker:
        await broker.append("orders", numbered(3))
        member = await share(broker)
        assert not await member.consumer.commit(settle(await take(member.consumer)))
        assert not (await member.consumer.poll(max_records=1, timeout_ms=50)).records
        await broker.wait("orders", timeout_ms=20)
        await member.session.close()


async def test_who_may_not_ask_for_the_size_of_topics_misses_nothing_else(server: Server) -> None:
    server.call("FLUSHALL")
    server.call("ACL", "SETUSER", "pspf", "-memory|usage")
    try:
        async with connect(server) as broker:
            await broker.append("orders", numbered(3))
            info, _ = await broker.read_topic("orders")
            assert (info.records, info.size_bytes) == (3, None)
            assert (await look(broker, "permissions")).status is Status.OK
    finally:
        server.call("ACL", "SETUSER", "pspf", "+memory|usage")


async def look(broker: ValkeyBroker, name: str) -> Check:
    """Return the check of one name."""
    (found,) = [check for check in await broker.operations.diagnose() if check.name == name]
    return found


async def test_the_doctor_says_what_is_missing_and_how_to_permit_it(server: Server) -> None:
    async with connect(server) as broker:
        assert (await look(broker, "permissions")).status is Status.OK
        server.call("ACL", "SETUSER", "pspf", "-xtrim", "-xgroup|setid")
        try:
            check = await look(broker, "permissions")
        finally:
            server.call("ACL", "SETUSER", "pspf", "+xtrim", "+xgroup|setid")
    assert check.status is Status.FAIL
    assert check.found == "user pspf may not: xgroup setid, xtrim"
    assert check.remedy == least_acl("pspf")


async def test_looking_for_what_is_missing_changes_nothing(server: Server) -> None:
    server.call("FLUSHALL")
    async with connect(server) as broker:
        await broker.append("orders", numbered(2))
        before = sorted(server.call("INFO", "keyspace").splitlines())
        assert await find_missing(broker._core.commands) == []
        assert sorted(server.call("INFO", "keyspace").splitlines()) == before


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in ("eval", "select", "client|setname")])
async def test_each_command_that_is_missing_is_named(server: Server, command: str) -> None:
    server.call("ACL", "SETUSER", "pspf", f"-{command}")
    try:
        assert command.split("|")[0] in await find_refusal(server)
    finally:
        server.call("ACL", "SETUSER", "pspf", f"+{command}")


async def find_refusal(server: Server) -> str:
    """Return what the user may not send, by the doctor or, where it needs it itself, by the error."""
    try:
        async with connect(server) as broker:
            return " ".join(await find_missing(broker._core.commands))
    except BackendUnavailable as error:
        return str(error).lower()


@pytest.mark.parametrize("command", ["xadd", "xpending", "zadd", "xgroup|setid"])
async def test_a_worker_that_may_not_do_all_it_needs_is_told_so_before_it_begins(server: Server, command: str) -> None:
    server.call("ACL", "SETUSER", "pspf", f"-{command}")
    try:
        async with connect(server) as broker:
            with pytest.raises(BackendUnavailable, match=f"may not: {command.replace('|', ' ')}\n.*pspf broker doctor"):
                await broker.open_session()
    finally:
        server.call("ACL", "SETUSER", "pspf", f"+{command}")


async def test_a_worker_may_do_without_what_only_operators_send(server: Server) -> None:
    server.call("ACL", "SETUSER", "pspf", *[f"-{command}" for command in OPERATORS])
    try:
        async with connect(server) as broker:
            await (await broker.open_session()).close()
    finally:
        server.call("ACL", "SETUSER", "pspf", *[f"+{command}" for command in OPERATORS])
