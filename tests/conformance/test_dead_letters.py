"""Dead letters: what they keep, and how they come back."""

import contextlib

import pytest

from pspf.clock import ManualClock
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.cursors import Consumer
from pspf.errors import CommitStale, NotFound
from pspf.records import Batch, Cursor, DeadLetter, NewRecord, Record, encode_headers, format_id
from tests.support.brokers import World, needs
from tests.support.workers import (
    GROUP,
    HANDLER,
    TOPIC,
    Member,
    key_in,
    letter,
    new,
    numbered,
    own,
    read_all,
    read_lag,
    retry,
    settle,
    share,
    take,
    take_all,
    take_batch,
    values,
)

MODES = pytest.mark.parametrize("handler", [None, HANDLER], ids=["shared", "ordered"])


async def join(broker: Broker, handler: str | None, partition: int = 0) -> Member:
    """Join shared or ordered."""
    if handler:
        return await own(broker, handler=handler, partition=partition)
    return await share(broker, partition=partition)


async def bury(consumer: Consumer, batch: Batch, dead: Record, handler: str | None, *, attempts: int = 5) -> None:
    """Dead-letter one record of the batch and finish the others."""
    others = [record for record in batch.records if record is not dead]
    position = batch.end if handler else None
    commit = settle(others, dead=[letter(dead, handler=handler or "app.bill", attempts=attempts)], position=position)
    assert not await consumer.commit(commit)


@MODES
async def test_a_dead_letter_keeps_all_that_is_known(broker: Broker, handler: str | None) -> None:
    await broker.create_topic(TOPIC, partitions=3)
    key, raw = key_in(2, 3), b"\x00\xff{not json"
    await broker.append(TOPIC, [NewRecord(key.encode(), raw, encode_headers({"trace": "00-ab"}), 1_234)])
    member = await join(broker, handler, partition=2)
    batch = await take_batch(member.consumer)
    source = batch.records[0]
    given = DeadLetter(source, GROUP, handler or "app.bill", 4, "KeyError", "'π' ☃", "Traceback ☃", 5_678)
    position = batch.end if handler else None
    await member.consumer.commit(settle(dead=[given], position=position))
    stored = (await broker.list_dead_letters())[0]
    assert (stored.record.value, stored.record.raw_key) == (raw, key.encode())
    assert (stored.record.topic, stored.record.partition) == (f"{TOPIC}-dlq", 2)
    assert (stored.topic, stored.partition, stored.group) == (TOPIC, 2, GROUP)
    assert (stored.handler, stored.ordered) == (given.handler, handler is not None)
    assert (stored.attempts, stored.error_type, stored.error) == (4, "KeyError", given.error)
    assert (stored.traceback, stored.dead_at_ms) == (given.traceback, 5_678)
    assert stored.original_id == source.id == format_id(2, source.offset)


@MODES
async def test_a_dead_letter_is_finished(broker: Broker, handler: str | None) -> None:
    await broker.append(TOPIC, numbered(3))
    member = await join(broker, handler)
    batch = await take_batch(member.consumer)
    await bury(member.consumer, batch, batch.records[1], handler)
    assert await read_lag(broker, Cursor(TOPIC, GROUP, handler, 0)) == 0
    assert values(await read_all(broker, f"{TOPIC}-dlq")) == ["1"]


@needs("retries")
@MODES
async def test_a_retry_may_end_as_a_dead_letter(broker: Broker, clock: ManualClock, handler: str | None) -> None:
    await broker.append(TOPIC, numbered(1))
    member = await join(broker, handler)
    batch = await take_batch(member.consumer)
    position = batch.end if handler else None
    await member.consumer.commit(settle(retries=[retry(batch.records[0], due_ms=clock.now_ms())], position=position))
    batch = await take_batch(member.consumer)
    await bury(member.consumer, batch, batch.records[0], handler)
    assert await read_lag(broker, Cursor(TOPIC, GROUP, handler, 0)) == 0
    assert values(await take(member.consumer)) == []
    assert len(await broker.list_dead_letters()) == 1


@MODES
async def test_a_commit_sent_again_buries_once(broker: Broker, handler: str | None) -> None:
    await broker.append(TOPIC, numbered(1))
    member = await join(broker, handler)
    batch = await take_batch(member.consumer)
    commit = settle(dead=[letter(batch.records[0])], position=batch.end if handler else None)
    await member.consumer.commit(commit)
    await member.consumer.commit(commit)
    assert len(await broker.list_dead_letters()) == 1


