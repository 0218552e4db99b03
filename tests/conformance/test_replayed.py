"""Dead letters replayed after their records were trimmed: their group gets them again, and no other."""

from collections.abc import Sequence

import pytest

from pspf.clock import ManualClock
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.cursors import Consumer
from pspf.connectors.contract.operations import Waiting
from pspf.engine.key_order import KeyOrder, Verdict
from pspf.errors import NotFound
from pspf.records import Batch, Cursor, NewRecord, Record
from tests.support.brokers import World, needs
from tests.support.workers import (
    GROUP,
    HANDLER,
    TOPIC,
    Member,
    letter,
    new,
    numbered,
    offsets,
    own,
    read_all,
    read_cursor,
    read_lag,
    retry,
    settle,
    share,
    take_all,
    take_batch,
    values,
)

pytestmark = needs("replay")

MODES = pytest.mark.parametrize("handler", [None, HANDLER], ids=["shared", "ordered"])
FIRST = new("a", "k", raw_headers=b'{"h":"1"}', timestamp_ms=7)


async def join(broker: Broker, handler: str | None, group: str = GROUP) -> Member:
    """Join shared or ordered."""
    return await own(broker, handler=handler, group=group) if handler else await share(broker, group=group)


async def finish(consumer: Consumer, batch: Batch, *, dead: Sequence[Record] = ()) -> None:
    """Settle a batch: some are given up, the others are done."""
    letters = [letter(record, handler=consumer.cursor.handler or "app.bill") for record in dead]
    done = [record for record in batch.records if record not in dead]
    position = batch.end if consumer.lease else None
    assert not await consumer.commit(settle(done, dead=letters, position=position))


async def finish_all(consumer: Consumer) -> list[str]:
    """Handle all that there is; return the values."""
    found: list[str] = []
    while (batch := await take_batch(consumer)).records:
        found += values(batch.records)
        await finish(consumer, batch)
    return found


async def bury_and_trim(broker: Broker, handler: str | None, *records: NewRecord, dead: int = 1) -> list[Record]:
    """Have a group give up the first `dead` records; trim all. Another group has done them all."""
    await broker.append(TOPIC, records)
    failing, other = await join(broker, handler), await join(broker, handler, "other")
    batch = await take_batch(failing.consumer)
    await finish(failing.consumer, batch, dead=batch.records[:dead])
    await finish_all(other.consumer)
    for member in (failing, other):
        await member.session.close()
    assert (await broker.operations.trim(TOPIC, 0, max_records=0)).records == len(records)
    return list(batch.records[:dead])


async def replay_all(broker: Broker) -> int:
    """Replay all dead letters; return how many."""
    return await broker.replay_dead_letters(await broker.list_dead_letters())


@needs("trim")
@MODES
async def test_a_trimmed_record_is_replayed_for_the_group_that_gave_it_up_and_no_other(
    broker: Broker, handler: str | None
) -> None:
    (gone,) = await bury_and_trim(broker, handler, FIRST, new("b", "k"))
    bounds = await broker.read_topic(TOPIC)
    assert await replay_all(broker) == 1
    assert list(await broker.list_dead_letters()) == []
    assert await broker.read_topic(TOPIC) == bounds, "nothing is appended"
    assert await read_all(broker, TOPIC) == []
    others = [await join(broker, handler, "other"), await join(broker, handler, "made-later")]
    for member in others:
        assert await take_all(member.consumer) == []
    again = await take_all((await join(broker, handler)).consumer)
    assert again == [gone]
    assert (again[0].raw_key, again[0].value, again[0].raw_headers) == (b"k", b"a", b'{"h":"1"}')
    assert (again[0].timestamp_ms, again[0].attempts) == (7, 0)


