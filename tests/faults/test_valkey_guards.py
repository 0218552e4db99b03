"""Every check of the commit's scripts is needed: a server that runs a script without it does what must not be.

Each guard has a scenario. With the script as it is the scenario ends well; with the guard cut out of its text it
does not. (`GUARDS` is the list; a text that is no more in the script fails the test.)
"""

from collections.abc import Awaitable, Callable
from typing import Final

import pytest

from pspf.connectors.valkey.consume import acquiring, ordered, shared
from pspf.errors import BackendCorrupt, CommitFenced, CommitStale, DiskFull
from pspf.records import partition_of
from tests.faults.guards import ORDERED, SHARED, Guard, Stage, lose_to_an_heir, open_batch, refused, scenarios_of
from tests.support.brokers import leased
from tests.support.windows import with_windows
from tests.support.workers import (
    GROUP,
    HANDLER,
    TOPIC,
    emit,
    letter,
    numbered,
    read_all,
    read_lag,
    retry,
    settle,
    share,
    take,
    take_batch,
    values,
)


async def alerts(stage: Stage) -> list[str]:
    return values(await read_all(stage.broker, "alerts"))


# Ordered mode


async def a_zombie_commits_nothing(stage: Stage) -> None:
    zombie, records, _ = await lose_to_an_heir(stage, is_ordered=True)
    commit = settle(records, position=records[-1].offset + 1, emits=[emit(records[0], "zombie")])
    assert await refused(zombie.consumer.commit(commit), CommitFenced)
    assert await alerts(stage) == []


async def who_gave_the_lease_back_commits_nothing(stage: Stage) -> None:
    member, records = await open_batch(stage, is_ordered=True)
    await member.consumer.release()
    commit = settle(records, position=records[-1].offset + 1, emits=[emit(records[0], "late")])
    assert await refused(member.consumer.commit(commit), CommitFenced)
    assert await alerts(stage) == []


async def a_commit_sent_again_is_a_success(stage: Stage) -> None:
    member, records = await open_batch(stage, is_ordered=True)
    commit = settle(records, position=records[-1].offset + 1, emits=[emit(records[0], "once")])
    await member.consumer.commit(commit)
    assert not await refused(member.consumer.commit(commit), CommitStale)
    assert await alerts(stage) == ["once"]


async def a_moved_cursor_takes_no_commit(stage: Stage) -> None:
    member, records = await open_batch(stage, is_ordered=True, count=1)
    end = records[-1].offset + 1
    await member.consumer.commit(settle(dead=[letter(records[0])], position=end))
    await stage.broker.append(TOPIC, numbered(1, start=1))
    batch = await take_batch(member.consumer)
    await stage.broker.replay_dead_letters(await stage.broker.list_dead_letters())
    commit = settle(batch.records, position=batch.end, emits=[emit(batch.records[0], "stale")])
    assert await refused(member.consumer.commit(commit), CommitStale)
    assert await alerts(stage) == []


async def a_batch_of_a_deleted_stream_is_stale(stage: Stage) -> None:
    member, records = await open_batch(stage, is_ordered=True)
    stage.call("DEL", TOPIC)
    commit = settle(records, position=records[-1].offset + 1, state={(b"k", "n"): b"1"})
    assert await refused(member.consumer.commit(commit), CommitStale)
    assert list(await stage.broker.list_state()) == []


async def windows_kept_as_something_else_are_not_written_in_part(stage: Stage) -> None:
    for key in ("spaces:billing:app.total", "ent:billing:app.total:0", "order:billing:app.total:0"):
        member, records = await open_batch(stage, is_ordered=True)
        stage.call("SET", f"pspf:{{{TOPIC}}}:{key}", "mine")
        commit = settle(records, position=records[-1].offset + 1, emits=[emit(records[0], "x")])
        before = await read_lag(stage.broker, ORDERED)
        assert await refused(
            member.consumer.commit(with_windows(commit, 5, b"{}", (), {0: {b"a": b"1"}})), BackendCorrupt
        )
        assert await read_lag(stage.broker, ORDERED) == before
        stage.call("DEL", f"pspf:{{{TOPIC}}}:{key}")
        await member.session.close()


