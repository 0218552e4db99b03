"""Every test here runs on every broker, with a clock that moves only when the test moves it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from pspf.clock import ManualClock
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.limits import Limits
from tests.support.brokers import KINDS, Kind, World


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    """The kind of broker under test."""
    chosen = request.param
    assert isinstance(chosen, Kind)
    return chosen


@pytest.fixture
def limits() -> Limits:
    """The default limits; a test module with others overrides this."""
    return Limits(synchronous="NORMAL")


@pytest.fixture
def clock() -> ManualClock:
    """The broker's clock."""
    return ManualClock()


@pytest_asyncio.fixture
async def world(kind: Kind, tmp_path: Path, limits: Limits, clock: ManualClock) -> AsyncIterator[World]:
    """A broker that can be reopened, on the manual clock."""
    opened = World(kind, tmp_path, limits, clock)
    await opened.start()
    yield opened
    await opened.stop()


@pytest.fixture
def broker(world: World) -> Broker:
    """The world's broker, open."""
    return world.broker


@pytest_asyncio.fixture
async def live_world(kind: Kind, tmp_path: Path, limits: Limits) -> AsyncIterator[World]:
    """A broker on the machine's clock, for what waits."""
    opened = World(kind, tmp_path / "live", limits, None)
    (tmp_path / "live").mkdir()
    await opened.start()
    yield opened
    await opened.stop()