@needs("pending", "trim")
@MODES
async def test_a_replayed_record_comes_once_and_is_done(broker: Broker, handler: str | None) -> None:
    await bury_and_trim(broker, handler, FIRST)
    letters = await broker.list_dead_letters()
    assert await broker.replay_dead_letters(letters) == 1
    assert await broker.replay_dead_letters(letters) == 0, "the letter is gone"
    cursor = Cursor(TOPIC, GROUP, handler, 0)
    assert await read_lag(broker, cursor) == 1
    member = await join(broker, handler)
    assert await finish_all(member.consumer) == ["a"]
    assert await read_lag(broker, cursor) == 0
    await member.session.close()
    assert await take_all((await join(broker, handler)).consumer) == []
    assert list(await broker.operations.list_pending(GROUP)) == []


@needs("retries", "trim")
@MODES
async def test_a_replayed_record_that_fails_again_is_retried_and_given_up_with_its_bytes(
    broker: Broker, clock: ManualClock, handler: str | None
) -> None:
    (gone,) = await bury_and_trim(broker, handler, FIRST)
    await replay_all(broker)
    member = await join(broker, handler)
    for attempts in (1, 2):
        batch = await take_batch(member.consumer)
        again = retry(batch.records[0], due_ms=clock.now_ms() + 1_000, attempts=attempts)
        position = batch.end if handler else None
        assert not await member.consumer.commit(settle(retries=[again], position=position))
        assert (await take_batch(member.consumer)).records == ()
        clock.advance(1_000)
    batch = await take_batch(member.consumer)
    assert list(batch.records) == [gone._replace(attempts=2)]
    await finish(member.consumer, batch, dead=batch.records)
    (stored,) = await broker.list_dead_letters()
    assert (stored.original_id, stored.record.value, stored.record.raw_key) == (gone.id, b"a", b"k")
    assert await replay_all(broker) == 1
    await member.session.close()
    assert await take_all((await join(broker, handler)).consumer) == [gone]


@needs("retries", "trim")
@MODES
async def test_retention_goes_on_while_a_replayed_record_waits(
    broker: Broker, clock: ManualClock, handler: str | None
) -> None:
    await broker.create_topic(TOPIC, retention_ms=0)
    await bury_and_trim(broker, handler, FIRST)
    await replay_all(broker)
    others = [await join(broker, handler, "other"), await join(broker, handler)]
    batch = await take_batch(others[1].consumer)
    later = retry(batch.records[0], due_ms=clock.now_ms() + 3_600_000)
    await others[1].consumer.commit(settle(retries=[later], position=batch.end if handler else None))
    for n in range(4):
        clock.advance(2_000)
        await broker.append(TOPIC, numbered(1, start=n))
        for member in others:
            assert await finish_all(member.consumer) == [str(n)]
    assert {"0", "1"}.isdisjoint(values(await read_all(broker, TOPIC))), "it does not hold the topic"
    clock.advance(3_600_000)
    assert values(await take_all(others[1].consumer)) == ["a"], "nor does it go with the topic"


@needs("trim")
@MODES
async def test_an_operators_trim_is_not_held_by_a_replayed_record_and_leaves_it(
    broker: Broker, handler: str | None
) -> None:
    await bury_and_trim(broker, handler, FIRST)
    await replay_all(broker)
    member = await join(broker, handler)
    in_hand = await take_batch(member.consumer)
    await broker.append(TOPIC, numbered(3))
    for member_of in ("other",):
        await finish_all((await join(broker, handler, member_of)).consumer)
    planned = await broker.operations.trim(TOPIC, 0, max_records=1, drop_unread=True, dry_run=True)
    assert [loss.records for loss in planned.lost] == [2], "it is none of the topic's"
    trimmed = await broker.operations.trim(TOPIC, 0, max_records=1, drop_unread=True)
    assert (trimmed.records, [loss.records for loss in trimmed.lost]) == (2, [2])
    if handler is None:
        await finish(member.consumer, in_hand)
        assert await finish_all(member.consumer) == ["2"]
    else:
        await member.session.close()
        assert await finish_all((await join(broker, handler)).consumer) == ["a", "2"]
    assert (await broker.operations.trim(TOPIC, 0, max_records=0)).records == 1