async def a_shared_commit_beside_something_else_writes_nothing(stage: Stage) -> None:
    member, records = await open_batch(stage, is_ordered=False)
    stage.call("SET", f"pspf:{{{TOPIC}}}:retry:{GROUP}:", "no hash")
    commit = settle(retries=[retry(record, due_ms=0) for record in records])
    assert await refused(member.consumer.commit(commit), BackendCorrupt)
    assert stage.call("XPENDING", TOPIC, GROUP)[0] == 2


async def an_ordered_commit_to_a_stream_without_ids_left_writes_nothing(stage: Stage) -> None:
    await _commit_to_a_full_stream(stage, is_ordered=True)


async def a_shared_commit_to_a_stream_without_ids_left_writes_nothing(stage: Stage) -> None:
    await _commit_to_a_full_stream(stage, is_ordered=False)


async def _commit_to_a_full_stream(stage: Stage, *, is_ordered: bool) -> None:
    member, records = await open_batch(stage, is_ordered=is_ordered)
    await stage.broker.create_topic("alerts")
    stage.call("XADD", "alerts", f"{2**64 - 1}-{2**64 - 1}", "data", "{}")
    position = records[-1].offset + 1 if is_ordered else None
    commit = settle(records, position=position, emits=[emit(records[0], "x")])
    await refused(member.consumer.commit(commit), BackendCorrupt)
    assert await read_lag(stage.broker, ORDERED if is_ordered else SHARED) == 2


async def an_ordered_commit_follows_its_target_to_its_partitions(stage: Stage) -> None:
    await _commit_to_a_moved_topic(stage, is_ordered=True)


async def a_shared_commit_follows_its_target_to_its_partitions(stage: Stage) -> None:
    await _commit_to_a_moved_topic(stage, is_ordered=False)


async def _commit_to_a_moved_topic(stage: Stage, *, is_ordered: bool) -> None:
    member, records = await open_batch(stage, is_ordered=is_ordered)
    await stage.broker.append("alerts", numbered(1))  # so that it is known with one partition
    operator = await stage.world.open_other()
    await operator.operations.repartition("alerts", 3)
    keys = ["key-1", "key-2", "key-3", "key-4"]
    emits = [emit(records[0], key, key=key) for key in keys]
    await member.consumer.commit(settle(records, position=records[-1].offset + 1 if is_ordered else None, emits=emits))
    for key in keys:
        stored = await read_all(operator, "alerts", partition_of(key.encode(), 3))
        assert key in values(stored)


async def a_full_server_takes_nothing_of_an_ordered_commit(stage: Stage) -> None:
    await _commit_when_full(stage, is_ordered=True)


async def a_full_server_takes_nothing_of_a_shared_commit(stage: Stage) -> None:
    await _commit_when_full(stage, is_ordered=False)


async def _commit_when_full(stage: Stage, *, is_ordered: bool) -> None:
    member, records = await open_batch(stage, is_ordered=is_ordered)
    position = records[-1].offset + 1 if is_ordered else None
    commit = settle(records, position=position)
    stage.fill_memory(is_full=True)
    assert await refused(member.consumer.commit(commit), DiskFull)
    stage.fill_memory(is_full=False)
    assert await read_lag(stage.broker, ORDERED if is_ordered else SHARED) == 2


async def a_cursor_is_taken_from_the_dead_alone(stage: Stage) -> None:
    owner, _ = await open_batch(stage, is_ordered=True)
    await stage.world.expire_leases()
    other = await (await stage.world.open_other()).open_session()
    await other.register(TOPIC, GROUP, HANDLER)
    assert await leased(other).acquire(ORDERED) is None
    assert owner.consumer.lease is not None


