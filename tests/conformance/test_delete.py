"""Groups and topics that are removed, and what comes after them."""

import contextlib

import pytest

from pspf.connectors.contract.broker import Broker
from pspf.errors import CommitFenced, NotFound, Refused
from pspf.records import Cursor
from tests.support.brokers import World, needs
from tests.support.workers import (
    GROUP,
    HANDLER,
    TOPIC,
    Member,
    letter,
    numbered,
    own,
    read_all,
    read_state,
    settle,
    share,
    take,
    take_all,
    take_batch,
    values,
)

MODES = pytest.mark.parametrize("handler", [None, HANDLER], ids=["shared", "ordered"])


async def join(broker: Broker, handler: str | None, *, group: str = GROUP, topic: str = TOPIC) -> Member:
    """Join shared or ordered."""
    if handler:
        return await own(broker, handler=handler, group=group, topic=topic)
    return await share(broker, group=group, topic=topic)


async def leave_work(broker: Broker, handler: str | None, *, group: str = GROUP, topic: str = TOPIC) -> None:
    """Handle two records, remember something, leave."""
    member = await join(broker, handler, group=group, topic=topic)
    batch = await take_batch(member.consumer, 2)
    state = {(b"k", "n"): b"1"} if handler else None
    await member.consumer.commit(settle(batch.records, position=batch.end if handler else None, state=state))
    await member.session.close()


async def names(broker: Broker) -> list[str]:
    return [info.topic for info in await broker.list_topics()]


@needs("entries", "seek")
@MODES
async def test_a_deleted_group_is_forgotten_and_begins_anew(broker: Broker, handler: str | None) -> None:
    await broker.append(TOPIC, numbered(4))
    await leave_work(broker, handler)
    await leave_work(broker, handler, group="other")
    assert await broker.operations.delete_group(GROUP) == 1
    assert [info.cursor.group for info in await broker.list_cursors()] == ["other"]
    assert {entry.group for entry in await broker.list_state()} == ({"other"} if handler else set())
    member = await join(broker, handler)
    assert values(await take_all(member.consumer)) == ["0", "1", "2", "3"]


@needs("shared", "seek")
async def test_a_group_is_deleted_on_one_topic_alone(broker: Broker) -> None:
    await broker.create_topic(TOPIC, partitions=3)
    for topic in (TOPIC, "other"):
        await broker.append(topic, numbered(2))
        member = await share(broker, topic=topic)
        await member.session.close()
    assert await broker.operations.delete_group(GROUP, topic=TOPIC) == 3
    assert [info.cursor.topic for info in await broker.list_cursors()] == ["other"]


@needs("seek")
@MODES
async def test_a_group_in_use_is_not_deleted_unless_forced(broker: Broker, handler: str | None) -> None:
    await broker.append(TOPIC, numbered(4))
    member = await join(broker, handler)
    batch = await take_batch(member.consumer, 2)
    with pytest.raises(Refused, match=member.session.id):
        await broker.operations.delete_group(GROUP)
    assert await broker.operations.delete_group(GROUP, force=True) == 1
    assert list(await broker.list_cursors()) == []
    if handler:
        with pytest.raises(CommitFenced):
            await member.consumer.commit(settle(batch.records, position=batch.end))
    else:
        assert len(await member.consumer.commit(settle(batch.records))) == 2
    await member.session.close()


@needs("shared", "seek")
async def test_a_dead_workers_group_is_deleted(world: World) -> None:
    await world.broker.append(TOPIC, numbered(2))
    member = await share(await world.open_other())
    await take(member.consumer)
    member.session.abandon()
    await world.expire_leases()
    assert await world.broker.operations.delete_group(GROUP) == 1


@needs("entries", "seek", "trim")
async def test_what_no_group_needs_any_more_may_be_trimmed(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(4))
    await leave_work(broker, None)
    assert (await broker.operations.trim(TOPIC, 0, max_records=0)).records == 2
    await broker.operations.delete_group(GROUP)
    assert (await broker.operations.trim(TOPIC, 0, max_records=0)).records == 2


@needs("entries", "seek")
async def test_a_group_that_is_not_there_is_not_found(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(1))
    await leave_work(broker, None)
    with pytest.raises(NotFound):
        await broker.operations.delete_group("nobody")
    with pytest.raises(NotFound):
        await broker.operations.delete_group(GROUP, topic="nowhere")


