"""Joint commits: the cursors of a handler of several topics move together or not at all."""

from collections.abc import Sequence

import pytest

from pspf.connectors.contract.broker import Broker
from pspf.errors import CommitFenced, CommitStale
from pspf.records import Batch, Commit, Cursor
from tests.conformance.test_ordered import everything
from tests.support.brokers import World, needs
from tests.support.joint import BESIDE, HOME, OTHER, Pair, own_both
from tests.support.workers import (
    GROUP,
    HANDLER,
    TOPIC,
    acquire,
    emit,
    letter,
    new,
    numbered,
    offsets,
    read_all,
    read_cursor,
    read_lag,
    retry,
    settle,
    take,
    take_batch,
    values,
)

pytestmark = needs("joint_commits")


async def append(broker: Broker) -> None:
    """Append four records to the one topic and three to the other."""
    await broker.append(TOPIC, numbered(4))
    await broker.append(OTHER, numbered(3))


async def take_both(pair: Pair) -> tuple[Batch, Batch]:
    """Return what one poll of each gives."""
    return await take_batch(pair.home), await take_batch(pair.beside)


def move_both(broker: Broker, batches: tuple[Batch, Batch], mark: str) -> tuple[Commit, Commit]:
    """Return a commit with one of each effect, and a part beside with one of each that it may have."""
    first, second = batches
    failed, held, done = second.records
    waiting = [retry(failed, due_ms=0), retry(held, due_ms=None)]
    return everything(broker, first, mark), settle([done], retries=waiting, position=second.end)


async def read_lags(broker: Broker) -> list[int | None]:
    return [await read_lag(broker, cursor) for cursor in (HOME, BESIDE)]


async def check_untouched(broker: Broker) -> None:
    """Check that nothing of `move_both` is there."""
    assert await read_all(broker, "alerts") == []
    assert list(await broker.list_dead_letters()) == []
    assert list(await broker.list_state()) == []
    assert await read_lags(broker) == [4, 3]


async def check_applied_once(broker: Broker, mark: str) -> None:
    """Check that all of `move_both` is there, once."""
    assert values(await read_all(broker, "alerts")) == [f"{mark} 2", f"{mark} 3"]
    assert len(await broker.list_dead_letters()) == 1
    assert [entry.value for entry in await broker.list_state()] == [mark.encode()]
    assert await read_lags(broker) == [1, 2]
    beside = await read_cursor(broker, BESIDE)
    assert (beside.retries, beside.held_back) == (1, 1)


async def test_a_joint_commit_moves_both(world: World) -> None:
    await append(world.broker)
    pair = await own_both(world.broker)
    home, beside = move_both(world.broker, await take_both(pair), "mark")
    await pair.home.commit_jointly(home, [(pair.beside, beside)])
    await check_applied_once(world.broker, "mark")
    await pair.session.close()
    again = await own_both(await world.reopen())
    await check_applied_once(world.broker, "mark")
    assert values(await take(again.home)) == ["1"]
    assert values(await take(again.beside)) == ["0"]


async def test_a_joint_commit_that_is_sent_again_takes_effect_once(world: World) -> None:
    await append(world.broker)
    pair = await own_both(world.broker)
    home, beside = move_both(world.broker, await take_both(pair), "mark")
    for _ in range(3):
        await pair.home.commit_jointly(home, [(pair.beside, beside)])
    await check_applied_once(world.broker, "mark")
    await world.broker.append(OTHER, numbered(1, start=3))
    batch = await take_batch(pair.beside)
    part = settle([record for record in batch.records if record.value == b"3"], position=batch.end)
    await pair.home.commit_jointly(settle(), [(pair.beside, part)])
    assert await read_lags(world.broker) == [1, 2]


async def test_a_part_that_says_nothing_leaves_its_cursor_where_it_is(world: World) -> None:
    await append(world.broker)
    pair = await own_both(world.broker)
    batch = await take_batch(pair.home)
    await pair.home.commit_jointly(settle(batch.records, position=batch.end), [(pair.beside, settle())])
    assert await read_lags(world.broker) == [0, 3]
    assert values(await take(pair.beside)) == ["0", "1", "2"]


