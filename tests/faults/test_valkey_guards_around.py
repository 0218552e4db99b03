"""The checks of what stands around the commits, operators' scripts above all, are needed as those of the commits are.

Which other tests go red without one is not enough where several guard the same: here each has a scenario of its own.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import pytest

from pspf.connectors.valkey.consume import acquiring, forgetting, lost_stream, ordered, session, shared, waiting
from pspf.connectors.valkey.log import appends, retention
from pspf.connectors.valkey.log.fields import format_entry_id
from pspf.connectors.valkey.log.keys import CursorKeys
from pspf.connectors.valkey.operations import dead_letters, repartition, seeking, trimming
from pspf.errors import CommitFenced, CommitStale, NotFound, Refused
from pspf.records import Record
from tests.faults.guards import ORDERED, SHARED, Guard, Stage, open_batch, refused, scenarios_of
from tests.support.brokers import leased
from tests.support.workers import (
    GROUP,
    HANDLER,
    TOPIC,
    Member,
    letter,
    new,
    numbered,
    own,
    read_all,
    read_state,
    retry,
    settle,
    share,
    take,
    values,
)


async def wait_for_a_retry(stage: Stage, *, held: bool = False) -> tuple[Member, list[Record]]:
    """Have a worker put its first record off, the second one (`held`) behind it, and delete the first."""
    await stage.broker.append(TOPIC, numbered(2, keys=["k", "k"]))
    member = await own(stage.broker)
    records = list(await take(member.consumer))
    retries = [retry(records[0], due_ms=0), *([retry(records[1], due_ms=None)] if held else [])]
    await member.consumer.commit(settle(retries=retries, position=records[len(retries) - 1].offset + 1))
    assert stage.call("XDEL", TOPIC, records[0].id) == 1
    return member, records


async def what_waited_behind_a_deleted_record_comes(stage: Stage) -> None:
    member, records = await wait_for_a_retry(stage, held=True)
    assert await refused(take(member.consumer), CommitStale)
    again = await leased(member.session).acquire(ORDERED)
    assert again is not None
    assert values(await take(again)) == values(records[1:])


async def a_batch_read_before_a_record_was_forgotten_is_stale(stage: Stage) -> None:
    member, records = await wait_for_a_retry(stage)
    assert await refused(take(member.consumer), CommitStale)
    commit = settle(records[1:], position=records[1].offset + 1)
    assert await refused(member.consumer.commit(commit), CommitStale)


async def a_zombie_forgets_nothing_of_its_heirs(stage: Stage) -> None:
    zombie, records = await wait_for_a_retry(stage)
    zombie.session.abandon()
    await stage.world.expire_leases()
    heir = await own(await stage.world.open_other())
    assert isinstance(zombie.consumer, ordered.OrderedConsumer)
    assert not await refused(zombie.consumer._forget_deleted([records[0].offset]), CommitStale)
    assert not await refused(heir.consumer.commit(settle(position=records[1].offset)), CommitStale)


async def an_owner_that_only_reads_notices_that_its_stream_was_deleted(stage: Stage) -> None:
    member, _ = await open_batch(stage, is_ordered=True)
    stage.call("DEL", TOPIC)
    assert await refused(take(member.consumer), CommitStale)


async def whose_state_is_being_forgotten_has_no_lease(stage: Stage) -> None:
    owner, keys = await _have_state(stage)
    await forgetting.forget_state(stage.core.commands, keys)
    assert stage.call("HMGET", keys.meta, "token", "session") == [b"", b""]
    assert await refused(owner.consumer.commit(settle(state={(b"k", "n"): b"2"})), CommitFenced)


async def a_cursor_whose_state_was_forgotten_has_moved(stage: Stage) -> None:
    _, keys = await _have_state(stage)
    before = stage.call("HGET", keys.meta, "seq")
    await forgetting.forget_state(stage.core.commands, keys)
    assert stage.call("HGET", keys.meta, "seq") != before


async def what_a_seek_has_marked_is_forgotten_first(stage: Stage) -> None:
    owner, keys = await _have_state(stage)
    await owner.consumer.release()
    stage.call("HSET", keys.meta, "forget", "1")
    heir = await own(stage.broker)
    assert await read_state(heir.consumer, [b"k"]) == {}


async def what_nobody_has_marked_is_not_forgotten_late(stage: Stage) -> None:
    owner, keys = await _have_state(stage)
    await forgetting.finish_forgetting(stage.core.commands, keys)
    assert await read_state(owner.consumer, [b"k"]) == {b"k": {"n": b"1"}}


async def _have_state(stage: Stage) -> tuple[Member, CursorKeys]:
    owner, records = await open_batch(stage, is_ordered=True)
    await owner.consumer.commit(settle(records, position=records[-1].offset + 1, state={(b"k", "n"): b"1"}))
    return owner, await _keys_of(stage, GROUP)


async def who_knows_a_topic_as_it_was_joins_it_as_it_is(stage: Stage) -> None:
    await stage.broker.create_topic(TOPIC)
    other = await stage.world.open_other()
    await other.operations.delete_topic(TOPIC, force=True)
    await other.create_topic(TOPIC, partitions=2)
    assert await (await stage.broker.open_session()).register(TOPIC, GROUP, HANDLER) == 2


async def a_batch_read_before_a_seek_counts_for_nothing(stage: Stage) -> None:
    member, records = await open_batch(stage, is_ordered=True)
    await stage.broker.operations.seek(ORDERED, records[1].offset, force=True)
    assert await refused(member.consumer.commit(settle(records, position=records[-1].offset + 1)), CommitFenced)


async def who_joins_a_deleted_stream_forgets_what_was_known_of_it(stage: Stage) -> None:
    owner, _ = await _have_state(stage)
    stage.call("DEL", TOPIC)
    await stage.broker.append(TOPIC, numbered(1, start=7))
    heir = await (await stage.world.open_other()).open_session()
    await heir.register(TOPIC, GROUP, HANDLER)
    assert await stage.broker.list_state() == []
    assert await refused(owner.consumer.commit(settle(state={(b"k", "n"): b"2"})), CommitFenced)


async def a_stream_made_anew_is_another(stage: Stage) -> None:
    _owner, _ = await _have_state(stage)
    stage.call("DEL", TOPIC)
    stage.clock.advance(1_000)
    await stage.broker.append(TOPIC, numbered(3, start=7))
    heir = await (await stage.world.open_other()).open_session()
    await heir.register(TOPIC, GROUP, HANDLER)
    assert await stage.broker.list_state() == []


async def a_group_destroyed_from_outside_forgets_nothing(stage: Stage) -> None:
    owner, keys = await _have_state(stage)
    position = stage.call("HGET", keys.meta, "position")
    stage.call("XGROUP", "DESTROY", TOPIC, f"{GROUP}/{HANDLER}")
    assert await refused(owner.consumer.commit(settle(state={(b"k", "n"): b"2"})), CommitStale)
    heir = await leased(owner.session).acquire(ORDERED)
    assert heir is not None
    assert (stage.call("HGET", keys.meta, "position"), len(await stage.broker.list_state())) == (position, 1)
    assert not await refused(heir.commit(settle(state={(b"k", "n"): b"2"})), CommitFenced)


async def what_lives_is_not_reset(stage: Stage) -> None:
    member, keys = await _have_state(stage)
    assert isinstance(member.session, session.ValkeySession)
    forgetting = lost_stream.forget_cursor(member.session._member, keys, ordered.marker_group(ORDERED))
    assert not await refused(forgetting, Exception)
    assert len(await stage.broker.list_state()) == 1
    assert not await refused(member.consumer.commit(settle(state={(b"k", "n"): b"2"})), CommitFenced)


async def a_dead_letter_comes_back_to_no_group_that_is_gone(stage: Stage) -> None:
    await _have_a_dead_letter(stage, is_ordered=False)
    await stage.broker.operations.delete_group(GROUP, force=True)
    assert await refused(stage.broker.replay_dead_letters(await stage.broker.list_dead_letters()), NotFound)


async def a_dead_letter_that_comes_back_holds_its_key_back(stage: Stage) -> None:
    await _have_a_dead_letter(stage, is_ordered=True)
    await stage.broker.replay_dead_letters(await stage.broker.list_dead_letters())
    heir = await own(stage.broker)
    assert values(await take(heir.consumer)) == ["0"]


async def a_dead_letter_goes_to_the_topic_as_it_is(stage: Stage) -> None:
    await _have_a_dead_letter(stage, is_ordered=False)
    await stage.broker.create_topic("again")
    other = await stage.world.open_other()
    await other.operations.delete_topic("again", force=True)
    await other.create_topic("again", partitions=2)
    await stage.broker.append("again", numbered(1))
    await other.operations.delete_topic("again", force=True)
    await other.create_topic("again", partitions=1)
    assert await stage.broker.replay_dead_letters(await stage.broker.list_dead_letters(), to="again") == 1
    assert values(await read_all(other, "again")) == ["0"]


async def _have_a_dead_letter(stage: Stage, *, is_ordered: bool) -> None:
    """Have the first of two records of a key given up, and the second one put off."""
    await stage.broker.append(TOPIC, numbered(2, keys=["k", "k"]))
    member = await (own if is_ordered else share)(stage.broker)
    first, second = await take(member.consumer)
    given_up = letter(first, handler=HANDLER if is_ordered else "app.any")
    position = second.offset + 1 if is_ordered else None
    await member.consumer.commit(settle(dead=[given_up], retries=[retry(second, due_ms=0)], position=position))
    await member.session.close()


async def a_group_made_again_starts_where_it_was_made_to(stage: Stage) -> None:
    await stage.broker.append(TOPIC, numbered(2))
    first = await stage.broker.open_session()
    await first.register(TOPIC, GROUP, None)
    assert stage.call("XGROUP", "DESTROY", TOPIC, GROUP) == 1
    second = await (await stage.world.open_other()).open_session()
    await second.register(TOPIC, GROUP, None, start="end")
    assert values(await take(await second.share(SHARED))) == ["0", "1"]


async def a_cursor_that_is_gone_is_made_again_by_who_reads(stage: Stage) -> None:
    member, keys = await _lose_the_cursor(stage)
    await take(member.consumer)
    assert stage.call("HGET", keys.meta, "start")


async def a_commit_to_a_cursor_that_is_gone_has_no_effect(stage: Stage) -> None:
    member, _ = await _lose_the_cursor(stage)
    records = await read_all(stage.broker, TOPIC)
    assert list(await member.consumer.commit(settle(records))) == [record.offset for record in records]


async def _lose_the_cursor(stage: Stage) -> tuple[Member, CursorKeys]:
    member, _ = await open_batch(stage, is_ordered=False)
    keys = (await stage.core.topics.get(TOPIC)).partition(0).cursor(GROUP, None)
    assert stage.call("DEL", keys.meta) == 1
    return member, keys


async def who_has_given_all_back_is_no_consumer(stage: Stage) -> None:
    member, _ = await open_batch(stage, is_ordered=False)
    await member.consumer.release()
    assert stage.call("XINFO", "CONSUMERS", TOPIC, GROUP) == []


async def what_is_emitted_goes_to_the_topic_as_it_is(stage: Stage) -> None:
    await _emit_behind_a_change(stage, None)


async def what_has_an_id_goes_to_the_topic_as_it_is(stage: Stage) -> None:
    await _emit_behind_a_change(stage, "e")


async def _emit_behind_a_change(stage: Stage, event_id: str | None) -> None:
    await stage.broker.append(TOPIC, [new("0")])
    other = await stage.world.open_other()
    await other.operations.delete_topic(TOPIC, force=True)
    await other.create_topic(TOPIC, partitions=2)
    await stage.broker.append(TOPIC, [new("1", event_id=event_id)])
    assert values([*await read_all(other, TOPIC, 0), *await read_all(other, TOPIC, 1)]) == ["1"]


async def an_id_is_forgotten_after_the_window(stage: Stage) -> None:
    for n in range(2):
        await stage.broker.append(TOPIC, [new(str(n), event_id="e")])
        stage.clock.advance(stage.broker.limits.dedup_window_ms + 1)
    assert values(await read_all(stage.broker, TOPIC)) == ["0", "1"]


async def a_topic_that_is_written_to_is_not_swapped(stage: Stage) -> None:
    await stage.broker.append(TOPIC, numbered(2))
    copying = _WrittenTo(stage.core, await stage.core.topics.get(TOPIC), 2)
    assert await refused(copying.run(), Refused)
    assert values(await read_all(stage.broker, TOPIC)) == ["0", "1", "2"]


class _WrittenTo(repartition._Copy):
    async def _read_counts(self) -> tuple[int, int]:
        await self._core.commands.call("XADD", TOPIC, "*", "data", "2")
        return await super()._read_counts()


async def what_a_group_without_a_place_has_not_read_is_not_trimmed(stage: Stage) -> None:
    harmed = await _keys_of(stage, "other")
    member, records = await open_batch(stage, is_ordered=False)
    await (await stage.broker.open_session()).register(TOPIC, "other", HANDLER)
    stage.call("DEL", harmed.meta)
    await member.consumer.commit(settle(records))
    assert len(await read_all(stage.broker, TOPIC)) == 2


async def _keys_of(stage: Stage, group: str) -> CursorKeys:
    await stage.broker.create_topic(TOPIC, retention_ms=0)
    return (await stage.core.topics.get(TOPIC)).partition(0).cursor(group, HANDLER)


async def what_a_group_went_back_to_is_not_trimmed(stage: Stage) -> None:
    member, records = await open_batch(stage, is_ordered=False)
    await member.consumer.commit(settle(records))
    planned = await trimming.plan_trim(stage.core, TOPIC, 0, trimming.Wish(None, 0, None), False)
    await stage.broker.operations.seek(SHARED, records[0].offset, force=True)
    assert (await trimming.execute_trim(stage.core, TOPIC, planned, False)).records == 0
    assert len(await read_all(stage.broker, TOPIC)) == 2


async def who_does_not_know_all_groups_trims_nothing(stage: Stage) -> None:
    _, records = await open_batch(stage, is_ordered=False)
    keys = (await stage.core.topics.get(TOPIC)).partition(0)
    arguments = (stage.core.now(), format_entry_id(records[-1].offset), "", "0")
    assert await stage.core.commands.run(trimming._TRIM, (keys.stream, keys.meta, keys.cursors), arguments) == []
    assert len(await read_all(stage.broker, TOPIC)) == 2


async def what_is_passed_again_is_kept_anew(stage: Stage) -> None:
    await stage.broker.create_topic(TOPIC, retention_ms=10_000)
    member, records = await open_batch(stage, is_ordered=False)
    await member.consumer.commit(settle(records))
    for _ in range(2):
        stage.clock.advance(6_000)
        await stage.broker.operations.seek(SHARED, records[0].offset, force=True)
        await member.consumer.commit(settle(await take(member.consumer)))
    assert len(await read_all(stage.broker, TOPIC)) == 2


_SETS_RIGHT: Final = "redis.call('ZADD', KEYS[2], unpack(ARGV, 2))"
_LEASE_ENDS: Final = """, 'token', '', 'session', '',
  'clean', '1', 'intent', '', 'limit', '', 'left', '', 'crashes', '0')
