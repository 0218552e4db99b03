"""The windows of a cursor on a server: nothing of them stays behind, whoever comes between."""

import asyncio
from dataclasses import replace

import pytest

from pspf import Count, Stream, TumblingWindow
from pspf.connectors.contract.backend import StreamingBackend
from pspf.errors import CommitFenced, CommitStale
from pspf.records import Commit, Cursor, EntryPlace
from tests.faults.valkey import SECONDS_MS, Site, scripts
from tests.integration.running import drain, read_events, running
from tests.support.brokers import leased
from tests.support.proxy import Loss
from tests.support.waiting import wait_until
from tests.support.windows import by_slot, with_windows
from tests.support.workers import GROUP, HANDLER, TOPIC, Member, numbered, own, settle, take_batch

CURSOR = Cursor(TOPIC, GROUP, HANDLER, 0)


def windows(states: dict[EntryPlace, bytes | None], *dropped: int) -> Commit:
    """Return a commit that does nothing else."""
    return with_windows(settle(), 5, b"{}", dropped, by_slot(states))


def window_keys(site: Site) -> list[bytes]:
    """Return the keys on the server that windows and their states have."""
    kinds = (b":ent:", b":order:", b":spaces:")
    return sorted(key for key in site.server.call("KEYS", "*", database=site.database) if any(k in key for k in kinds))


async def has_no_windows(member: Member) -> bool:
    return await member.consumer.read_progress() is None and not await member.consumer.list_namespaces()


async def test_a_commit_that_comes_between_leaves_nothing_behind_a_reset(site: Site) -> None:
    async with site.broker(direct=True) as broker, site.broker() as operator:
        await broker.append(TOPIC, numbered(2))
        member = await own(broker)
        await member.consumer.commit(windows({(0, b"a"): b"1"}))
        held = site.proxy.lose(scripts("seek"), Loss.HOLD)
        seek = asyncio.create_task(operator.operations.seek(CURSOR, 0, keep_state=False, force=True))
        await asyncio.to_thread(held.wait)
        await member.consumer.commit(windows({(10, b"a"): b"2"}, 0))  # as many slots as before, and others
        site.proxy.release(held)
        await seek
        assert window_keys(site) == []
        with pytest.raises(CommitFenced):
            await member.consumer.commit(windows({(10, b"b"): b"3"}))
        assert await has_no_windows(await own(broker))


async def test_a_worker_that_comes_between_leaves_nothing_behind_a_delete(site: Site) -> None:
    async with site.broker(direct=True) as broker, site.broker() as operator:
        await broker.append(TOPIC, numbered(2))
        member = await own(broker)
        await member.consumer.commit(windows({(0, b"a"): b"1", (10, b"a"): b"1"}))
        held = site.proxy.lose(scripts("delete_cursor"), Loss.HOLD)
        delete = asyncio.create_task(operator.operations.delete_group(GROUP, force=True))
        await asyncio.to_thread(held.wait)
        again = await leased(member.session).acquire(CURSOR)
        assert again is not None
        await again.commit(windows({(20, b"a"): b"2"}))
        site.proxy.release(held)
        await delete
        assert window_keys(site) == []
        assert await has_no_windows(await own(broker))


async def test_windows_go_with_the_stream_that_they_came_from(site: Site) -> None:
    async with site.broker() as broker:
        await broker.append(TOPIC, numbered(2))
        member = await own(broker)
        batch = await take_batch(member.consumer)
        states: dict[EntryPlace, bytes | None] = {(slot, b"a"): b"1" for slot in range(1_200)}
        await member.consumer.commit(replace(windows(states), position=batch.end))
        site.server.call("DEL", TOPIC, database=site.database)
        with pytest.raises(CommitStale):
            await member.consumer.commit(windows({(0, b"a"): b"2"}))
        again = await leased(member.session).acquire(CURSOR)
        assert again is not None
        assert await has_no_windows(Member(member.session, again))
        assert window_keys(site) == []


@pytest.mark.parametrize("way", ["delete", "repartition"])
async def test_no_key_of_a_window_outlives_its_topic(site: Site, way: str) -> None:
    async with site.broker() as broker:
        await broker.append(TOPIC, numbered(2))
        member = await own(broker)
        batch = await take_batch(member.consumer)
        await member.consumer.commit(replace(windows({(0, b"a"): b"1", (7, b""): b"1"}), position=batch.end))
        await member.session.close()
        assert len(window_keys(site)) == 5
        if way == "delete":
            await broker.operations.delete_topic(TOPIC, force=True)
        else:
            await broker.operations.repartition(TOPIC, 3, reset_state=True)
        assert window_keys(site) == []


async def test_a_dropped_slot_takes_both_of_its_keys_along(site: Site) -> None:
    async with site.broker() as broker:
        await broker.append(TOPIC, numbered(1))
        member = await own(broker)
        await member.consumer.commit(windows({(0, b"a"): b"1", (7, b"a"): b"1", (7, b"b"): b"1"}))
        await member.consumer.commit(windows({(7, b"a"): None, (7, b"b"): None}, 0))
        assert window_keys(site) == []


async def test_after_a_flush_windows_begin_anew_with_their_watermark(site: Site) -> None:
    backend = StreamingBackend(site.broker(), "ticks", "g")
    stream = Stream(backend)
    stream.window("ticks", TumblingWindow(10_000), emit="final", to="out", name="t")(Count())

    async def emit(*seconds: int) -> None:
        await stream.emit_many([{"key": "a", "timestamp": at} for at in seconds], "ticks")

    async with running(stream):
        await emit(1, 2, 1_000)
        await drain(stream, within_ms=SECONDS_MS)
        site.server.call("FLUSHDB", database=site.database)

        async def is_noticed() -> bool:
            return any(info.cursor.handler == "t" for info in await stream.broker.list_cursors())

        await wait_until(is_noticed, timeout_ms=SECONDS_MS)
        await emit(3, 4, 5, 20)  # late by the watermark that was before

        async def has_closed() -> bool:
            return len(await read_events(stream.broker, "out")) == 1

        await wait_until(has_closed, timeout_ms=SECONDS_MS)
        assert [event["value"] for event in await read_events(stream.broker, "out")] == [3]
        assert await read_events(stream.broker, "ticks-late") == []