async def test_records_of_one_offset_in_two_topics_are_told_apart(world: World) -> None:
    pair = await own_both(world.broker)
    for topic in (TOPIC, OTHER):
        await world.broker.append(topic, [new(f"{topic} {n}", f"k{n}") for n in range(3)])
    first, second = await take_both(pair)
    failed = retry(first.records[0], due_ms=0), retry(second.records[1], due_ms=0)
    home = settle(first.records[1:], retries=[failed[0]], position=first.end)
    beside = settle([second.records[0], second.records[2]], retries=[failed[1]], position=second.end)
    await pair.home.commit_jointly(home, [(pair.beside, beside)])
    assert values(await take(pair.home)) == [f"{TOPIC} 0"]
    assert values(await take(pair.beside)) == [f"{OTHER} 1"]


async def test_late_records_go_to_the_companion_of_each_topic(world: World) -> None:
    await append(world.broker)
    pair = await own_both(world.broker)
    first, second = await take_both(pair)
    home = Commit(b"late", offsets(first.records), position=first.end, late=[new("late order")])
    beside = Commit(b"any", offsets(second.records), position=second.end, late=[new("late payment")])
    await pair.home.commit_jointly(home, [(pair.beside, beside)])
    assert values(await read_all(world.broker, f"{TOPIC}-late")) == ["late order"]
    assert values(await read_all(world.broker, f"{OTHER}-late")) == ["late payment"]


async def move_by_retry(broker: Broker, cursor: Cursor) -> None:
    """Make a record due that waits in `cursor`, as an administrator."""
    pending = await broker.operations.list_pending(GROUP, topic=cursor.topic)
    assert await broker.operations.retry_pending([each for each in pending if each.cursor == cursor]) > 0


@pytest.mark.parametrize("moved", [HOME, BESIDE], ids=["home", "beside"])
async def test_a_cursor_that_was_moved_makes_the_whole_commit_stale(world: World, moved: Cursor) -> None:
    for topic in (TOPIC, OTHER):
        await world.broker.append(topic, [new("waits", "k")])
    pair = await own_both(world.broker)
    far_ms = 1 << 50
    first, second = await take_both(pair)
    waits = [settle(retries=[retry(each.records[0], due_ms=far_ms)], position=each.end) for each in (first, second)]
    await pair.home.commit_jointly(waits[0], [(pair.beside, waits[1])])
    await append(world.broker)
    first, second = await take_both(pair)
    await move_by_retry(world.broker, moved)
    home = settle(first.records, position=first.end, emits=[emit(first.records[0], "stale")])
    beside = settle(second.records, position=second.end)
    with pytest.raises(CommitStale, match=moved.topic):
        await pair.home.commit_jointly(home, [(pair.beside, beside)])
    assert await read_all(world.broker, "alerts") == []
    assert await read_lags(world.broker) == [5, 4]


@pytest.mark.parametrize("sought", [HOME, BESIDE], ids=["home", "beside"])
async def test_a_seek_of_one_fences_the_whole_commit(world: World, sought: Cursor) -> None:
    await append(world.broker)
    pair = await own_both(world.broker)
    home, beside = move_both(world.broker, await take_both(pair), "mark")
    await world.broker.operations.seek(sought, 0, force=True)
    with pytest.raises(CommitFenced, match=sought.topic):
        await pair.home.commit_jointly(home, [(pair.beside, beside)])
    await check_untouched(world.broker)


async def test_a_dead_owner_commits_nothing_of_either(world: World) -> None:
    await append(world.broker)
    dead = await own_both(world.broker)
    home, beside = move_both(world.broker, await take_both(dead), "mark")
    dead.session.abandon()
    await world.expire_leases()
    heir = await own_both(await world.open_other())
    with pytest.raises(CommitFenced):
        await dead.home.commit_jointly(home, [(dead.beside, beside)])
    await check_untouched(world.broker)
    again = move_both(world.broker, await take_both(heir), "heir")
    await heir.home.commit_jointly(again[0], [(heir.beside, again[1])])
    await check_applied_once(world.broker, "heir")


