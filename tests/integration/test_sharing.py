"""How the workers of an ordered handler share its partitions: when one is given up, and that it is given back."""

import asyncio
import time
from pathlib import Path

import pytest

from pspf import Stream
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.contract.limits import Limits
from pspf.connectors.sqlite import SQLiteBroker
from pspf.connectors.sqlite.ordered import OrderedConsumer
from pspf.errors import BackendUnavailable
from tests.integration.running import GROUP, TOPIC, Number, running, wait_until

HOLD_MS = 1_500


async def share_two_partitions(folder: Path) -> float:
    """Have a worker take both partitions, and another one join; return for how many ms the first held both."""
    broker = SQLiteBroker(folder / "broker.db", Limits(lease_ms=HOLD_MS, renew_ms=300, synchronous="NORMAL"))
    streams = [Stream(StreamingBackend(broker, TOPIC, GROUP)) for _ in range(2)]
    for stream in streams:

        @stream.subscribe(TOPIC, ordering="key", name="total")
        async def total(event: Number) -> None: ...

    async def owners() -> list[str | None]:
        return [info.owner for info in await broker.list_cursors()]

    async def are_one_s() -> bool:
        found = await owners()
        return len(found) == 2 and None not in found and len(set(found)) == 1

    async def are_two_s() -> bool:
        found = await owners()
        return None not in found and len(set(found)) == 2

    async with broker:
        await broker.create_topic(TOPIC, partitions=2)
        begun = time.monotonic()
        async with running(streams[0]):
            await wait_until(are_one_s)
            async with running(streams[1]):
                await wait_until(are_two_s, within_ms=8_000)
                held_ms = (time.monotonic() - begun) * 1000
    return held_ms


async def test_a_partition_is_held_for_a_lease_at_least_before_it_goes_to_a_new_worker(tmp_path: Path) -> None:
    """Else workers that come and go would trade partitions, and what they have read of state, all the time."""
    assert await share_two_partitions(tmp_path) >= HOLD_MS


async def test_a_partition_is_given_back_though_the_broker_was_away_at_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []
    give_back = OrderedConsumer.release

    async def release(consumer: OrderedConsumer) -> None:
        tries.append(consumer.cursor.partition)
        if len(tries) == 1:
            raise BackendUnavailable("the network is down for a moment")
        await give_back(consumer)

    monkeypatch.setattr(OrderedConsumer, "release", release)
    async with asyncio.timeout(20):
        await share_two_partitions(tmp_path)
    assert len(tries) > 1
