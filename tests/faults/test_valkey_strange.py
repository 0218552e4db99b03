"""What others put into the server, or take out of it, and names that are hard to quote."""

import asyncio
import json
from typing import Final

import pytest
from redis.crc import key_slot

from pspf import BaseEvent, Stream
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.contract.limits import Limits
from pspf.errors import BackendCorrupt, CommitFenced
from pspf.records import Cursor, parse_id
from pspf.subscription import Ordering
from tests.faults.runs import RUNS, TOPIC
from tests.faults.valkey import QUICK, SECONDS_MS, Site
from tests.integration.running import running, until
from tests.support.brokers import leased
from tests.support.waiting import wait_until
from tests.support.workers import (
    GROUP,
    HANDLER,
    new,
    numbered,
    own,
    read_all,
    read_cursor,
    read_state,
    retry,
    settle,
    share,
    take,
)

PENDING: Final = 10_000 if RUNS <= 2 else 100_000


async def test_entries_of_other_programs_are_events_with_flat_fields(site: Site) -> None:
    seen: list[dict[str, object]] = []
    stream = Stream(StreamingBackend(site.broker(), TOPIC, "flat"))

    @stream.subscribe(TOPIC)
    async def note(event: BaseEvent) -> None:
        seen.append(event.model_dump(exclude={"event_id", "event_type", "timestamp", "key"}))

    call = site.server.call
    call("XADD", TOPIC, "*", "sensor", "roof", "value", "1.5", database=site.database)
    call("XADD", TOPIC, "*", "data", '{"n": 1}', database=site.database)
    call("XADD", TOPIC, "*", "data", '{"n": 2}', "note", "beside", database=site.database)
    call("XADD", TOPIC, "*", b"\xff\xfe", b"\xff", database=site.database)
    call("XADD", TOPIC, "*", "data", "{broken", database=site.database)
    call("XADD", TOPIC, "*", "sensor", "cellar", "sensor", "twice", database=site.database)
    async with running(stream), site.broker(direct=True) as broker:

        async def nothing_is_left() -> bool:
            return [info.lag for info in await broker.list_cursors(group="flat")] == [0]

        await wait_until(nothing_is_left, timeout_ms=SECONDS_MS)
        letters = await broker.list_dead_letters()
    assert {"sensor": "roof", "value": "1.5"} in seen
    assert {"n": 1} in seen
    assert {"data": '{"n": 2}', "note": "beside"} in seen
    assert b"{broken" in [letter.record.value for letter in letters]
    assert len(seen) + len(letters) == 6


@pytest.mark.parametrize("ordering", ["none", "key"], ids=["shared", "ordered"])
async def test_a_stream_that_others_made_first_is_read_from_its_beginning(site: Site, ordering: Ordering) -> None:
    for n in range(5):
        site.server.call("XADD", TOPIC, "*", "data", json.dumps({"n": n}), database=site.database)
    seen: list[int] = []
    stream = Stream(StreamingBackend(site.broker(), TOPIC, "late"))

    @stream.subscribe(TOPIC, ordering=ordering)
    async def note(event: BaseEvent) -> None:
        seen.append(event.model_extra["n"] if event.model_extra else -1)

    async with running(stream):
        await until(lambda: len(seen) == 5, within_ms=SECONDS_MS)
    assert sorted(seen) == [0, 1, 2, 3, 4]


async def test_a_key_of_another_type_is_named_and_not_overwritten(site: Site) -> None:
    site.server.call("SET", TOPIC, "mine", database=site.database)
    async with site.broker() as broker:
        with pytest.raises(BackendCorrupt, match=f"key .{TOPIC}., which is a string of another program"):
            await broker.append(TOPIC, numbered(1))
        session = await broker.open_session()
        with pytest.raises(BackendCorrupt, match=f"key .{TOPIC}., which is a string of another program"):
            await session.register(TOPIC, GROUP, None)
        await session.close()
    assert site.server.call("GET", TOPIC, database=site.database) == b"mine"


async def test_records_that_were_deleted_while_pending_hold_nobody_up(site: Site) -> None:
    async with site.broker() as broker, site.broker(direct=True) as other:
        await broker.append(TOPIC, numbered(10))
        dying, consumer = await share(broker, topic=TOPIC)
        records = await take(consumer)
        for record in records[2:5]:
            assert site.server.call("XDEL", TOPIC, record.id, database=site.database) == 1
        dying.abandon()
        _, heir = await share(other, topic=TOPIC)
        got = {}

        async def has_the_others() -> bool:
            for record in await take(heir):
                got[record.offset] = record
            return len(got) == 7

        await wait_until(has_the_others, timeout_ms=SECONDS_MS)
        assert not await heir.commit(settle(got.values()))

        async def nothing_is_left() -> bool:
            await take(heir)
            return (await read_cursor(other, Cursor(TOPIC, GROUP, None, 0))).lag == 0

        await wait_until(nothing_is_left, timeout_ms=SECONDS_MS)
        assert site.server.call("XPENDING", TOPIC, GROUP, database=site.database)[0] == 0