@needs("pending", "trim")
@MODES
async def test_a_waiting_replayed_record_is_listed_and_counted_and_can_be_dropped(
    broker: Broker, handler: str | None
) -> None:
    (gone,) = await bury_and_trim(broker, handler, FIRST, new("b"))
    cursor = Cursor(TOPIC, GROUP, handler, 0)
    before = await read_cursor(broker, cursor)
    await replay_all(broker)
    info = await read_cursor(broker, cursor)
    assert (info.retries, info.pending, info.held_back, info.lag) == (1, 0, 0, 1)
    assert info.committed == before.committed, "the topic was done up to there before"
    (listed,) = await broker.operations.list_pending(GROUP)
    assert (listed.cursor, listed.offset, listed.key) == (cursor, gone.offset, b"k")
    assert (listed.waiting, listed.attempts) == (Waiting.RETRY, 0)
    assert await broker.operations.drop_pending([listed]) == 1
    assert await read_lag(broker, cursor) == 0
    assert await take_all((await join(broker, handler)).consumer) == []


@needs("shared", "pending", "trim")
async def test_a_replayed_record_in_hand_is_listed_and_counted_and_can_be_dropped(broker: Broker) -> None:
    (gone,) = await bury_and_trim(broker, None, FIRST)
    await replay_all(broker)
    member = await share(broker)
    batch = await take_batch(member.consumer)
    cursor = Cursor(TOPIC, GROUP, None, 0)
    info = await read_cursor(broker, cursor)
    assert (info.retries, info.pending, info.lag) == (0, 1, 1)
    (listed,) = await broker.operations.list_pending(GROUP)
    assert (listed.offset, listed.key, listed.waiting) == (gone.offset, b"k", Waiting.IN_HAND)
    assert [info.pending for info in await broker.list_consumers(group=GROUP)] == [1]
    assert await take_all((await share(broker)).consumer) == [], "it is in one worker's hands"
    assert await broker.operations.drop_pending([listed]) == 1
    assert list(await member.consumer.commit(settle(batch.records))) == [gone.offset]
    assert await read_lag(broker, cursor) == 0


@needs("shared", "trim")
async def test_a_replayed_record_that_is_given_back_is_anothers(broker: Broker) -> None:
    (gone,) = await bury_and_trim(broker, None, FIRST)
    await replay_all(broker)
    first = await share(broker)
    assert await take_all(first.consumer) == [gone]
    await first.consumer.release()
    second = await share(broker)
    batch = await take_batch(second.consumer)
    assert list(batch.records) == [gone]
    await finish(second.consumer, batch)
    assert await read_lag(broker, Cursor(TOPIC, GROUP, None, 0)) == 0


@needs("crash_counts", "trim")
@MODES
async def test_a_replayed_record_outlives_the_worker_that_had_it(world: World, handler: str | None) -> None:
    (gone,) = await bury_and_trim(world.broker, handler, FIRST)
    await replay_all(world.broker)
    dead = await join(world.broker, handler)
    batch = await take_batch(dead.consumer)
    assert list(batch.records) == [gone]
    dead.session.abandon()
    await world.expire_leases()
    heir = await join(await world.open_other(), handler)
    again = await take_batch(heir.consumer)
    assert (list(again.records), again.suspect) == ([gone], True)
    if handler is None:
        assert list(await dead.consumer.commit(settle(batch.records))) == [gone.offset]
    await heir.consumer.intend(offsets(again.records))
    await finish(heir.consumer, again)
    assert await read_lag(world.broker, Cursor(TOPIC, GROUP, handler, 0)) == 0


@needs("shared", "crash_counts", "trim")
async def test_a_replayed_record_that_ends_its_workers_is_charged(world: World) -> None:
    await bury_and_trim(world.broker, None, FIRST)
    await replay_all(world.broker)
    for crashes in (0, 0, 1):
        member = await share(await world.open_other())
        batch = await take_batch(member.consumer)
        assert (values(batch.records), batch.crashes) == (["a"], crashes)
        if batch.suspect:
            await member.consumer.intend(offsets(batch.records))
        member.session.abandon()
        await world.expire_leases()