redis.call('HINCRBY', cursor, 'seq', 1"""

GUARDS: Final = (
    Guard(
        appends,
        "_APPEND",
        "if redis.call('HGET', KEYS[2], 'partitions') ~= ARGV[2] then return 0 end",
        "",
        what_is_emitted_goes_to_the_topic_as_it_is,
    ),
    Guard(
        shared,
        "_TAKE",
        "if redis.call('HEXISTS', meta, 'start') == 0 then return {'GONE'} end",
        "",
        a_cursor_that_is_gone_is_made_again_by_who_reads,
    ),
    Guard(
        shared,
        "_COMMIT",
        "if not known[1] then return {'GONE'} end",
        "",
        a_commit_to_a_cursor_that_is_gone_has_no_effect,
    ),
    Guard(
        appends,
        "_APPEND_ONCE",
        "if redis.call('HGET', meta, 'partitions') ~= ARGV[2] then return 0 end",
        "",
        what_has_an_id_goes_to_the_topic_as_it_is,
    ),
    Guard(
        appends,
        "_APPEND_ONCE",
        "if last_ms and tonumber(last_ms) >= now_ms - window then",
        "if last_ms then",
        an_id_is_forgotten_after_the_window,
    ),
    Guard(
        trimming,
        "_TRIM",
        "if floor and not is_forced and is_before(floor, cut) then cut = floor end",
        "",
        what_a_group_went_back_to_is_not_trimmed,
    ),
    Guard(
        trimming,
        "_TRIM",
        "if (redis.call('HGET', meta, 'cursors') or '0') ~= ARGV[4] then return {} end",
        "",
        who_does_not_know_all_groups_trims_nothing,
    ),
    Guard(
        repartition,
        "_SWAP",
        "if last ~= ARGV[8 + number * 2] or added ~= ARGV[9 + number * 2] then return 0 end",
        "",
        a_topic_that_is_written_to_is_not_swapped,
    ),
    Guard(
        retention,
        "_TRIM",
        "if not position then return {0, scanned} end",
        "position = position or '99999999999999-0'",
        what_a_group_without_a_place_has_not_read_is_not_trimmed,
    ),
    Guard(
        seeking,
        "_SEEK",
        "if is_before(position, id) then redis.call('ZREM', KEYS[6], id) end",
        "",
        what_is_passed_again_is_kept_anew,
    ),
    Guard(
        ordered,
        "_LOOK",
        " or not has_group(KEYS[1], ARGV[2]) then return",
        " then return",
        an_owner_that_only_reads_notices_that_its_stream_was_deleted,
    ),
    Guard(waiting, "_SET_RIGHT", _SETS_RIGHT, "", what_waited_behind_a_deleted_record_comes),
    Guard(waiting, "_SET_RIGHT", _SETS_RIGHT, "", a_dead_letter_that_comes_back_holds_its_key_back),
    Guard(
        acquiring, "_ACQUIRE", "if cursor[12] then return {'FORGET'} end", "", what_a_seek_has_marked_is_forgotten_first
    ),
    Guard(
        forgetting,
        "_FORGET",
        "if redis.call('HEXISTS', KEYS[1], 'forget') == 0 then return 0 end",
        "",
        what_nobody_has_marked_is_not_forgotten_late,
    ),
    Guard(
        ordered,
        "_FORGET",
        "if forgotten == 0 then redis.call('HINCRBY', meta, 'seq', 1) end",
        "",
        a_batch_read_before_a_record_was_forgotten_is_stale,
    ),
    Guard(
        ordered,
        "_FORGET",
        "if redis.call('HGET', meta, 'token') ~= ARGV[1] then return -1 end",
        "",
        a_zombie_forgets_nothing_of_its_heirs,
    ),
    Guard(
        session,
        "_REGISTER",
        "if redis.call('HGET', meta, 'partitions') ~= ARGV[1] then return 0 end",
        "",
        who_knows_a_topic_as_it_was_joins_it_as_it_is,
    ),
    Guard(lost_stream, "_RESET", "if is_same() then", "if false then", a_group_made_again_starts_where_it_was_made_to),
    Guard(lost_stream, "_RESET", "if is_same() then", "if false then", a_group_destroyed_from_outside_forgets_nothing),
    Guard(
        lost_stream,
        "_RESET",
        "return info['entries-added'] - info['length'] >= tonumber(passed or 1)",
        "return true",
        a_stream_made_anew_is_another,
    ),
    Guard(
        lost_stream,
        "_RESET",
        "if is_before(after(info['last-generated-id']), position) then return false end",
        "",
        who_joins_a_deleted_stream_forgets_what_was_known_of_it,
    ),
    Guard(
        session,
        "_REGISTER",
        "if not has_it and redis.call('HEXISTS', cursor, 'position') == 1 then return -1 end",
        "",
        who_joins_a_deleted_stream_forgets_what_was_known_of_it,
    ),
    Guard(lost_stream, "_RESET", "if has_group(stream, group) then return 'HERE' end", "", what_lives_is_not_reset),
    Guard(seeking, "_SEEK", _LEASE_ENDS, "", a_batch_read_before_a_seek_counts_for_nothing),
    Guard(
        dead_letters,
        "_REPLAY",
        "if redis.call('HEXISTS', KEYS[key + 3], 'position') == 0 then return {letter} end",
        "",
        a_dead_letter_comes_back_to_no_group_that_is_gone,
    ),
    Guard(
        dead_letters,
        "_REPLAY_TO",
        "if redis.call('HGET', KEYS[3], 'partitions') ~= ARGV[3] then return -1 end",
        "",
        a_dead_letter_goes_to_the_topic_as_it_is,
    ),
    Guard(
        shared,
        "_RELEASE",
        "redis.call('XGROUP', 'DELCONSUMER', stream, group, session)",
        "",
        who_has_given_all_back_is_no_consumer,
    ),
    Guard(
        forgetting,
        "_FORGET",
        "redis.call('HSET', KEYS[1], 'token', '', 'session', '', 'clean', '1', 'intent', '')",
        "",
        whose_state_is_being_forgotten_has_no_lease,
    ),
    Guard(
        forgetting,
        "_FORGET",
        "redis.call('HINCRBY', KEYS[1], 'seq', 1)",
        "",
        a_cursor_whose_state_was_forgotten_has_moved,
    ),
)


@pytest.mark.parametrize("scenario", scenarios_of(GUARDS), ids=lambda scenario: scenario.__name__)
async def test_with_all_guards(stage: Stage, scenario: Callable[[Stage], Awaitable[None]]) -> None:
    await scenario(stage)


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
async def test_without_the_guard_it_goes_wrong(stage: Stage, guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    await guard.check(stage, monkeypatch)