@needs("shared", "seek", "trim")
async def test_a_topic_goes_with_its_companions_and_no_other(broker: Broker) -> None:
    for topic in (TOPIC, f"{TOPIC}-2"):
        await broker.append(topic, numbered(3))
        member = await share(broker, topic=topic)
        batch = await take_batch(member.consumer)
        await member.consumer.commit(settle(batch.records[1:], dead=[letter(batch.records[0])]))
        await member.session.close()
    await broker.operations.delete_group(GROUP)
    assert sorted(await broker.operations.delete_topic(TOPIC)) == [TOPIC, f"{TOPIC}-dlq"]
    assert await names(broker) == [f"{TOPIC}-2", f"{TOPIC}-2-dlq"]
    assert [found.topic for found in await broker.list_dead_letters()] == [f"{TOPIC}-2"]
    assert len(await read_all(broker, f"{TOPIC}-2")) == 3
    with pytest.raises(NotFound):
        await broker.read_topic(TOPIC)


@needs("entries", "trim")
@MODES
async def test_a_topic_with_groups_is_not_deleted_unless_forced(broker: Broker, handler: str | None) -> None:
    await broker.append(TOPIC, numbered(3))
    await leave_work(broker, handler)
    with pytest.raises(Refused, match=GROUP):
        await broker.operations.delete_topic(TOPIC)
    assert len(await read_all(broker, TOPIC)) == 3
    await broker.operations.delete_topic(TOPIC, force=True)
    assert await names(broker) == []
    assert list(await broker.list_cursors()) == []
    assert await broker.list_state() == []


@needs("entries", "trim")
@MODES
async def test_a_topic_made_again_has_nothing_of_the_old_one(broker: Broker, handler: str | None) -> None:
    old = await broker.append(TOPIC, [record._replace(event_id=f"e{n}") for n, record in enumerate(numbered(3))])
    await leave_work(broker, handler)
    await broker.operations.delete_topic(TOPIC, force=True)
    new = await broker.append(TOPIC, [record._replace(event_id=f"e{n}") for n, record in enumerate(numbered(2))])
    assert [place.duplicate for place in (*old, *new)] == [False] * 5
    member = await join(broker, handler)
    batch = await take_batch(member.consumer)
    assert values(batch.records) == ["0", "1"]
    if handler:
        assert not await read_state(member.consumer, [b"k"])


@needs("entries", "trim")
@MODES
async def test_a_worker_of_a_deleted_topic_does_not_meet_the_next_one(broker: Broker, handler: str | None) -> None:
    """What it holds names something that is gone, and never comes to name something else."""
    await broker.append(TOPIC, numbered(3))
    stray = await join(broker, handler)
    batch = await take_batch(stray.consumer, 2)
    await broker.operations.delete_topic(TOPIC, force=True)
    await broker.append("next", numbered(3))
    member = await join(broker, handler, topic="next")
    taken = await take_batch(member.consumer, 1)
    state = {(b"k", "n"): b"1"} if handler else None
    commit = settle(batch.records, position=batch.end if handler else None, state=state)
    with contextlib.suppress(CommitFenced, NotFound):
        assert len(await stray.consumer.commit(commit)) == 2
    with contextlib.suppress(CommitFenced, NotFound):
        assert values(await take(stray.consumer)) == []
    assert not await member.consumer.commit(settle(taken.records, position=taken.end if handler else None))
    assert await broker.list_state() == []
    assert values(await take(member.consumer)) == ["1", "2"]


@needs("shared", "trim")
async def test_dead_letters_are_deleted_alone(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(1))
    member = await share(broker)
    batch = await take_batch(member.consumer)
    await member.consumer.commit(settle(dead=[letter(batch.records[0])]))
    assert list(await broker.operations.delete_topic(f"{TOPIC}-dlq")) == [f"{TOPIC}-dlq"]
    assert await names(broker) == [TOPIC]
    assert list(await broker.list_dead_letters()) == []


@needs("trim")
async def test_a_deleted_topic_stays_deleted(world: World) -> None:
    await world.broker.append(TOPIC, numbered(1))
    await world.broker.append("other", numbered(1))
    await world.broker.operations.delete_topic(TOPIC)
    broker = await world.reopen()
    assert await names(broker) == ["other"]
    assert [info.cursor for info in await broker.list_cursors()] == list[Cursor]()
