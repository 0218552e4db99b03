"""Every test here runs on every broker that claims what it needs, with a clock that moves only when the test moves it.

`needs` names capabilities; without one a test is of what every broker has. A parameter `handler` is the mode: None
needs the shared one, a name the ordered one.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from pspf.clock import ManualClock
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.limits import Limits
from tests.support.brokers import ASSIGNING, KINDS, Kind, World


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what a broker does not claim: it is no test of that broker, and is counted as deselected."""
    claimed = {item: is_claimed(item) for item in items}
    config.hook.pytest_deselected(items=[item for item, is_one in claimed.items() if not is_one])
    items[:] = [item for item, is_one in claimed.items() if is_one]


def is_claimed(item: pytest.Item) -> bool:
    """Return whether a test's broker has all capabilities that the test needs."""
    params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    chosen = params.get("kind")
    if not isinstance(chosen, Kind):
        return True
    needed = [name for mark in item.iter_markers("needs") for name in mark.args]
    if "handler" in params:
        needed.append("shared" if params["handler"] is None else "ordered")
    return all(chosen.can.has(name) for name in needed)


@pytest.fixture(params=(*KINDS, ASSIGNING), ids=lambda kind: kind.name)
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
