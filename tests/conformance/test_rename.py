"""An ordered handler's cursors under another name: what goes with them, who finds out, what is refused."""

from dataclasses import replace

import pytest

from pspf.connectors.contract.broker import Broker
from pspf.errors import CommitFenced, NotFound, Refused
from pspf.records import STATE, Cursor
from tests.support.brokers import World, needs
from tests.support.windows import by_slot, with_windows
from tests.support.workers import (
    GROUP,
    HANDLER,
    TOPIC,
    numbered,
    own,
    read_cursor,
    read_state,
    retry,
    settle,
    take_all,
    take_batch,
    values,
)

pytestmark = needs("seek")

NEW = "app.renamed:of 2%"
OLD_CURSOR, NEW_CURSOR = Cursor(TOPIC, GROUP, HANDLER, 0), Cursor(TOPIC, GROUP, NEW, 0)


async def work(broker: Broker, *, topic: str = TOPIC, handler: str = HANDLER, partition: int = 0) -> None:
    """Handle the first two records with state, fail the third and hold the fourth back behind it, and leave."""
    member = await own(broker, topic=topic, handler=handler, partition=partition)
    batch = await take_batch(member.consumer, 4)
    done, failed = batch.records[:2], batch.records[2:]
    commit = settle(
        done,
        retries=[retry(record, due_ms=0 if n == 0 else None) for n, record in enumerate(failed)],
        position=batch.end,
        state={(b"k", "sum"): b"6", (b"j", "sum"): b"7"},
    )
    states = by_slot({(-10, b"a"): b"1", (20, b"b"): b"2"})
    await member.consumer.commit(with_windows(commit, 5, b'{"so": "far"}', (), states))
    await member.session.close()


@needs("ordered", "retries", "entries")
async def test_a_renamed_handler_goes_on_where_it_was(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(6, keys=["k"]))
    await work(broker)
    before = await read_cursor(broker, OLD_CURSOR)
    assert await broker.operations.rename_handler(GROUP, HANDLER, NEW) == 1
    assert await read_cursor(broker, NEW_CURSOR) == replace(before, cursor=NEW_CURSOR)
    assert [info.cursor for info in await broker.list_cursors()] == [NEW_CURSOR]
    member = await own(broker, handler=NEW)
    assert values(await take_all(member.consumer)) == ["2", "4", "5"]
    assert member.consumer.lease is not None
    assert len(member.consumer.lease.held) == 2


@needs("ordered", "retries", "entries")
async def test_what_it_remembers_goes_with_it(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(4, keys=["k"]))
    await work(broker)
    await broker.operations.rename_handler(GROUP, HANDLER, NEW)
    member = await own(broker, handler=NEW)
    state = await read_state(member.consumer, [b"k", b"j"])
    assert {key: dict(found) for key, found in state.items()} == {b"k": {"sum": b"6"}, b"j": {"sum": b"7"}}
    assert await member.consumer.read_progress() == b'{"so": "far"}'
    assert list(await member.consumer.list_namespaces()) == [-10, 20, STATE]
    assert list(await member.consumer.scan_entries(-10)) == [(b"a", b"1")]
    assert [entry.handler for entry in await broker.list_state()] == [NEW, NEW]


@needs("ordered", "retries", "entries")
async def test_the_old_name_begins_anew(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(4, keys=["k"]))
    await work(broker)
    await broker.operations.rename_handler(GROUP, HANDLER, NEW)
    member = await own(broker, handler=HANDLER)
    assert values(await take_all(member.consumer)) == ["0", "1", "2", "3"]
    assert dict((await read_state(member.consumer, [b"k"])).get(b"k", {})) == {}


@needs("ordered")
async def test_a_renamed_cursor_commits_and_is_read_on(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(2))
    await broker.operations.rename_handler(GROUP, await _handled(broker), NEW)
    await broker.append(TOPIC, numbered(2, start=2))
    member = await own(broker, handler=NEW)
    batch = await take_batch(member.consumer)
    assert values(batch.records) == ["2", "3"]
    await member.consumer.commit(settle(batch.records, position=batch.end))
    assert (await read_cursor(broker, NEW_CURSOR)).lag == 0


async def _handled(broker: Broker) -> str:
    member = await own(broker)
    batch = await take_batch(member.consumer)
    await member.consumer.commit(settle(batch.records, position=batch.end))
    await member.session.close()
    return HANDLER


