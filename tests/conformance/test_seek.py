"""Groups moved by an operator: what they get next, what is forgotten, who finds out."""

import pytest

from pspf.clock import ManualClock
from pspf.connectors.contract.broker import Broker
from pspf.errors import CommitFenced, NotFound, Refused
from pspf.records import Cursor, Record
from tests.support.brokers import World, leased, needs
from tests.support.workers import (
    GROUP,
    HANDLER,
    TOPIC,
    Member,
    numbered,
    own,
    read_cursor,
    read_lag,
    read_state,
    retry,
    settle,
    share,
    take,
    take_all,
    take_batch,
    values,
)

pytestmark = needs("seek")

MODES = pytest.mark.parametrize("handler", [None, HANDLER], ids=["shared", "ordered"])


async def join(broker: Broker, handler: str | None, group: str = GROUP) -> Member:
    """Join shared or ordered."""
    return await own(broker, handler=handler, group=group) if handler else await share(broker, group=group)


async def work(broker: Broker, handler: str | None, *, group: str = GROUP) -> list[Record]:
    """Handle all that there is, and leave."""
    member = await join(broker, handler, group)
    batch = await take_batch(member.consumer)
    state = {(b"k", "sum"): b"6"} if handler else None
    await member.consumer.commit(settle(batch.records, position=batch.end if handler else None, state=state))
    await member.session.close()
    return list(batch.records)


def cursor_of(handler: str | None) -> Cursor:
    return Cursor(TOPIC, GROUP, handler, 0)


@needs("entries")
@MODES
async def test_a_group_goes_on_where_it_was_put(broker: Broker, handler: str | None) -> None:
    await broker.append(TOPIC, numbered(6))
    records = await work(broker, handler)
    moved = await broker.operations.seek(cursor_of(handler), records[2].offset, keep_state=True)
    assert (moved.after, moved.unfinished, list(moved.consumers)) == (records[2].offset, 0, [])
    assert await read_lag(broker, cursor_of(handler)) == 4
    member = await join(broker, handler)
    assert values(await take_all(member.consumer)) == ["2", "3", "4", "5"]


@MODES
async def test_a_group_that_was_put_to_the_end_gets_new_records_only(broker: Broker, handler: str | None) -> None:
    await broker.append(TOPIC, numbered(3))
    member = await join(broker, handler)
    await member.session.close()
    _, partitions = await broker.read_topic(TOPIC)
    await broker.operations.seek(cursor_of(handler), partitions[0].next)
    assert await read_lag(broker, cursor_of(handler)) == 0
    await broker.append(TOPIC, numbered(1, start=3))
    member = await join(broker, handler)
    assert values(await take_all(member.consumer)) == ["3"]


@needs("entries")
@MODES
async def test_a_place_that_is_not_retained_becomes_the_nearest_one(broker: Broker, handler: str | None) -> None:
    await broker.append(TOPIC, numbered(3))
    records = await work(broker, handler)
    _, partitions = await broker.read_topic(TOPIC)
    far = await broker.operations.seek(cursor_of(handler), records[2].offset << 3, keep_state=True)
    assert far.after == partitions[0].next
    near = await broker.operations.seek(cursor_of(handler), 0, keep_state=True)
    assert near.after == partitions[0].first
    assert await read_lag(broker, cursor_of(handler)) == 3


@needs("retries")
@MODES
async def test_what_was_not_done_is_forgotten(broker: Broker, clock: ManualClock, handler: str | None) -> None:
    await broker.append(TOPIC, numbered(4, keys=["a"]))
    member = await join(broker, handler)
    batch = await take_batch(member.consumer)
    failed, held, *done = batch.records
    rows = [retry(failed, due_ms=clock.now_ms() + 60_000), *([retry(held, due_ms=None, attempts=0)] if handler else [])]
    await member.consumer.commit(settle(done, retries=rows, position=batch.end if handler else None))
    await member.session.close()
    assert await read_lag(broker, cursor_of(handler)) == 2
    _, partitions = await broker.read_topic(TOPIC)
    moved = await broker.operations.seek(cursor_of(handler), partitions[0].next)
    assert moved.unfinished == 2
    info = await read_cursor(broker, cursor_of(handler))
    assert (info.lag, info.pending, info.held_back, info.retries) == (0, 0, 0, 0)
    clock.advance(60_000)
    member = await join(broker, handler)
    assert values(await take_all(member.consumer)) == []
    if handler:
        assert member.consumer.lease is not None
        assert list(member.consumer.lease.held) == []


