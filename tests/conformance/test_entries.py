"""The states of windows: they ride in the commit of their ordered cursor, whole or not at all."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from pspf.connectors.contract.broker import Broker
from pspf.errors import CommitFenced, Refused, TooManyEffects
from pspf.records import Commit, Cursor, EntryPlace, NewRecord
from tests.support.brokers import World, needs
from tests.support.windows import by_slot, with_windows
from tests.support.workers import (
    GROUP,
    HANDLER,
    TOPIC,
    Member,
    key_in,
    new,
    numbered,
    own,
    read_all,
    read_cursor,
    settle,
    take_batch,
)

pytestmark = needs("entries")

CURSOR = Cursor(TOPIC, GROUP, HANDLER, 0)


@pytest_asyncio.fixture
async def member(world: World) -> AsyncIterator[Member]:
    """The owner of a cursor with three records to read."""
    await world.broker.append(TOPIC, numbered(3))
    yield await own(world.broker)


def windows(
    states: dict[EntryPlace, bytes | None] | None = None,
    *,
    dropped: tuple[int, ...] = (),
    progress: bytes = b"{}",
    watermark_ms: int | None = 5,
    late: tuple[NewRecord, ...] = (),
) -> Commit:
    """Return a commit that does nothing else."""
    return with_windows(settle(), watermark_ms, progress, dropped, by_slot(states or {}), late)


async def test_a_new_cursor_has_no_windows(member: Member) -> None:
    consumer = member.consumer
    assert await consumer.read_progress() is None
    assert list(await consumer.list_namespaces()) == []
    assert dict(await consumer.read_entries([(0, b"k")])) == {}
    assert list(await consumer.scan_entries(0)) == []


@needs("ordered")
async def test_what_a_commit_wrote_is_there_for_the_next_owner(world: World, member: Member) -> None:
    places: dict[EntryPlace, bytes | None] = {(-10, b"a"): b"1", (-10, b"b\x00\xff"): b"2", (20, b""): b"3"}
    await member.consumer.commit(windows(places, progress=b"so far"))
    await member.session.close()
    consumer = (await own(await world.reopen())).consumer
    assert await consumer.read_progress() == b"so far"
    assert list(await consumer.list_namespaces()) == [-10, 20]
    assert dict(await consumer.read_entries([*places, (-10, b"c"), (21, b"")])) == places
    assert list(await consumer.scan_entries(-10)) == [(b"a", b"1"), (b"b\x00\xff", b"2")]
    assert (await read_cursor(world.broker, CURSOR)).watermark_ms == 5


async def test_a_state_is_replaced_and_deleted(member: Member) -> None:
    consumer = member.consumer
    await consumer.commit(windows({(0, b"a"): b"1", (0, b"b"): b"1"}))
    await consumer.commit(windows({(0, b"a"): b"2", (0, b"b"): None, (0, b"never"): None}))
    assert dict(await consumer.read_entries([(0, b"a"), (0, b"b")])) == {(0, b"a"): b"2"}


async def test_a_dropped_slot_goes_with_all_its_keys_and_may_come_anew(member: Member) -> None:
    consumer = member.consumer
    await consumer.commit(windows({(0, b"a"): b"1", (0, b"b"): b"1", (10, b"a"): b"1"}))
    await consumer.commit(windows({(0, b"c"): b"2"}, dropped=(0, 99)))
    assert list(await consumer.scan_entries(0)) == [(b"c", b"2")]
    assert list(await consumer.list_namespaces()) == [0, 10]
    await consumer.commit(windows(dropped=(0, 10)))
    assert list(await consumer.list_namespaces()) == []


async def test_a_slot_is_read_in_pages_in_the_order_of_keys(member: Member) -> None:
    consumer = member.consumer
    keys = sorted([b"", b"\x00", *(b"=%d" % n for n in range(2_500))])
    await consumer.commit(windows({(7, key): b"v" + key for key in keys}))
    await consumer.commit(windows({(6, b"z"): b"1", (8, b"a"): b"1"}))
    found: list[tuple[bytes, bytes]] = []
    while page := await consumer.scan_entries(7, after=found[-1][0] if found else None, max_entries=999):
        assert len(page) == min(999, len(keys) - len(found))
        found += page
    assert found == [(key, b"v" + key) for key in keys]


async def test_many_states_are_read_at_once(member: Member) -> None:
    places: dict[EntryPlace, bytes | None] = {(slot, b"=%d" % n): b"%d" % n for slot in range(3) for n in range(700)}
    await member.consumer.commit(windows(places))
    assert dict(await member.consumer.read_entries(list(places))) == places


@needs("ordered", "seek")
async def test_a_commit_of_a_moved_cursor_writes_no_windows(world: World, member: Member) -> None:
    await world.broker.operations.seek(CURSOR, 2, force=True)
    with pytest.raises(CommitFenced):
        await member.consumer.commit(windows({(0, b"a"): b"1"}))
    consumer = (await own(world.broker)).consumer
    assert (await consumer.read_progress(), list(await consumer.list_namespaces())) == (None, [])


async def test_a_commit_sent_again_counts_once(member: Member) -> None:
    commit = windows({(0, b"a"): b"1"}, late=(new("late"),))
    await member.consumer.commit(commit)
    await member.consumer.commit(windows({(0, b"a"): b"2"}))
    assert dict(await member.consumer.read_entries([(0, b"a")])) == {(0, b"a"): b"2"}


@needs("ordered")
async def test_late_records_go_to_the_companion_of_their_partition(broker: Broker) -> None:
    await broker.create_topic(TOPIC, partitions=3)
    key = key_in(0, 3)
    owner = await own(broker, partition=2)
    batch = await take_batch(owner.consumer)
    commit = windows(late=(new("one", key, timestamp_ms=77), new("two")))
    await owner.consumer.commit(replace(commit, position=batch.end))
    late = await read_all(broker, f"{TOPIC}-late", 2)
    assert [(record.value, record.raw_key) for record in late] == [(b"one", key.encode()), (b"two", None)]
    assert late[0].timestamp_ms == 77
    assert (await broker.read_topic(f"{TOPIC}-late"))[0].partitions == 3


@needs("ordered")
async def test_two_handlers_on_one_topic_share_no_windows(world: World, member: Member) -> None:
    await member.consumer.commit(windows({(0, b"a"): b"1"}))
    other = await own(world.broker, handler="app.other")
    assert await other.consumer.read_progress() is None
    assert dict(await other.consumer.read_entries([(0, b"a")])) == {}


async def test_too_many_states_are_refused_whole(member: Member) -> None:
    places: dict[EntryPlace, bytes | None] = {(n, b"k"): b"" for n in range(60_000)}
    with pytest.raises(TooManyEffects):
        await member.consumer.commit(windows(places))
    assert list(await member.consumer.list_namespaces()) == []


@needs("ordered", "seek")
async def test_seek_refuses_to_leave_windows_behind_unless_told(world: World, member: Member) -> None:
    await member.consumer.commit(windows({(0, b"a"): b"1"}))
    await member.session.close()
    with pytest.raises(Refused, match="reset-state"):
        await world.broker.operations.seek(CURSOR, 1)
    await world.broker.operations.seek(CURSOR, 1, keep_state=True)
    member = await own(world.broker)
    assert list(await member.consumer.list_namespaces()) == [0]
    await member.session.close()
    await world.broker.operations.seek(CURSOR, 1, keep_state=False)
    member = await own(world.broker)
    assert (await member.consumer.read_progress(), list(await member.consumer.list_namespaces())) == (None, [])


@needs("ordered", "seek")
async def test_a_deleted_group_takes_its_windows_along(world: World, member: Member) -> None:
    await member.consumer.commit(windows({(0, b"a"): b"1"}))
    await member.session.close()
    await world.broker.operations.delete_group(GROUP)
    member = await own(world.broker)
    assert (await member.consumer.read_progress(), list(await member.consumer.list_namespaces())) == (None, [])


@needs("ordered")
async def test_windows_are_seen_from_outside_with_their_watermark(world: World, member: Member) -> None:
    states: dict[EntryPlace, bytes | None] = {(20, b"b"): b"2", (-10, b"a"): b"1", (20, b""): b"3"}
    await member.consumer.commit(windows(states, progress=b"so far", watermark_ms=7))
    other = await own(world.broker, handler="app.other")
    await other.consumer.commit(windows(watermark_ms=None))
    await own(world.broker, handler="app.no-windows")
    looker = await world.open_other()
    found = await looker.list_operators()
    assert [(one.cursor.handler, one.watermark_ms, one.progress, list(one.namespaces)) for one in found] == [
        ("app.other", None, b"{}", []),
        (HANDLER, 7, b"so far", [-10, 20]),
    ]
    assert [one.cursor for one in await looker.list_operators(handler=HANDLER, group=GROUP, topic=TOPIC)] == [CURSOR]
    assert list(await looker.list_operators(handler="total")) == []
    assert list(await looker.list_operators(topic="nowhere")) == []
    assert dict(await looker.read_entries(CURSOR, [*states, (0, b"a")])) == states
    assert list(await looker.scan_entries(CURSOR, 20)) == [(b"", b"3"), (b"b", b"2")]
    assert list(await looker.scan_entries(CURSOR, 20, after=b"", max_entries=1)) == [(b"b", b"2")]
    assert list(await looker.scan_entries(Cursor("nowhere", GROUP, HANDLER, 0), 20)) == []


@needs("ordered", "repartition")
async def test_a_topic_with_open_windows_is_repartitioned_without_them_and_only_if_told(
    world: World, member: Member
) -> None:
    batch = await take_batch(member.consumer)
    await member.consumer.commit(replace(windows({(0, b"a"): b"1"}), done=(), position=batch.end))
    await member.session.close()
    with pytest.raises(Refused, match="reset-state"):
        await world.broker.operations.repartition(TOPIC, 2)
    await world.broker.operations.repartition(TOPIC, 2, reset_state=True)
    assert list(await world.broker.list_operators()) == []
    consumer = (await own(world.broker)).consumer
    assert (await consumer.read_progress(), list(await consumer.list_namespaces())) == (None, [])


@needs("ordered", "trim")
async def test_a_topic_made_again_has_no_windows_of_the_old_one(world: World, member: Member) -> None:
    await member.consumer.commit(windows({(0, b"a"): b"1"}))
    await member.session.close()
    await world.broker.operations.delete_topic(TOPIC, force=True)
    await world.broker.append(TOPIC, numbered(3))
    consumer = (await own(world.broker)).consumer
    assert (await consumer.read_progress(), list(await consumer.list_namespaces())) == (None, [])
    assert list(await world.broker.list_operators()) == []