@pytest.mark.parametrize("mode", ["ordered", "shared"])
async def test_a_retry_whose_record_was_deleted_holds_nobody_up(site: Site, mode: str) -> None:
    async with site.broker() as broker:
        await broker.append(TOPIC, numbered(2, keys=["a", "b"]))
        session, consumer = await (own if mode == "ordered" else share)(broker, topic=TOPIC)
        records = await take(consumer)
        position = records[-1].offset + 1 if consumer.lease else None
        await consumer.commit(settle(records[1:], retries=[retry(records[0], due_ms=0)], position=position))
        site.server.call("XDEL", TOPIC, records[0].id, database=site.database)
        try:
            assert not await take(consumer)
        except CommitFenced:  # an ordered cursor is to be taken anew
            taken = await leased(session).acquire(consumer.cursor)
            assert taken is not None
            assert not await take(taken)
        assert [info.lag for info in await broker.list_cursors()] == [0]
        await session.close()


async def test_many_records_of_a_dead_worker_are_taken_over_in_bounded_steps(site: Site) -> None:
    async with site.broker() as broker, site.broker(direct=True) as other:
        for start in range(0, PENDING, 1_000):
            await broker.append(TOPIC, numbered(1_000, start=start))
        dying, consumer = await share(broker, topic=TOPIC)
        held = 0
        while records := await take(consumer):
            held += len(records)
        assert held == PENDING
        dying.abandon()
        await broker.close()
        _, heir = await share(other, topic=TOPIC)
        seen: set[int] = set()

        async def has_all() -> bool:
            batch = await heir.poll(max_records=1_000, timeout_ms=100)
            if batch.suspect:
                await heir.intend([record.offset for record in batch.records])
            seen.update(record.offset for record in batch.records)
            await heir.commit(settle(batch.records))
            return len(seen) == PENDING

        begun = asyncio.get_running_loop().time()
        await wait_until(has_all, timeout_ms=60_000)
        print(f"{PENDING} taken over in {asyncio.get_running_loop().time() - begun:.1f} s")
        assert (await read_cursor(other, Cursor(TOPIC, GROUP, None, 0))).lag == 0


async def test_a_consumer_that_an_operator_removed_loses_what_it_held_and_works_on(site: Site) -> None:
    """XGROUP DELCONSUMER forgets pending entries: the group's records are lost to it, but no worker may hang."""
    async with site.broker() as broker:
        await broker.append(TOPIC, numbered(3))
        session, consumer = await share(broker, topic=TOPIC)
        records = await take(consumer)
        site.server.call("XGROUP", "DELCONSUMER", TOPIC, GROUP, session.id, database=site.database)
        assert sorted(await consumer.commit(settle(records))) == [record.offset for record in records]
        await broker.append(TOPIC, numbered(2, start=3))
        more = await take(consumer)
        assert len(more) == 2
        assert not await consumer.commit(settle(more))
        await session.close()


ODD: Final = {
    "braces": "a}b{c",
    "a tag": "{x}",
    "spaces": "a b  c",
    "NUL": "a\0b",
    "colons": "a:b:c%3A",
    "not ASCII": "ключ-鍵-🔑",
    "empty": "",
    "newlines": "a\r\n$3\r\nb",
}


@pytest.mark.parametrize("name", ODD.values(), ids=ODD)
async def test_odd_keys_and_handlers_stay_apart_and_in_their_partitions_slot(site: Site, name: str) -> None:
    async with site.broker(Limits(lease_ms=10_000)) as broker:
        await broker.create_topic(TOPIC, partitions=2)
        await broker.append(TOPIC, [new("1", name), new("2", f"{name}!"), new("3", name)])
        for handler in (f"h {name}", HANDLER):
            session = await broker.open_session()
            await session.register(TOPIC, GROUP, handler)
            for partition in range(2):
                consumer = await leased(session).acquire(Cursor(TOPIC, GROUP, handler, partition))
                assert consumer is not None
                records = await take(consumer)
                state = {(record.raw_key or b"", name): record.value + handler.encode() for record in records}
                position = max((record.offset + 1 for record in records), default=None)
                await consumer.commit(settle(records, position=position, state=dict(state)))
                for record in records:
                    key = record.raw_key or b""
                    assert (await read_state(consumer, [key]))[key] == {name: state[key, name]}
            await session.close()
        entries = await broker.list_state(group=GROUP)
        assert len({(entry.handler, entry.key, entry.name) for entry in entries}) == 4
        with site.server.client(database=site.database) as client:
            keys = {key for key in client.scan_iter(count=1_000) if key.startswith(b"pspf:{")}
        for key in keys:
            assert key_slot(key) in {key_slot(b"%b:%d" % (TOPIC.encode(), partition)) for partition in range(2)}, key
            stream = key[6 : key.index(b"}")]
            assert key_slot(key) == key_slot(stream), key


async def test_the_ids_of_records_are_the_servers_own(site: Site) -> None:
    async with site.broker(QUICK) as broker:
        stored = (await broker.append(TOPIC, numbered(1)))[0].id
        entries = site.server.call("XRANGE", TOPIC, "-", "+", database=site.database)
        assert [entry[0].decode() for entry in entries] == [stored]
        assert (await read_all(broker, TOPIC))[0].offset == parse_id(stored)[1]
