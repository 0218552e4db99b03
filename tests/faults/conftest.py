"""Where the runs' brokers are."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from pspf.clock import ManualClock
from pspf.connectors.contract.limits import Limits
from tests.faults.guards import Stage
from tests.faults.runs import KINDS, FilePlace, Place, ServerPlace
from tests.faults.valkey import Site
from tests.support.brokers import KINDS as BROKERS
from tests.support.brokers import World
from tests.support.proxy import Proxy
from tests.support.servers import Server, find, hall


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty broker file, or an empty database of a server."""
    if request.param == "sqlite":
        return FilePlace(tmp_path)
    shared = hall(request.param)
    return ServerPlace(shared.server, database=shared.database_of(tmp_path))


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start a server for this test alone: `own_server(options={"appendonly": "yes"}, name="redis")`."""
    with ExitStack() as stack:

        def start(name: str = "valkey", **parts: Any) -> Server:
            folder = tmp_path / f"server-{name}"
            folder.mkdir()
            return stack.enter_context(Server(find(name), folder, **parts))

        yield start


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """An empty database of the shared server, behind a proxy."""
    shared = hall("valkey")
    with Proxy(shared.server.port) as proxy:
        yield Site(shared.server, proxy, shared.database_of(tmp_path))


@pytest_asyncio.fixture(params=["valkey", "redis"])
async def stage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stage]:
    """An empty broker on a server, by a manual clock, and the server itself."""
    kind = next(kind for kind in BROKERS if kind.name == request.param)
    clock = ManualClock()
    world = World(kind, tmp_path, Limits(), clock)
    await world.start()
    found = Stage(world, clock, request.param, tmp_path)
    yield found
    found.fill_memory(is_full=False)
    await world.stop()