@needs("shared")
async def test_a_worker_that_lost_a_record_buries_nothing(world: World) -> None:
    await world.broker.append(TOPIC, numbered(1))
    zombie, heir = await share(world.broker), await share(await world.open_other())
    record = (await take(zombie.consumer))[0]
    zombie.session.abandon()
    await world.expire_leases()
    assert values(await take(heir.consumer)) == ["0"]
    assert list(await zombie.consumer.commit(settle(dead=[letter(record)]))) == [record.offset]
    assert list(await world.broker.list_dead_letters()) == []


@needs("shared")
async def test_dead_letters_are_listed_oldest_first_by_topic_and_group(broker: Broker) -> None:
    for topic, group, at_ms in (("a", "g", 30), ("b", "g", 10), ("b", "h", 20)):
        await broker.append(topic, numbered(1))
        member = await share(broker, topic=topic, group=group)
        batch = await take_batch(member.consumer)
        dead = letter(batch.records[0], group=group, at_ms=at_ms)
        await member.consumer.commit(settle(dead=[dead]))

    async def listed(**which: str) -> list[tuple[str, str]]:
        return [(found.topic, found.group) for found in await broker.list_dead_letters(**which)]

    assert await listed(topic="b") == [("b", "g"), ("b", "h")]
    assert sorted(await listed(group="g")) == [("a", "g"), ("b", "g")]
    assert sorted(await listed()) == [("a", "g"), ("b", "g"), ("b", "h")]
    assert await listed(topic="nowhere") == []


@needs("shared")
async def test_dead_letters_may_be_subscribed_to(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(1))
    member = await share(broker)
    batch = await take_batch(member.consumer)
    await bury(member.consumer, batch, batch.records[0], None)
    reader = await share(broker, topic=f"{TOPIC}-dlq", group="ops")
    assert values(await take(reader.consumer)) == ["0"]


@needs("replay")
@MODES
async def test_a_replay_gives_the_record_a_new_start(broker: Broker, clock: ManualClock, handler: str | None) -> None:
    await broker.append(TOPIC, numbered(3))
    member = await join(broker, handler)
    batch = await take_batch(member.consumer)
    await bury(member.consumer, batch, batch.records[1], handler, attempts=5)
    await member.session.close()
    assert await broker.replay_dead_letters(await broker.list_dead_letters()) == 1
    assert list(await broker.list_dead_letters()) == []
    assert await read_lag(broker, Cursor(TOPIC, GROUP, handler, 0)) == 1
    again = await join(broker, handler)
    records = await take(again.consumer)
    assert [(record.value, record.offset, record.attempts) for record in records] == [
        (b"1", batch.records[1].offset, 0)
    ]


@needs("shared", "replay")
async def test_a_replay_reaches_the_failing_group_only(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(1))
    failing, other = await share(broker), await share(broker, group="other")
    batch = await take_batch(failing.consumer)
    await bury(failing.consumer, batch, batch.records[0], None)
    await other.consumer.commit(settle(await take(other.consumer)))
    await broker.replay_dead_letters(await broker.list_dead_letters())
    assert values(await take(failing.consumer)) == ["0"]
    assert values(await take(other.consumer)) == []


@needs("ordered", "entries", "replay")
async def test_a_replay_makes_the_owners_next_commit_stale(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(1))
    member = await own(broker)
    batch = await take_batch(member.consumer)
    await bury(member.consumer, batch, batch.records[0], HANDLER)
    await broker.append(TOPIC, numbered(1, start=1))
    batch = await take_batch(member.consumer)
    await broker.replay_dead_letters(await broker.list_dead_letters())
    commit = settle(batch.records, position=batch.end, state={(b"k", "n"): b"1"})
    with pytest.raises(CommitStale):
        await member.consumer.commit(commit)
    assert await broker.list_state() == []
    await member.session.close()
    again = await own(broker)
    assert values(await take_all(again.consumer)) == ["0", "1"]


@needs("ordered", "replay")
async def test_a_replayed_record_is_held_for_the_next_owner(broker: Broker) -> None:
    await broker.append(TOPIC, [new("0", "k")])
    member = await own(broker)
    batch = await take_batch(member.consumer)
    await bury(member.consumer, batch, batch.records[0], HANDLER)
    await member.session.close()
    await broker.replay_dead_letters(await broker.list_dead_letters())
    lease = (await own(broker)).consumer.lease
    assert lease is not None
    held = [(row.offset, row.key, row.attempts) for row in lease.held]
    assert held == [(batch.records[0].offset, b"k", 0)]
    assert all(row.due_ms is not None for row in lease.held)