async def a_fenced_worker_that_lets_go_does_not_harm_its_heir(stage: Stage) -> None:
    zombie, records, heir = await lose_to_an_heir(stage, is_ordered=True)
    await zombie.consumer.release()
    commit = settle(records, position=records[-1].offset + 1)
    assert not await refused(heir.consumer.commit(commit), CommitFenced)


# Shared mode


async def a_zombie_says_nothing_of_what_its_heir_runs(stage: Stage) -> None:
    zombie, records, heir = await lose_to_an_heir(stage, is_ordered=False)
    await heir.consumer.intend([record.offset for record in records])
    before = stage.call("HGETALL", f"pspf:{{{TOPIC}}}:suspects:{GROUP}:")
    assert before
    await zombie.consumer.intend([record.offset for record in records])
    assert stage.call("HGETALL", f"pspf:{{{TOPIC}}}:suspects:{GROUP}:") == before


async def a_zombie_finishes_nothing_that_its_heir_has(stage: Stage) -> None:
    zombie, records, heir = await lose_to_an_heir(stage, is_ordered=False)
    assert sorted(await zombie.consumer.commit(settle(records))) == [record.offset for record in records]
    assert not await heir.consumer.commit(settle(records))


async def a_commit_finishes_nothing_that_was_given_back_behind_it(stage: Stage) -> None:
    member, records = await open_batch(stage, is_ordered=False)
    same_session = await member.session.share(SHARED)
    await same_session.release()
    heir = await share(await stage.world.open_other())
    assert len(await take(heir.consumer)) == 2
    assert sorted(await member.consumer.commit(settle(records))) == [record.offset for record in records]


async def what_is_in_hand_is_not_recovered(stage: Stage) -> None:
    member, records = await open_batch(stage, is_ordered=False)
    assert isinstance(member.consumer, shared.SharedConsumer)
    assert not await member.consumer._recover()
    assert not await member.consumer.commit(settle(records))


async def a_commit_finishes_nothing_that_was_recovered_behind_it(stage: Stage) -> None:
    member, records = await open_batch(stage, is_ordered=False)
    same_session = await member.session.share(SHARED)
    assert isinstance(same_session, shared.SharedConsumer)
    assert await same_session._recover()
    heir = await share(await stage.world.open_other())
    assert len(await take(heir.consumer)) == 2
    assert sorted(await member.consumer.commit(settle(records))) == [record.offset for record in records]


async def a_record_that_was_acknowledged_by_hand_has_no_effect(stage: Stage) -> None:
    member, records = await open_batch(stage, is_ordered=False)
    assert stage.call("XACK", TOPIC, GROUP, records[0].id) == 1
    commit = settle(records, emits=[emit(record, record.value.decode()) for record in records])
    assert list(await member.consumer.commit(commit)) == [records[0].offset]
    assert await alerts(stage) == ["1"]


async def who_gave_a_replayed_record_back_commits_nothing(stage: Stage) -> None:
    member, records = await open_batch(stage, is_ordered=False)
    await member.consumer.commit(settle(dead=[letter(record, handler="app.any") for record in records]))
    await stage.broker.operations.trim(TOPIC, 0, max_records=0)
    await stage.broker.replay_dead_letters(await stage.broker.list_dead_letters())
    records = list(await take(member.consumer))
    await member.consumer.release()
    heir = await share(await stage.world.open_other())
    assert list(await take(heir.consumer)) == list(records)
    commit = settle(records, emits=[emit(record, "late") for record in records])
    assert list(await member.consumer.commit(commit)) == [record.offset for record in records]
    assert await alerts(stage) == []


async def a_record_that_was_acknowledged_by_hand_is_not_tried_again(stage: Stage) -> None:
    member, records = await open_batch(stage, is_ordered=False)
    assert stage.call("XACK", TOPIC, GROUP, records[0].id) == 1
    commit = settle(retries=[retry(record, due_ms=0) for record in records])
    assert list(await member.consumer.commit(commit)) == [records[0].offset]
    assert values(await take(member.consumer)) == ["1"]


