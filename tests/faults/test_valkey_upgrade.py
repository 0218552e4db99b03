"""A database of an older format: its state and windows become entries, in steps, whatever comes between."""

import asyncio
from contextlib import suppress
from typing import Final

import pytest
from redis.exceptions import ResponseError

from pspf.connectors.contract.broker import Broker
from pspf.connectors.valkey.connection.format import FORMAT
from pspf.connectors.valkey.consume import upgrade
from pspf.connectors.valkey.log.cursors import find_cursors
from pspf.errors import BackendUnavailable, CommitFenced
from pspf.records import STATE, EntryPlace, StateKey
from tests.faults.large import Meter
from tests.faults.valkey import Site, scripts
from tests.support.proxy import Loss
from tests.support.windows import by_slot, with_windows
from tests.support.workers import GROUP, HANDLER, TOPIC, numbered, own, read_state, settle

VALUES: Final[dict[StateKey, bytes]] = {
    (b"", "n"): b"0",
    (b"a", "n"): b"1",
    (b"a", "ü"): b'"two"',
    (b"a\0", "n"): b"3",
    (b"a\0\xff%", ""): b"4",
    (b"\xff", "n"): b"5",
}
STATES: Final[dict[EntryPlace, bytes | None]] = {(-10, b"=a"): b"1", (20, b""): b"2", (20, b"=b"): b"3"}
KEYS, NAMES = 5_000, 20_000


def key(kind: str, *parts: bytes) -> bytes:
    return b":".join((f"pspf:{{{TOPIC}}}:{kind}:{GROUP}:{HANDLER}".encode(), *parts))


def make_older(site: Site, values: dict[StateKey, bytes], slots: set[int], version: int = 3) -> None:
    """Put state where older formats have it, and windows that there are under their names of then."""
    with site.server.client(database=site.database) as client:
        pipe = client.pipeline(transaction=False)
        for (record_key, name), value in values.items():
            pipe.sadd(key("keys"), record_key)
            pipe.hset(key("st", record_key), name, value)
        for slot in slots:
            number = b"%d" % slot
            pipe.sadd(key("slots"), slot)
            pipe.srem(key("spaces"), slot)
            pipe.rename(key("ent", number), key("win", number))
            pipe.rename(key("order", number), key("wkeys", number))
        pipe.set("pspf:format", version)
        pipe.execute()


def old_keys(site: Site) -> list[bytes]:
    """Return where state and windows of an older format are; what seals a cursor is a string."""
    with site.server.client(database=site.database) as client:
        kinds = ("keys", "keys-old", "st", "slots", "slots-old", "win", "wkeys")
        found = [found for kind in kinds for found in client.scan_iter(key(kind) + b"*", count=1_000)]
        return [each for each in found if client.type(each) != b"string"]


async def fill(site: Site) -> None:
    async with site.broker(direct=True) as broker:
        await broker.append(TOPIC, numbered(3))
        member = await own(broker)
        await member.consumer.commit(with_windows(settle(), 5, b"so far", (), by_slot(STATES)))
        await member.session.close()


async def look(broker: Broker) -> dict[StateKey, bytes]:
    return {(entry.key, entry.name): entry.value for entry in await broker.list_state(handler=HANDLER, group=GROUP)}


def much() -> dict[StateKey, bytes]:
    """Return state of many record keys, and of one with many names."""
    return {(b"k%d" % n, "n"): b"%d" % n for n in range(KEYS)} | {(b"one", f"n{n}"): b"%d" % n for n in range(NAMES)}


@pytest.mark.parametrize("version", [1, 2, 3])
async def test_state_and_windows_of_an_older_format_are_those_of_the_new_one(site: Site, version: int) -> None:
    await fill(site)
    make_older(site, VALUES, {slot for slot, _ in STATES}, version)
    assert old_keys(site)
    async with site.broker() as broker:
        assert await look(broker) == VALUES
        consumer = (await own(broker)).consumer
        assert await read_state(consumer, [b"a\0"]) == {b"a\0": {"n": b"3"}}
        assert list(await consumer.list_namespaces()) == [-10, 20, STATE]
        assert await consumer.read_entries(list(STATES)) == STATES
        assert list(await consumer.scan_entries(20)) == [(b"", b"2"), (b"=b", b"3")]
        assert await consumer.read_progress() == b"so far"
    assert old_keys(site) == []
    assert site.server.call("GET", "pspf:format", database=site.database) == b"%d" % FORMAT