@needs("replay")
@MODES
async def test_a_replay_to_another_topic_appends_it_there(broker: Broker, handler: str | None) -> None:
    headers = encode_headers({"trace": "00-ab"})
    await broker.append(TOPIC, [NewRecord(b"k", b"broken", headers)])
    member = await join(broker, handler)
    batch = await take_batch(member.consumer)
    await bury(member.consumer, batch, batch.records[0], handler)
    assert await broker.replay_dead_letters(await broker.list_dead_letters(), to="mended") == 1
    copies = await read_all(broker, "mended")
    assert [(copy.raw_key, copy.value, copy.headers.get("trace")) for copy in copies] == [(b"k", b"broken", "00-ab")]
    assert list(await broker.list_dead_letters()) == []
    assert await read_lag(broker, Cursor(TOPIC, GROUP, handler, 0)) == 0


@needs("replay")
@MODES
async def test_a_dead_letter_is_replayed_once(broker: Broker, handler: str | None) -> None:
    await broker.append(TOPIC, numbered(2))
    member = await join(broker, handler)
    batch = await take_batch(member.consumer)
    await bury(member.consumer, batch, batch.records[0], handler)
    letters = await broker.list_dead_letters()
    assert await broker.replay_dead_letters(letters) == 1
    assert await broker.replay_dead_letters(letters) == 0
    assert await broker.replay_dead_letters(letters, to="mended") == 0
    assert await broker.purge_dead_letters(letters) == 0
    assert await read_lag(broker, Cursor(TOPIC, GROUP, handler, 0)) == 1


@needs("shared")
async def test_a_purge_forgets_the_named_ones(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(3))
    member = await share(broker)
    batch = await take_batch(member.consumer)
    await member.consumer.commit(settle(dead=[letter(record) for record in batch.records]))
    letters = await broker.list_dead_letters()
    assert await broker.purge_dead_letters(letters[:2]) == 2
    assert [found.record.value for found in await broker.list_dead_letters()] == [b"2"]
    assert values(await read_all(broker, f"{TOPIC}-dlq")) == ["2"]


@needs("replay")
@MODES
async def test_a_dead_letter_whose_record_was_trimmed_is_not_lost_by_a_replay(
    broker: Broker, handler: str | None
) -> None:
    await broker.create_topic(TOPIC, retention_ms=0)
    await broker.append(TOPIC, numbered(1))
    member = await join(broker, handler)
    batch = await take_batch(member.consumer)
    await bury(member.consumer, batch, batch.records[0], handler)
    for n in range(1, 20):
        await broker.append(TOPIC, numbered(1, start=n))
        batch = await take_batch(member.consumer)
        await member.consumer.commit(settle(batch.records, position=batch.end if handler else None))
    assert "0" not in values(await read_all(broker, TOPIC))
    await member.session.close()
    with contextlib.suppress(NotFound):  # a broker may refuse, as long as it keeps the dead letter
        await broker.replay_dead_letters(await broker.list_dead_letters())
    again = await join(broker, handler)
    replayed = values(await take_all(again.consumer))
    kept = [found.record.value.decode() for found in await broker.list_dead_letters()]
    assert replayed + kept == ["0"]


@needs("shared")
async def test_dead_letters_survive_reopening(world: World) -> None:
    await world.broker.append(TOPIC, numbered(1))
    member = await share(world.broker)
    batch = await take_batch(member.consumer)
    await bury(member.consumer, batch, batch.records[0], None)
    before = await world.broker.list_dead_letters()
    assert await (await world.reopen()).list_dead_letters() == before


@needs("ordered", "replay")
async def test_a_commit_sent_again_after_a_replay_does_not_hide_it(broker: Broker) -> None:
    """The owner, which sends again what it has no reply of, builds its next commit on what it knew before."""
    await broker.append(TOPIC, numbered(3))
    member = await own(broker)
    batch = await take_batch(member.consumer, 2)
    commit = settle([], position=batch.end, dead=[letter(record) for record in batch.records])
    await member.consumer.commit(commit)
    await broker.replay_dead_letters(await broker.list_dead_letters())
    assert list(await member.consumer.commit(commit)) == []
    with pytest.raises(CommitStale):
        await member.consumer.commit(settle([], position=batch.end + 1))