async def a_batch_that_stands_together_is_not_applied_in_part(stage: Stage) -> None:
    member, records = await open_batch(stage, is_ordered=False)
    await member.consumer.commit(settle([records[0]]))
    commit = settle(records, emits=[emit(record, "part") for record in records], whole=True)
    assert len(await member.consumer.commit(commit)) == 2
    assert await alerts(stage) == []
    assert values(await take(member.consumer)) == ["1"]


async def a_shared_commit_sent_again_takes_nothing_back(stage: Stage) -> None:
    member, records = await open_batch(stage, is_ordered=False)
    commit = settle([records[0]], retries=[retry(records[1], due_ms=0)])
    await member.consumer.commit(commit)
    assert values(await take(member.consumer)) == ["1"]
    await member.consumer.commit(commit)
    assert stage.call("XPENDING", TOPIC, GROUP)[0] == 1, "it is in hand, and not to be run again"


async def a_slow_worker_keeps_its_own_while_it_lives(stage: Stage) -> None:
    slow, records = await open_batch(stage, is_ordered=False)
    other = await share(await stage.world.open_other())
    await stage.world.expire_leases()
    assert values(await take(other.consumer)) == []
    assert not await slow.consumer.commit(settle(records))


_FENCE: Final = "if found[1] ~= ARGV[at + 1] or found[2] ~= ARGV[at + 2] then return {'FENCED', number} end"
_STREAM: Final = "if not has_group(KEYS[key], ARGV[at]) then return {'GONE', number} end"
_TYPES: Final = "if wrong then return wrong end"
_SPACES: Final = "check_keys(1, 1, 'set', 'SADD', 'SREM')\n    or "
_ENTRIES: Final = "check_keys(first_entries, first_entries + written - 1, 'hash', 'HSET', 'HDEL')\n    or "
_ORDERS: Final = "or check_keys(first_entries + written, first_entries + 2 * written - 1, 'zset', 'ZADD', 'ZREM')"
_MOVED: Final = "if moved then return moved end"
_APPENDED: Final = "if failed then return failed end"
_TAKES: Final = "redis.call('HINCRBY', meta, 'takes', 1)"
_IS_ALIVE: Final = "elseif not is_alive(live[name], now_ms, shift) then"