@MODES
async def test_a_group_in_use_is_not_moved_unless_forced(broker: Broker, handler: str | None) -> None:
    await broker.append(TOPIC, numbered(3))
    member = await join(broker, handler)
    with pytest.raises(Refused, match=member.session.id):
        await broker.operations.seek(cursor_of(handler), 0)
    batch = await take_batch(member.consumer)
    await member.consumer.commit(settle(batch.records, position=batch.end if handler else None))
    await broker.operations.seek(cursor_of(handler), 0, force=True)
    assert await read_lag(broker, cursor_of(handler)) == 3


@needs("ordered")
async def test_a_dead_worker_does_not_use_a_group(world: World) -> None:
    await world.broker.append(TOPIC, numbered(3))
    member = await own(await world.open_other())
    member.session.abandon()
    await world.expire_leases()
    await world.broker.operations.seek(cursor_of(HANDLER), 0)


@needs("ordered", "entries")
async def test_the_owners_commit_has_no_effect(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(3))
    member = await own(broker)
    batch = await take_batch(member.consumer)
    _, partitions = await broker.read_topic(TOPIC)
    await broker.operations.seek(cursor_of(HANDLER), partitions[0].next, force=True)
    with pytest.raises(CommitFenced):
        await member.consumer.commit(settle(batch.records, position=batch.end, state={(b"k", "n"): b"1"}))
    assert await broker.list_state() == []
    assert await read_lag(broker, cursor_of(HANDLER)) == 0


@needs("ordered", "leases")
async def test_an_owner_with_nothing_to_do_finds_out_by_its_poll(world: World) -> None:
    await world.broker.append(TOPIC, numbered(3))
    member = await own(world.broker)
    batch = await take_batch(member.consumer)
    await member.consumer.commit(settle(batch.records, position=batch.end))
    other = await world.open_other()
    await other.operations.seek(cursor_of(HANDLER), 0, force=True)
    with pytest.raises(CommitFenced):
        await take(member.consumer)
    await member.consumer.release()
    again = await leased(member.session).acquire(cursor_of(HANDLER))
    assert again is not None
    assert values(await take(again)) == ["0", "1", "2"]


@needs("shared")
async def test_a_shared_workers_commit_counts_for_nothing_that_was_moved_past(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(3))
    member = await share(broker)
    batch = await take_batch(member.consumer)
    await broker.operations.seek(cursor_of(None), batch.records[1].offset, force=True)
    lost = await member.consumer.commit(settle(batch.records))
    assert sorted(lost) == [record.offset for record in batch.records]
    assert values(await take_all(member.consumer)) == ["1", "2"]


@needs("ordered", "entries")
async def test_state_is_neither_kept_nor_forgotten_unless_told(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(3))
    records = await work(broker, HANDLER)
    with pytest.raises(Refused, match="1 values"):
        await broker.operations.seek(cursor_of(HANDLER), 0)
    assert await read_lag(broker, cursor_of(HANDLER)) == 0
    kept = await broker.operations.seek(cursor_of(HANDLER), records[1].offset, keep_state=True)
    assert kept.values == 1
    assert len(await broker.list_state()) == 1
    await broker.operations.seek(cursor_of(HANDLER), records[1].offset, keep_state=False)
    assert await broker.list_state() == []
    member = await own(broker)
    assert not await read_state(member.consumer, [b"k"])


@needs("entries")
@MODES
async def test_a_dry_run_says_what_would_be_and_changes_nothing(broker: Broker, handler: str | None) -> None:
    await broker.append(TOPIC, numbered(3))
    records = await work(broker, handler)
    planned = await broker.operations.seek(cursor_of(handler), records[1].offset, keep_state=False, dry_run=True)
    assert (planned.after, planned.values) == (records[1].offset, 1 if handler else 0)
    assert await read_lag(broker, cursor_of(handler)) == 0
    assert len(await broker.list_state()) == (1 if handler else 0)


@needs("entries")
async def test_other_groups_and_handlers_stay_where_they_are(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(3))
    for handler, group in ((None, GROUP), (HANDLER, GROUP), ("app.other", GROUP), (HANDLER, "g2")):
        await work(broker, handler, group=group)
    await broker.operations.seek(cursor_of(HANDLER), 0, keep_state=False)
    lags = {(i.cursor.group, i.cursor.handler): i.lag for i in await broker.list_cursors()}
    expected = {(GROUP, None): 0, (GROUP, HANDLER): 3, (GROUP, "app.other"): 0, ("g2", HANDLER): 0}
    assert lags == expected
    assert len(await broker.list_state()) == 2


async def test_a_cursor_that_is_not_there_is_not_found(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(1))
    for cursor in (cursor_of(None), Cursor("nowhere", GROUP, None, 0), Cursor(TOPIC, GROUP, None, 7)):
        with pytest.raises(NotFound):
            await broker.operations.seek(cursor, 0)