@needs("ordered", "retries", "entries")
async def test_all_partitions_are_renamed(broker: Broker) -> None:
    await broker.create_topic(TOPIC, partitions=3)
    await broker.append(TOPIC, numbered(12))
    for partition in range(3):
        await work(broker, partition=partition)
    assert await broker.operations.rename_handler(GROUP, HANDLER, NEW, dry_run=True) == 3
    assert await broker.operations.rename_handler(GROUP, HANDLER, NEW) == 3
    assert {info.cursor.handler for info in await broker.list_cursors()} == {NEW}


@needs("ordered", "retries", "entries")
async def test_only_the_named_topic_and_group_are_renamed(broker: Broker) -> None:
    for topic in (TOPIC, "others"):
        await broker.append(topic, numbered(4))
        await work(broker, topic=topic)
    await broker.operations.rename_handler(GROUP, HANDLER, NEW, topic="others")
    assert {(info.cursor.topic, info.cursor.handler) for info in await broker.list_cursors()} == {
        (TOPIC, HANDLER),
        ("others", NEW),
    }


@needs("ordered", "retries", "entries")
async def test_a_dry_run_renames_nothing(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(4))
    await work(broker)
    assert await broker.operations.rename_handler(GROUP, HANDLER, NEW, dry_run=True) == 1
    assert [info.cursor for info in await broker.list_cursors()] == [OLD_CURSOR]


@needs("ordered", "retries", "entries")
async def test_a_handler_that_a_live_worker_runs_is_not_renamed(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(4))
    await work(broker)
    session = await broker.open_session()
    await session.register(TOPIC, GROUP, HANDLER)
    with pytest.raises(Refused, match="in use by") as refused:
        await broker.operations.rename_handler(GROUP, HANDLER, NEW)
    assert "--force" not in str(refused.value)
    await session.close()
    assert await broker.operations.rename_handler(GROUP, HANDLER, NEW) == 1


@needs("ordered")
async def test_the_commit_of_an_owner_that_was_taken_for_dead_has_no_effect(world: World) -> None:
    await world.broker.append(TOPIC, numbered(2))
    member = await own(world.broker)
    batch = await take_batch(member.consumer)
    member.session.abandon()
    await world.expire_leases()
    await world.broker.operations.rename_handler(GROUP, HANDLER, NEW)
    with pytest.raises(CommitFenced):
        await member.consumer.commit(settle(batch.records, position=batch.end))
    assert (await read_cursor(world.broker, NEW_CURSOR)).lag == 2


@needs("ordered", "retries", "entries")
async def test_a_name_that_has_begun_by_itself_is_not_overwritten(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(4))
    await work(broker)
    await work(broker, handler=NEW)
    with pytest.raises(Refused, match="already"):
        await broker.operations.rename_handler(GROUP, HANDLER, NEW)
    assert await broker.operations.delete_group(GROUP, handler=NEW) == 1
    assert await broker.operations.rename_handler(GROUP, HANDLER, NEW) == 1


@needs("ordered", "retries", "entries")
async def test_a_new_name_that_was_made_and_never_got_on_is_replaced(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(4))
    await work(broker)
    session = await broker.open_session()
    await session.register(TOPIC, GROUP, NEW, start="end")
    await session.close()
    assert await broker.operations.rename_handler(GROUP, HANDLER, NEW) == 1
    assert [info.cursor for info in await broker.list_cursors()] == [NEW_CURSOR]
    member = await own(broker, handler=NEW)
    assert values(await take_all(member.consumer)) == ["2"]


@needs("ordered", "retries", "entries")
@pytest.mark.parametrize(("group", "old"), [("nobody", HANDLER), (GROUP, "app.other")])
async def test_what_is_not_there_is_not_renamed(broker: Broker, group: str, old: str) -> None:
    await broker.append(TOPIC, numbered(4))
    await work(broker)
    with pytest.raises(NotFound, match="no cursor of handler"):
        await broker.operations.rename_handler(group, old, NEW)


@needs("shared", "ordered", "retries", "entries")
async def test_one_handlers_cursors_are_deleted_and_no_others(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(4))
    await work(broker)
    await work(broker, handler=NEW)
    session = await broker.open_session()
    await session.register(TOPIC, GROUP, None)
    await session.close()
    assert await broker.operations.delete_group(GROUP, handler=HANDLER) == 1
    assert {info.cursor.handler for info in await broker.list_cursors()} == {None, NEW}
    assert await broker.operations.delete_group(GROUP, handler="") == 1
    assert {info.cursor.handler for info in await broker.list_cursors()} == {NEW}