@needs("shared", "retries", "trim")
async def test_replayed_and_stored_records_are_settled_together(broker: Broker, clock: ManualClock) -> None:
    gone = await bury_and_trim(broker, None, FIRST, new("b"), new("c"), dead=3)
    await replay_all(broker)
    await broker.append(TOPIC, numbered(3))
    member = await share(broker)
    records = await take_all(member.consumer)
    assert sorted(values(records)) == ["0", "1", "2", "a", "b", "c"]
    by_value = {record.value.decode(): record for record in records}
    again = [retry(by_value[value], due_ms=clock.now_ms()) for value in ("b", "1")]
    commit = settle([by_value[value] for value in ("a", "0")], retries=again)
    assert not await member.consumer.commit(commit)
    await member.consumer.commit(commit)  # sent again, it takes effect once
    left = await take_all(member.consumer)
    assert sorted(values(left)) == ["1", "b"]
    assert [record.attempts for record in left] == [1, 1]
    assert not await member.consumer.commit(settle([*left, by_value["c"], by_value["2"]], whole=True))
    assert await read_lag(broker, Cursor(TOPIC, GROUP, None, 0)) == 0
    assert list(await member.consumer.commit(settle([gone[0]]))) == [gone[0].offset], "it is nobody's any more"


@needs("shared", "pending", "trim")
async def test_a_batch_that_stands_together_gives_its_replayed_records_back(world: World) -> None:
    await bury_and_trim(world.broker, None, FIRST, new("b"), dead=2)
    await replay_all(world.broker)
    member = await share(world.broker)
    batch = await take_batch(member.consumer)
    listed = await world.broker.operations.list_pending(GROUP)
    assert await world.broker.operations.drop_pending(listed[:1]) == 1
    lost = await member.consumer.commit(settle(batch.records, whole=True))
    assert list(lost) == offsets(batch.records)
    assert values(await take_all((await share(world.broker)).consumer)) == ["b"]


@needs("ordered", "trim")
async def test_later_records_of_its_key_wait_behind_a_replayed_one(broker: Broker, clock: ManualClock) -> None:
    gone = await bury_and_trim(broker, HANDLER, new("a", "k"), new("b", "k"), new("c", "l"), dead=3)
    await broker.append(TOPIC, [new("d", "k")])
    assert await replay_all(broker) == 3
    member = await own(broker)
    lease = member.consumer.lease
    assert lease is not None
    assert [row.offset for row in lease.held] == offsets(gone)
    held = KeyOrder(lease.held, lease.position)
    batch = await take_batch(member.consumer)
    verdicts = {record.value: held.admit(record, clock.now_ms()) for record in batch.records}
    assert verdicts == {b"a": Verdict.RUN, b"c": Verdict.RUN, b"d": Verdict.HOLD} | (
        {b"b": Verdict.SKIP} if b"b" in verdicts else {}
    )


@needs("seek", "trim")
@MODES
async def test_a_deleted_groups_replayed_records_go_with_it(broker: Broker, handler: str | None) -> None:
    await bury_and_trim(broker, handler, FIRST, new("b"), dead=2)
    first, second = await broker.list_dead_letters()
    await broker.replay_dead_letters([first])
    await broker.operations.delete_group(GROUP)
    with pytest.raises(NotFound, match="use --to"):
        await broker.replay_dead_letters([second])
    assert await take_all((await join(broker, handler)).consumer) == []
    assert await broker.replay_dead_letters([second]) == 1


