"""One read of a server is bounded in bytes, also where large records come behind very many small ones."""

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.limits import Limits
from pspf.connectors.valkey.connection.blocking_reads import MOST_BYTES, ReadSize
from tests.support.brokers import make_on_server
from tests.support.workers import HANDLER, TOPIC, Member, new, own, retry, settle, share

SMALL: Final = 100
LARGE: Final = 60
BYTES: Final = 900_000


@pytest_asyncio.fixture(params=["valkey", "redis"])
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Broker]:
    async with make_on_server(request.param)(tmp_path, Limits(), None) as broker:
        yield broker


async def join(broker: Broker, handler: str | None) -> Member:
    return await (own(broker) if handler else share(broker))


async def fill(broker: Broker) -> None:
    await broker.append(TOPIC, [new(b"small") for _ in range(SMALL)])
    await broker.append(TOPIC, [new(b"x" * BYTES) for _ in range(LARGE)])


@pytest.mark.parametrize("handler", [None, HANDLER], ids=["shared", "ordered"])
@pytest.mark.parametrize("waits_ms", [0, 5_000], ids=["at once", "waiting"])
async def test_a_read_stops_at_large_records_and_loses_none(broker: Broker, handler: str | None, waits_ms: int) -> None:
    await broker.append(TOPIC, [new(b"small")])
    member = await join(broker, handler)
    await fill(broker)
    seen: Counter[int] = Counter()
    while sum(seen.values()) < SMALL + LARGE + 1:
        batch = await member.consumer.poll(max_records=1_000, timeout_ms=waits_ms)
        assert sum(len(record.value) for record in batch.records) <= MOST_BYTES
        seen.update(record.offset for record in batch.records)
        assert not batch.suspect
        assert all(record.attempts == 0 for record in batch.records)
        position = batch.end if handler else None
        assert await member.consumer.commit(settle(batch.records, position=position)) == ()
    assert set(seen.values()) == {1}
    assert (await member.consumer.poll(max_records=1_000, timeout_ms=0)).records == ()
    assert [info.lag for info in await broker.list_cursors()] == [0]


async def test_large_retries_that_are_due_are_read_a_few_at_a_time(broker: Broker) -> None:
    await fill(broker)
    member = await join(broker, HANDLER)
    taken = 0
    while taken < SMALL + LARGE:
        batch = await member.consumer.poll(max_records=20 if taken else SMALL, timeout_ms=0)
        taken += len(batch.records)
        retries = [retry(record, due_ms=1) for record in batch.records]
        await member.consumer.commit(settle(retries=retries, position=batch.end))
    await member.consumer.release()
    heir = await join(broker, HANDLER)
    seen: Counter[int] = Counter()
    while sum(seen.values()) < SMALL + LARGE:
        batch = await heir.consumer.poll(max_records=1_000, timeout_ms=0)
        assert batch.records
        assert sum(len(record.value) for record in batch.records) <= MOST_BYTES
        seen.update(record.offset for record in batch.records)
        await heir.consumer.commit(settle(batch.records, position=batch.end))
    assert set(seen.values()) == {1}


def test_after_a_reply_that_was_too_large_less_is_asked_for_until_less_is_wanted() -> None:
    size = ReadSize()
    assert size.of(1_000) == 1_000
    size.shrink(1_000)
    assert size.of(1_000) == 125
    size.shrink(125)
    assert size.of(900) == 15
    assert size.of(9) == 9
    assert size.of(1_000) == 1_000
    size.shrink(3)
    assert size.of(3) == 1
    assert size.room(1) > MOST_BYTES == size.room(2)
