"""The embedded broker's de-dup window where the clock is set while the machine runs."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pspf import faults
from pspf.clock import ManualClock
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.limits import Limits
from pspf.connectors.memory import MemoryBroker
from pspf.connectors.sqlite import SQLiteBroker
from pspf.errors import PSPFError
from tests.support.workers import TOPIC, new

HOUR_MS = 3_600_000
LIMITS = Limits(dedup_window_ms=HOUR_MS, synchronous="NORMAL")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["memory", "sqlite"])
async def broker(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Broker]:
    chosen = (
        MemoryBroker(LIMITS, clock) if request.param == "memory" else SQLiteBroker(tmp_path / "b.db", LIMITS, clock)
    )
    async with chosen:
        yield chosen


async def emit(broker: Broker, event_id: str = "one") -> bool:
    """Append an event; return whether it was a duplicate."""
    (place,) = await broker.append(TOPIC, [new("{}", event_id=event_id)])
    return place.duplicate


STEPS = pytest.mark.parametrize("step_ms", [2 * HOUR_MS, 5_000 * HOUR_MS, -2 * HOUR_MS])


@STEPS
async def test_a_clock_that_is_set_forgets_no_id_of_the_window(
    broker: Broker, clock: ManualClock, step_ms: int
) -> None:
    await emit(broker)
    clock.advance(HOUR_MS // 2)
    clock.set_wall(clock.now_ms() + step_ms)
    assert await emit(broker)
    await emit(broker, "two")
    clock.advance(HOUR_MS // 4)
    assert await emit(broker)


@STEPS
async def test_the_window_ends_when_it_would_have_ended(broker: Broker, clock: ManualClock, step_ms: int) -> None:
    await emit(broker)
    clock.set_wall(clock.now_ms() + step_ms)
    assert await emit(broker)
    clock.advance(HOUR_MS + 1)
    assert not await emit(broker)


async def test_a_step_counts_once_however_many_processes_see_it(tmp_path: Path, clock: ManualClock) -> None:
    path = tmp_path / "b.db"
    async with SQLiteBroker(path, LIMITS, clock) as one, SQLiteBroker(path, LIMITS, clock) as other:
        await emit(one)
        assert await emit(other)
        clock.set_wall(clock.now_ms() - 2 * HOUR_MS)
        assert await emit(one)
        assert await emit(other)
        clock.advance(HOUR_MS - 1)
        assert await emit(one)
        clock.advance(2)
        assert not await emit(other)


async def test_a_step_counts_where_its_first_transaction_is_rolled_back(broker: Broker, clock: ManualClock) -> None:
    await emit(broker)
    clock.set_wall(clock.now_ms() + 2 * HOUR_MS)
    faults.arm("commit.sent:1:raise")
    with pytest.raises(PSPFError):
        await emit(broker)
    faults.arm(None)
    assert await emit(broker)