@needs("shared", "trim")
async def test_retention_goes_on_while_a_replayed_record_is_in_hand(broker: Broker, clock: ManualClock) -> None:
    await broker.create_topic(TOPIC, retention_ms=0)
    await bury_and_trim(broker, None, FIRST)
    await replay_all(broker)
    busy, idle, other = await share(broker), await share(broker), await join(broker, None, "other")
    in_hand = await take_batch(busy.consumer)
    for n in range(4):
        clock.advance(2_000)
        await broker.append(TOPIC, numbered(1, start=n))
        for member in (idle, other):
            assert await finish_all(member.consumer) == [str(n)]
    assert {"0", "1"}.isdisjoint(values(await read_all(broker, TOPIC)))
    await finish(busy.consumer, in_hand)


@needs("shared", "trim")
async def test_what_is_in_hand_beside_a_replayed_record_is_kept_or_lost_without_it(
    broker: Broker, clock: ManualClock
) -> None:
    await broker.create_topic(TOPIC, retention_ms=0)
    await bury_and_trim(broker, None, FIRST)
    await replay_all(broker)
    await broker.append(TOPIC, [new("b"), new("c")])
    first, other = await share(broker), await join(broker, None, "other")
    assert values(await take_all(first.consumer)) == ["a", "b", "c"]
    assert await finish_all(other.consumer) == ["b", "c"]
    await first.consumer.release()
    busy = await share(broker)
    batch = await take_batch(busy.consumer)  # given back, they come together: the three of one delivery
    assert values(batch.records) == ["a", "b", "c"]
    clock.advance(2_000)
    await broker.append(TOPIC, numbered(1))
    assert await finish_all(other.consumer) == ["0"]
    assert values(await read_all(broker, TOPIC)) == ["b", "c", "0"], "what is in hand is not trimmed"
    trimmed = await broker.operations.trim(TOPIC, 0, max_records=2, drop_unread=True)
    assert (trimmed.records, [loss.records for loss in trimmed.lost]) == (1, [1])
    lost = list(await busy.consumer.commit(settle(batch.records)))
    assert lost == [batch.records[1].offset]
    assert await finish_all(busy.consumer) == ["0"]
    assert await read_lag(broker, Cursor(TOPIC, GROUP, None, 0)) == 0


@needs("retries", "trim")
@MODES
async def test_a_trim_is_not_held_by_a_replayed_record_that_waits(
    broker: Broker, clock: ManualClock, handler: str | None
) -> None:
    await bury_and_trim(broker, handler, FIRST)
    await replay_all(broker)
    member = await join(broker, handler)
    batch = await take_batch(member.consumer)
    later = retry(batch.records[0], due_ms=clock.now_ms() + 60_000)
    await member.consumer.commit(settle(retries=[later], position=batch.end if handler else None))
    await broker.append(TOPIC, numbered(3))
    for each in (member, await join(broker, handler, "other")):
        assert await finish_all(each.consumer) == ["0", "1", "2"]
    trimmed = await broker.operations.trim(TOPIC, 0, max_records=0)
    assert (trimmed.records, list(trimmed.held_by)) == (3, [])
    clock.advance(60_000)
    assert values(await take_all(member.consumer)) == ["a"]


@needs("shared", "pending", "seek", "trim")
@pytest.mark.parametrize("deed", ["seek", "delete"])
async def test_a_replayed_record_in_hand_is_forgotten_with_all_that_is_not_done(broker: Broker, deed: str) -> None:
    (gone,) = await bury_and_trim(broker, None, FIRST)
    await replay_all(broker)
    member = await share(broker)
    batch = await take_batch(member.consumer)
    cursor = Cursor(TOPIC, GROUP, None, 0)
    if deed == "seek":
        assert (await broker.operations.seek(cursor, 0, force=True)).unfinished == 1
        assert list(await member.consumer.commit(settle(batch.records))) == [gone.offset]
    else:
        await broker.operations.delete_group(GROUP, force=True)
    heir = await share(broker)
    info = await read_cursor(broker, cursor)
    assert (info.pending, info.retries, info.lag) == (0, 0, 0)
    assert list(await broker.operations.list_pending(GROUP)) == []
    assert await take_all(heir.consumer) == []