async def test_very_much_of_an_older_format_is_moved_in_steps(site: Site) -> None:
    await fill(site)
    values = much()
    make_older(site, values, {slot for slot, _ in STATES})
    with Meter(site.server) as meter:
        async with Site(site.server, meter, site.database).broker() as broker:
            found = await look(broker)
    assert found == values
    steps = {name: ms for name, ms in meter.longest.items() if name.startswith("upgrade")}
    assert set(steps) == {"upgrade_seal", "upgrade_state", "upgrade_windows"}
    assert max(steps.values()) < 40, steps  # twice what is aimed at: the processor's own speed is not ours


@pytest.mark.parametrize("loss", [Loss.REQUEST, Loss.REPLY], ids=str)
@pytest.mark.parametrize("script", ["upgrade_state", "upgrade_windows"])
async def test_an_update_that_was_interrupted_is_done_by_the_next(site: Site, script: str, loss: Loss) -> None:
    await fill(site)
    values = much()
    make_older(site, values, {slot for slot, _ in STATES})
    fault = site.proxy.lose(scripts(script), loss, nth=4 if script == "upgrade_state" else 1)
    with suppress(BackendUnavailable):
        await site.broker().connect()
    fault.wait()
    if site.server.call("GET", "pspf:format", database=site.database) == b"3":
        assert old_keys(site) or script == "upgrade_windows"
    async with site.broker() as broker:
        assert await look(broker) == values
        assert await (await own(broker)).consumer.read_entries(list(STATES)) == STATES
    assert old_keys(site) == []


async def test_several_may_update_at_once(site: Site) -> None:
    await fill(site)
    values = much()
    make_older(site, values, {slot for slot, _ in STATES})
    brokers = [site.broker() for _ in range(3)]
    await asyncio.gather(*(broker.connect() for broker in brokers))
    assert await look(brokers[0]) == values
    assert await (await own(brokers[1])).consumer.read_entries(list(STATES)) == STATES
    for broker in brokers:
        await broker.close()
    assert old_keys(site) == []


async def test_a_worker_that_was_silent_during_the_update_keeps_nothing_in_the_old_place(site: Site) -> None:
    async with site.broker() as older:
        await older.append(TOPIC, numbered(3))
        member = await own(older)
        make_older(site, VALUES, set())
        with site.server.client(database=site.database) as client:
            client.delete(f"pspf:{{{TOPIC}}}:live:{member.session.id}")  # stopped for longer than its lease
        async with site.broker() as broker:
            with pytest.raises(CommitFenced):
                await member.consumer.commit(settle(position=2))
            with site.server.client(database=site.database) as client:
                # Its next commit, under a lease of its own again, adds to these sets: the server refuses it.
                for kind in ("keys", "slots"):
                    with pytest.raises(ResponseError, match="WRONGTYPE"):
                        client.sadd(key(kind), "a")
                    assert client.ttl(key(kind)) > 86_400
            assert await look(broker) == VALUES


async def test_who_updates_beside_a_worker_of_now_leaves_it_its_lease(site: Site) -> None:
    await fill(site)
    make_older(site, VALUES, {slot for slot, _ in STATES})
    async with site.broker() as broker:
        consumer = (await own(broker)).consumer
        for cursor, keys in await find_cursors(broker._core, None, None):  # as one does that has read the format before
            assert cursor.handler == HANDLER
            await upgrade.bring_up_to_date(broker._core.lane_for(keys.meta), keys)
        await consumer.commit(settle(position=2, state={(b"b", "n"): b"6"}))
        assert await look(broker) == {**VALUES, (b"b", "n"): b"6"}


async def test_state_that_was_kept_after_a_seal_ran_out_is_moved_with_the_rest(site: Site) -> None:
    await fill(site)
    make_older(site, VALUES, set())
    with site.server.client(database=site.database) as client:
        client.rename(key("keys"), key("keys-old"))
        client.sadd(key("keys"), b"late")
        client.hset(key("st", b"late"), "n", b"7")
    async with site.broker() as broker:
        assert await look(broker) == {**VALUES, (b"late", "n"): b"7"}
    assert old_keys(site) == []


async def test_nothing_is_updated_under_workers_of_an_older_version(site: Site) -> None:
    async with site.broker() as older:
        await older.append(TOPIC, numbered(3))
        member = await own(older)
        make_older(site, VALUES, set())
        with pytest.raises(BackendUnavailable, match=rf"holds format 3, .*older PSPF.*{member.session.id}"):
            await site.broker().connect()
        assert len(old_keys(site)) == 1 + len({record_key for record_key, _ in VALUES})
        await member.session.close()
        async with site.broker() as broker:
            assert await look(broker) == VALUES
