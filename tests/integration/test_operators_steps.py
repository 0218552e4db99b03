"""What operators look at and move is read in steps, however much of it there is."""

import tracemalloc
from pathlib import Path
from typing import Final

from pspf.connectors.contract.limits import Limits
from pspf.connectors.sqlite import SQLiteBroker
from pspf.records import Cursor
from tests.faults.large import Meter
from tests.faults.valkey import Site
from tests.support.proxy import Proxy
from tests.support.servers import hall
from tests.support.workers import GROUP, HANDLER, TOPIC, key_in, new, numbered, own, read_all, settle, take

BYTES: Final = 400_000
COUNT: Final = 100
MOST: Final = 16_000_000
"""A quarter of what there is; 6 MB are usual."""
KEYS: Final = 5_000


async def test_records_are_repartitioned_a_few_megabytes_at_a_time(tmp_path: Path) -> None:
    async with SQLiteBroker(tmp_path / "broker.db", Limits(synchronous="NORMAL")) as broker:
        await broker.create_topic(TOPIC, partitions=2)
        keys = [key_in(0, 2), key_in(1, 2)]
        for begin in range(0, COUNT, 10):
            await broker.append(TOPIC, [new(b"%d" % n + b"x" * BYTES, keys[n % 2]) for n in range(begin, begin + 10)])
        await broker.append(TOPIC, numbered(3_000))
        tracemalloc.start()
        try:
            await broker.operations.repartition(TOPIC, 3)
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        found = [record for number in range(3) for record in await read_all(broker, TOPIC, number)]
        assert len(found) == COUNT + 3_000
        assert most < MOST, f"{most:,}"


async def test_very_many_values_of_state_are_counted_and_listed_in_pages(tmp_path: Path) -> None:
    shared = hall("valkey")
    database = shared.database_of(tmp_path)
    with Proxy(shared.server.port) as proxy:
        site = Site(shared.server, proxy, database)
        async with site.broker(direct=True) as broker:
            await broker.append(TOPIC, numbered(KEYS, keys=[f"k{n:05}" for n in range(KEYS)]))
            member = await own(broker)
            while records := await take(member.consumer, 1_000):
                state = {(record.raw_key or b"", "total"): b"1" for record in records}
                await member.consumer.commit(settle(records, state=state, position=records[-1].offset + 1))
            await member.consumer.release()
        with Meter(shared.server) as meter:
            async with Site(shared.server, meter, database).broker() as broker:
                listed = await broker.list_state(handler=HANDLER)
                assert [entry.key for entry in listed] == sorted({b"k%05d" % n for n in range(KEYS)})
                plan = await broker.operations.seek(Cursor(TOPIC, GROUP, HANDLER, 0), 0, keep_state=False, dry_run=True)
                assert plan.values == KEYS
        assert "SMEMBERS" not in meter.longest
        assert meter.longest["SSCAN"] < 40