GUARDS: Final = (
    Guard(ordered, "_COMMIT", _FENCE, "", a_zombie_commits_nothing),
    Guard(ordered, "_COMMIT", "found[1] ~= ARGV[at + 1] or ", "", who_gave_the_lease_back_commits_nothing),
    Guard(
        ordered,
        "_COMMIT",
        "sent_before = sent_before + 1",
        "",
        a_commit_sent_again_is_a_success,
    ),
    Guard(
        ordered,
        "_COMMIT",
        "if sequence ~= ARGV[at + 3] then return {'STALE', number, sequence} end",
        "",
        a_moved_cursor_takes_no_commit,
    ),
    Guard(ordered, "_COMMIT", _STREAM, "", a_batch_of_a_deleted_stream_is_stale),
    Guard(ordered, "_COMMIT", _TYPES, "", windows_kept_as_something_else_are_not_written_in_part),
    Guard(ordered, "_COMMIT", _APPENDED, "", an_ordered_commit_to_a_stream_without_ids_left_writes_nothing),
    Guard(shared, "_COMMIT", _APPENDED, "", a_shared_commit_to_a_stream_without_ids_left_writes_nothing),
    Guard(ordered, "_COMMIT", _MOVED, "", an_ordered_commit_follows_its_target_to_its_partitions),
    Guard(shared, "_COMMIT", _MOVED, "", a_shared_commit_follows_its_target_to_its_partitions),
    Guard(ordered, "_COMMIT", _SPACES, "", windows_kept_as_something_else_are_not_written_in_part),
    Guard(ordered, "_COMMIT", _ENTRIES, "", windows_kept_as_something_else_are_not_written_in_part),
    Guard(ordered, "_COMMIT", _ORDERS, "", windows_kept_as_something_else_are_not_written_in_part),
    Guard(
        ordered,
        "_COMMIT",
        "redis.call('HSET', meta, 'seq', sequence,",
        "redis.call('ZREM', due, 'x') redis.call('HSET', meta, 'seq', sequence,",
        a_full_server_takes_nothing_of_an_ordered_commit,
    ),
    Guard(
        acquiring,
        "_ACQUIRE",
        "if is_taken and not is_beside then return {'HELD'} end",
        "",
        a_cursor_is_taken_from_the_dead_alone,
    ),
    Guard(
        ordered,
        "_HOLD",
        "if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end",
        "",
        a_fenced_worker_that_lets_go_does_not_harm_its_heir,
    ),
    Guard(
        shared,
        "_INTEND",
        "if #redis.call('XPENDING', stream, group, ARGV[at], ARGV[at], 1, session) == 1",
        "if true",
        a_zombie_says_nothing_of_what_its_heir_runs,
    ),
    Guard(
        shared,
        "_COMMIT",
        "return redis.call('HGET', lent, id) == session",
        "return true",
        who_gave_a_replayed_record_back_commits_nothing,
    ),
    Guard(shared, "_COMMIT", " or ARGV[5] ~= takes", "", a_zombie_finishes_nothing_that_its_heir_has),
    Guard(shared, "_TAKE", _TAKES, "", a_zombie_finishes_nothing_that_its_heir_has),
    Guard(shared, "_RECOVER", "if not known[id] then", "if true then", what_is_in_hand_is_not_recovered),
    Guard(shared, "_RECOVER", _TAKES, "", a_commit_finishes_nothing_that_was_recovered_behind_it),
    Guard(shared, "_RELEASE", _TAKES, "", a_commit_finishes_nothing_that_was_given_back_behind_it),
    Guard(
        shared,
        "_COMMIT",
        "XPENDING', stream, group, from, ARGV[11], page, session)",
        "XPENDING', stream, group, from, ARGV[11], page)",
        a_zombie_finishes_nothing_that_its_heir_has,
    ),
    Guard(
        shared,
        "_COMMIT",
        "if redis.call('XACK', stream, group, id) == 0 and not",
        "if redis.call('XACK', stream, group, id) < 0 and not",
        a_record_that_was_acknowledged_by_hand_is_not_tried_again,
    ),
    Guard(
        shared,
        "_COMMIT",
        "local is_exact = is_doubtful or streams > 0",
        "local is_exact = is_doubtful",
        a_record_that_was_acknowledged_by_hand_has_no_effect,
    ),
    Guard(
        shared,
        "_COMMIT",
        "local is_refused = ARGV[6] == '1' and #lost_ids > 0",
        "local is_refused = false",
        a_batch_that_stands_together_is_not_applied_in_part,
    ),
    Guard(
        shared,
        "_COMMIT",
        "if known[3] == commit_id then",
        "if false then",
        a_shared_commit_sent_again_takes_nothing_back,
    ),
    Guard(shared, "_COMMIT", _TYPES, "", a_shared_commit_beside_something_else_writes_nothing),
    Guard(
        shared,
        "_COMMIT",
        "redis.call('HSET', meta, 'c:' .. session, commit_id, 'l:' .. session, '', 'last_commit_ms', text(now_ms))",
        "",
        a_full_server_takes_nothing_of_a_shared_commit,
    ),
    Guard(shared, "_TAKE", _IS_ALIVE, "else", a_slow_worker_keeps_its_own_while_it_lives),
)


@pytest.mark.parametrize("scenario", scenarios_of(GUARDS), ids=lambda scenario: scenario.__name__)
async def test_with_all_guards(stage: Stage, scenario: Callable[[Stage], Awaitable[None]]) -> None:
    await scenario(stage)


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
async def test_without_the_guard_it_goes_wrong(stage: Stage, guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    await guard.check(stage, monkeypatch)
