"""Records that an operator deletes or trims on the server itself: what is counted and told; state that is forgotten."""

import pytest

from pspf.errors import CommitFenced
from pspf.records import Cursor
from tests.faults.guards import ORDERED, SHARED, Stage
from tests.support.workers import (
    GROUP,
    HANDLER,
    TOPIC,
    letter,
    numbered,
    own,
    read_lag,
    settle,
    share,
    take,
    take_batch,
)

MODES = pytest.mark.parametrize("cursor", [SHARED, ORDERED], ids=["shared", "ordered"])


async def finish(stage: Stage, cursor: Cursor, count: int) -> None:
    """Handle `count` records and leave."""
    member = await (own if cursor.handler else share)(stage.broker)
    batch = await take_batch(member.consumer, count)
    assert len(batch.records) == count
    await member.consumer.commit(settle(batch.records, position=batch.end if cursor.handler else None))
    await member.session.close()


@MODES
async def test_the_lag_is_right_where_records_were_deleted_from_the_middle(stage: Stage, cursor: Cursor) -> None:
    placed = await stage.broker.append(TOPIC, numbered(10))
    await finish(stage, cursor, 3)
    assert stage.call("XDEL", TOPIC, placed[5].id, placed[7].id) == 2
    assert await read_lag(stage.broker, cursor) == 5
    await finish(stage, cursor, 2)
    assert await read_lag(stage.broker, cursor) == 3
    await stage.broker.append(TOPIC, numbered(4, start=10))
    assert await read_lag(stage.broker, cursor) == 7
    await finish(stage, cursor, 7)
    assert await read_lag(stage.broker, cursor) == 0


async def test_records_trimmed_unread_on_the_server_are_told_and_counted(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    placed = await stage.broker.append(TOPIC, numbered(10))
    await finish(stage, ORDERED, 2)
    stage.call("XTRIM", TOPIC, "MINID", placed[7].id)
    assert await read_lag(stage.broker, ORDERED) == 3
    await finish(stage, ORDERED, 1)
    assert "5 records were trimmed before they were read" in caplog.text
    assert await read_lag(stage.broker, ORDERED) == 2
    await stage.broker.append(TOPIC, numbered(4, start=10))
    assert await read_lag(stage.broker, ORDERED) == 6
    await finish(stage, ORDERED, 6)
    assert await read_lag(stage.broker, ORDERED) == 0


async def test_an_owner_with_nothing_to_do_notices_that_its_cursor_was_moved(stage: Stage) -> None:
    await stage.broker.append(TOPIC, numbered(2))
    member = await own(stage.broker)
    batch = await take_batch(member.consumer)
    dead = letter(batch.records[0])
    await member.consumer.commit(settle(batch.records[1:], dead=[dead], position=batch.end))
    assert not await take(member.consumer)
    await stage.broker.replay_dead_letters(await stage.broker.list_dead_letters())
    with pytest.raises(CommitFenced):
        await take(member.consumer)


async def test_a_key_whose_state_is_forgotten_is_not_listed_as_one_that_has_some(stage: Stage) -> None:
    await stage.broker.append(TOPIC, numbered(3, keys=["a"]))
    member = await own(stage.broker)
    for state in ({(b"a", "n"): b"1", (b"a", "m"): b"1"}, {(b"a", "n"): None}, {(b"a", "m"): None}):
        batch = await take_batch(member.consumer, 1)
        await member.consumer.commit(settle(batch.records, position=batch.end, state=state))
        kept = [entry.name for entry in await stage.broker.list_state()]
        assert stage.call("SCARD", f"pspf:{{{TOPIC}}}:spaces:{GROUP}:{HANDLER}") == (1 if kept else 0)
    assert not kept


async def _have_a_replayed_record(stage: Stage, handler: str | None) -> None:
    await stage.broker.append(TOPIC, numbered(1))
    member = await own(stage.broker) if handler else await share(stage.broker)
    batch = await take_batch(member.consumer)
    dead = letter(batch.records[0], handler=handler or "app.any")
    await member.consumer.commit(settle(dead=[dead], position=batch.end if handler else None))
    await member.session.close()
    await stage.broker.operations.trim(TOPIC, 0, max_records=0)
    assert await stage.broker.replay_dead_letters(await stage.broker.list_dead_letters()) == 1


async def test_a_replayed_record_of_a_dead_worker_comes_again_though_its_consumer_was_deleted(stage: Stage) -> None:
    await _have_a_replayed_record(stage, None)
    dead = await share(stage.broker)
    (gone,) = await take(dead.consumer)
    dead.session.abandon()
    stage.call("XGROUP", "DELCONSUMER", TOPIC, GROUP, dead.session.id)
    await stage.world.expire_leases()
    heir = await share(await stage.world.open_other())
    assert list(await take(heir.consumer)) == [gone]


async def test_a_replayed_record_in_hand_is_forgotten_with_its_stream(stage: Stage) -> None:
    await _have_a_replayed_record(stage, None)
    member, other = await share(stage.broker), await share(stage.broker)
    assert len(await take(member.consumer)) == 1
    stage.call("DEL", TOPIC)
    assert list(await take(other.consumer)) == []
    assert stage.call("KEYS", f"pspf:{{{TOPIC}}}:lent:*") == []


async def test_who_forgets_deleted_records_keeps_one_that_is_replayed_meanwhile(stage: Stage) -> None:
    await _have_a_replayed_record(stage, HANDLER)
    member = await own(stage.broker)
    (gone,) = await take(member.consumer)
    await member.consumer._forget_deleted([gone.offset])  # type: ignore[attr-defined]
    assert list(await take(member.consumer)) == [gone]
