"""What is much is done in steps: a server does nothing else while a script runs."""

from typing import Final

import pytest

from pspf.connectors.contract.limits import Limits
from pspf.records import Cursor
from tests.faults.valkey import Site
from tests.support.proxy import Proxy
from tests.support.servers import hall
from tests.support.workers import GROUP, HANDLER, TOPIC, new, numbered, own, read_cursor, retry, settle, share, take
from tests.support.workers import values as values_of

MANY: Final = 3_000
FAR_MS: Final = 1 << 42
LARGE: Final = b"x" * 900_000


async def test_a_large_emit_is_stored_in_steps_and_in_order(site: Site) -> None:
    shared = hall("valkey")
    with Proxy(shared.server.port, keeps=True) as proxy:
        async with Site(shared.server, proxy, site.database).broker() as broker:
            places = await broker.append(TOPIC, numbered(9_000))
            assert [place.offset for place in places] == sorted({place.offset for place in places})
            large = await broker.append(TOPIC, [new(LARGE) for _ in range(9)])
            assert len(large) == 9
    sizes = [len(command) for command in proxy.seen if command[0] in (b"EVAL", b"EVALSHA")]
    assert max(sizes) < 2_100
    sent = [sum(map(len, command)) for command in proxy.seen]
    assert max(sent) < 5 << 20
    async with site.broker() as broker:
        assert values_of(await broker.read(TOPIC, 0, offset=0, max_records=9_000)) == [str(n) for n in range(9_000)]


@pytest.mark.parametrize("handler", [None, HANDLER])
async def test_trimming_stops_at_the_first_of_very_many_that_wait(site: Site, handler: str | None) -> None:
    """More wait than one script looks through; what is done before them goes, and they and what is behind stay."""
    limits = Limits(retention_ms=0)
    async with site.broker(limits) as broker:
        await broker.append(TOPIC, numbered(MANY))
        member = await (own(broker) if handler else share(broker))
        first = await take(member.consumer, 700)
        end = first[-1].offset + 1 if handler else None
        await member.consumer.commit(settle(first, position=end))
        while records := await take(member.consumer, 1_000):
            failed = [retry(record, due_ms=FAR_MS) for record in records]
            end = records[-1].offset + 1 if handler else None
            await member.consumer.commit(settle(retries=failed, position=end))
        kept = MANY - 700
        keys = broker._core.topics.find_known(TOPIC).partitions[0]  # type: ignore[union-attr]
        for _ in range(20):
            broker._core.trimmer.look_again(keys)
            await broker._core.trimmer.trim_if_due(broker._core.commands, TOPIC, 0)
        assert site.server.call("XLEN", TOPIC, database=site.database) == kept
        info = await read_cursor(broker, Cursor(TOPIC, GROUP, handler, 0))
        assert (info.committed, info.lag) == (None, kept)
        await broker.append(TOPIC, numbered(1))
        assert await read_lags(broker) == [kept + 1]


async def read_lags(broker: object) -> list[int | None]:
    return [info.lag for info in await broker.list_cursors(topic=TOPIC)]  # type: ignore[attr-defined]


async def test_the_last_done_record_is_found_before_very_many_that_wait(site: Site) -> None:
    async with site.broker() as broker:
        await broker.append(TOPIC, numbered(MANY))
        member = await share(broker)
        first = await take(member.consumer, 10)
        await member.consumer.commit(settle(first))
        while records := await take(member.consumer, 1_000):
            await member.consumer.commit(settle(retries=[retry(record, due_ms=FAR_MS) for record in records]))
        info = await read_cursor(broker, Cursor(TOPIC, GROUP, None, 0))
        assert (info.committed, info.lag) == (first[-1].offset, MANY - 10)


async def test_large_records_that_were_given_back_are_taken_a_few_at_a_time(site: Site) -> None:
    async with site.broker() as broker:
        await broker.append(TOPIC, [new(LARGE) for _ in range(30)])
        member = await share(broker)
        assert len(await take(member.consumer)) == 30
        await member.consumer.release()
        heir = await share(broker)
        taken: list[int] = []
        while records := await take(heir.consumer):
            assert len(records) <= 10
            taken += [record.offset for record in records]
            await heir.consumer.commit(settle(records))
        assert len(taken) == len(set(taken)) == 30