async def test_who_has_the_first_cursor_takes_the_other_from_its_owner(world: World) -> None:
    """A seek ends the lease of the first alone: its owner, who may be slow, has the other one still."""
    await append(world.broker)
    slow = await own_both(world.broker)
    home, beside = move_both(world.broker, await take_both(slow), "slow")
    await world.broker.operations.seek(HOME, 0, force=True)
    heir = await own_both(await world.open_other())
    with pytest.raises(CommitFenced):
        await take(slow.beside)
    with pytest.raises(CommitFenced):
        await slow.home.commit_jointly(home, [(slow.beside, beside)])
    await slow.beside.release()
    first, second = await take_both(heir)
    assert (first.suspect, second.suspect) == (False, False), "nobody has crashed"
    again = move_both(world.broker, (first, second), "heir")
    await heir.home.commit_jointly(again[0], [(heir.beside, again[1])])
    await check_applied_once(world.broker, "heir")


async def test_who_has_lost_the_first_cursor_takes_none_beside_it(world: World) -> None:
    zombie = await own_both(world.broker)
    await world.broker.operations.seek(HOME, 0, force=True)
    heir = await own_both(await world.open_other())
    with pytest.raises(CommitFenced):
        await zombie.session.take_beside(zombie.home, BESIDE)
    await world.broker.append(OTHER, numbered(1))
    assert values(await take(heir.beside)) == ["0"]


async def test_another_takes_no_cursor_that_is_held_beside(world: World) -> None:
    await own_both(world.broker)
    other = await (await world.open_other()).open_session()
    await other.register(OTHER, GROUP, HANDLER)
    assert await acquire(other, BESIDE) is None


async def test_a_cursor_that_is_not_there_is_not_taken_beside(world: World) -> None:
    pair = await own_both(world.broker)
    await world.broker.create_topic("nothing")
    assert await pair.session.take_beside(pair.home, Cursor("nothing", GROUP, HANDLER, 0)) is None


@needs("crash_counts")
async def test_a_crash_makes_both_suspect_and_charges_the_one_record_that_ran(world: World) -> None:
    await append(world.broker)
    pair = await own_both(world.broker)
    crashes: list[tuple[Sequence[str], int]] = []
    for _ in range(4):
        pair.session.abandon()
        await world.expire_leases()
        pair = await own_both(await world.open_other())
        first, second = await take_both(pair)
        assert first.suspect
        assert second.suspect
        assert first.crashes == 0
        crashes.append((values(second.records), second.crashes))
        await pair.beside.intend([second.records[0].offset])
    assert crashes == [(["0", "1", "2"], 0), (["0"], 1), (["0"], 2), (["0"], 3)]
    dead = settle(dead=[letter(second.records[0])], position=second.records[0].offset + 1)
    part = settle(second.records[:1], position=second.records[0].offset + 1)
    await pair.home.commit_jointly(settle(dead=dead.dead), [(pair.beside, part)])
    (found,) = await world.broker.list_dead_letters()
    assert (found.topic, found.original_id) == (OTHER, second.records[0].id)
    assert values(await take(pair.beside)) == ["1", "2"]


async def test_each_topic_is_trimmed_behind_its_own_cursor(world: World) -> None:
    for topic in (TOPIC, OTHER):
        await world.broker.create_topic(topic, retention_ms=0)
    await append(world.broker)
    pair = await own_both(world.broker)
    first, second = await take_both(pair)
    await pair.home.commit_jointly(
        settle(first.records, position=first.end),
        [(pair.beside, settle(second.records[:2], position=second.records[2].offset))],
    )
    await world.pass_time(5_000)
    for n in range(3):
        await world.broker.append(TOPIC, numbered(1, start=n))
        batch = await take_batch(pair.home)
        await pair.home.commit_jointly(settle(batch.records, position=batch.end), [(pair.beside, settle())])
        await world.pass_time(5_000)
    assert values(await read_all(world.broker, OTHER)) == ["2"]
