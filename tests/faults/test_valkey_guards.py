"""Every check of the commit's scripts is needed: a server that runs a script without it does what must not be.

Each guard has a scenario. With the script as it is the scenario ends well; with the guard cut out of its text it
does not. (`GUARDS` is the list; a text that is no more in the script fails the test.)
"""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest
import pytest_asyncio

from pspf.clock import ManualClock
from pspf.connectors.base import Limits
from pspf.connectors.valkey import ordered, seeking, session, shared
from pspf.connectors.valkey.broker import ValkeyBroker
from pspf.connectors.valkey.keys import CursorKeys
from pspf.connectors.valkey.scripts import Script
from pspf.errors import BackendCorrupt, CommitFenced, CommitStale, DiskFull
from pspf.records import Cursor, Record, WindowChanges
from tests.support.brokers import KINDS, World
from tests.support.servers import hall
from tests.support.workers import (
    GROUP,
    HANDLER,
    TOPIC,
    Member,
    emit,
    letter,
    numbered,
    own,
    read_all,
    read_lag,
    retry,
    settle,
    share,
    take,
    take_batch,
    values,
)

SHARED: Final = Cursor(TOPIC, GROUP, None, 0)
ORDERED: Final = Cursor(TOPIC, GROUP, HANDLER, 0)


class Stage:
    """A world on a server, and the server itself."""

    def __init__(self, world: World, server_name: str, folder: Path) -> None:
        self.world = world
        self.broker = world.broker
        assert isinstance(world.broker, ValkeyBroker)
        self.core = world.broker._core
        self._hall = hall(server_name)
        self._database = self._hall.database_of(folder)

    def call(self, *command: str | bytes | int) -> Any:
        """Send the server a command, as an operator does."""
        return self._hall.server.call(*command, database=self._database)

    def fill_memory(self, *, is_full: bool) -> None:
        """Let the server have no memory left, or plenty."""
        self._hall.server.configure("maxmemory", 1 if is_full else 0)


@pytest_asyncio.fixture(params=["valkey", "redis"])
async def stage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stage]:
    kind = next(kind for kind in KINDS if kind.name == request.param)
    world = World(kind, tmp_path, Limits(), ManualClock())
    await world.start()
    found = Stage(world, request.param, tmp_path)
    yield found
    found.fill_memory(is_full=False)
    await world.stop()


async def refused(awaitable: Awaitable[object], error: type[Exception]) -> bool:
    """Return whether it raises `error`; no other error counts."""
    try:
        await awaitable
    except error:
        return True
    except Exception as other:  # what a server says of a script that lacks a check
        raise AssertionError(f"{other!r} instead of {error.__name__}") from other
    return False


async def open_batch(stage: Stage, *, is_ordered: bool, count: int = 2) -> tuple[Member, list[Record]]:
    """Append records and have a worker take them."""
    await stage.broker.append(TOPIC, numbered(count))
    member = await (own if is_ordered else share)(stage.broker)
    return member, list(await take(member.consumer))


async def lose_to_an_heir(stage: Stage, *, is_ordered: bool) -> tuple[Member, list[Record], Member]:
    """Return a worker that was taken for dead, what it still has in hand, and who has that by now."""
    zombie, records = await open_batch(stage, is_ordered=is_ordered)
    zombie.session.abandon()
    await stage.world.expire_leases()
    heir = await (own if is_ordered else share)(await stage.world.open_other())
    await take(heir.consumer)
    return zombie, records, heir


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


async def an_ordered_commit_to_something_else_writes_nothing(stage: Stage) -> None:
    await _commit_to_something_else(stage, is_ordered=True)


async def windows_kept_as_something_else_are_not_written_in_part(stage: Stage) -> None:
    for key in ("slots:billing:app.total", "win:billing:app.total:0", "wkeys:billing:app.total:0"):
        member, records = await open_batch(stage, is_ordered=True)
        stage.call("SET", f"pspf:{{{TOPIC}}}:{key}", "mine")
        changes = WindowChanges(5, b"{}", (), {(0, b"a"): b"1"})
        commit = settle(records, position=records[-1].offset + 1, emits=[emit(records[0], "x")])
        before = await read_lag(stage.broker, ORDERED)
        assert await refused(member.consumer.commit(replace(commit, windows=changes)), BackendCorrupt)
        assert await read_lag(stage.broker, ORDERED) == before
        stage.call("DEL", f"pspf:{{{TOPIC}}}:{key}")
        await member.session.close()


async def a_shared_commit_to_something_else_writes_nothing(stage: Stage) -> None:
    await _commit_to_something_else(stage, is_ordered=False)


async def _commit_to_something_else(stage: Stage, *, is_ordered: bool) -> None:
    member, records = await open_batch(stage, is_ordered=is_ordered)
    await stage.broker.create_topic("alerts")
    stage.call("SET", "alerts", "no stream")
    position = records[-1].offset + 1 if is_ordered else None
    commit = settle(records, position=position, emits=[emit(records[0], "x")])
    assert await refused(member.consumer.commit(commit), BackendCorrupt)
    assert await read_lag(stage.broker, ORDERED if is_ordered else SHARED) == 2


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
    assert await other.acquire(ORDERED) is None
    assert owner.consumer.lease is not None


async def a_fenced_worker_that_lets_go_does_not_harm_its_heir(stage: Stage) -> None:
    zombie, records, heir = await lose_to_an_heir(stage, is_ordered=True)
    await zombie.consumer.release()
    commit = settle(records, position=records[-1].offset + 1)
    assert not await refused(heir.consumer.commit(commit), CommitFenced)


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
    again = await member.session.acquire(ORDERED)
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
    await seeking._forget_state(stage.core, keys, leave=0)
    assert stage.call("HMGET", keys.meta, "token", "session") == [b"", b""]
    assert await refused(owner.consumer.commit(settle(state={(b"k", "n"): b"2"})), CommitFenced)


async def a_cursor_whose_state_was_forgotten_has_moved(stage: Stage) -> None:
    _, keys = await _have_state(stage)
    before = stage.call("HGET", keys.meta, "seq")
    await seeking._forget_state(stage.core, keys, leave=0)
    assert stage.call("HGET", keys.meta, "seq") != before


async def _have_state(stage: Stage) -> tuple[Member, CursorKeys]:
    owner, records = await open_batch(stage, is_ordered=True)
    await owner.consumer.commit(settle(records, position=records[-1].offset + 1, state={(b"k", "n"): b"1"}))
    return owner, (await stage.core.topics.get(TOPIC)).partition(0).cursor(GROUP, HANDLER)


async def who_knows_a_topic_as_it_was_joins_it_as_it_is(stage: Stage) -> None:
    await stage.broker.create_topic(TOPIC)
    other = await stage.world.open_other()
    await other.operations.delete_topic(TOPIC, force=True)
    await other.create_topic(TOPIC, partitions=2)
    assert await (await stage.broker.open_session()).register(TOPIC, GROUP, HANDLER) == 2


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
    commit = settle(records, emits=[emit(record, "zombie") for record in records])
    assert sorted(await zombie.consumer.commit(commit)) == [record.offset for record in records]
    assert await alerts(stage) == []
    assert not await heir.consumer.commit(settle(records))


async def a_commit_finishes_nothing_that_was_given_back_behind_it(stage: Stage) -> None:
    member, records = await open_batch(stage, is_ordered=False)
    same_session = await member.session.share(SHARED)
    await same_session.release()
    heir = await share(await stage.world.open_other())
    assert len(await take(heir.consumer)) == 2
    commit = settle(records, emits=[emit(record, "late") for record in records])
    assert sorted(await member.consumer.commit(commit)) == [record.offset for record in records]
    assert await alerts(stage) == []


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
    commit = settle(records, emits=[emit(record, "late") for record in records])
    assert sorted(await member.consumer.commit(commit)) == [record.offset for record in records]
    assert await alerts(stage) == []


async def a_record_that_was_acknowledged_by_hand_has_no_effect(stage: Stage) -> None:
    member, records = await open_batch(stage, is_ordered=False)
    assert stage.call("XACK", TOPIC, GROUP, records[0].id) == 1
    commit = settle(records, emits=[emit(record, record.value.decode()) for record in records])
    assert list(await member.consumer.commit(commit)) == [records[0].offset]
    assert await alerts(stage) == ["1"]


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


@dataclass(frozen=True, slots=True)
class Guard:
    """A piece of a script, what it is replaced with, and what goes wrong then."""

    module: ModuleType
    script: str
    text: str
    weaker: str
    scenario: Callable[[Stage], Awaitable[None]]

    @property
    def name(self) -> str:
        return f"{self.script.strip('_').lower()}-{self.scenario.__name__}"


_FENCE: Final = "if cursor[1] ~= ARGV[3] or cursor[2] ~= ARGV[4] then return {'FENCED'} end"
_STREAM: Final = "if redis.pcall('XPENDING', stream, ARGV[2])['err'] then return {'GONE'} end"
_TYPES: Final = "if wrong then return wrong end"
_SLOTS: Final = "or check_kinds(6, 6, 'set')"
_WINDOW_KEYS: Final = "or check_kinds(7 + states + windows, 6 + states + 2 * windows, 'zset')"
_TAKES: Final = "redis.call('HINCRBY', meta, 'takes', 1)"
_IS_ALIVE: Final = "elseif not is_alive(live[name], now_ms, shift) then"

GUARDS: Final = (
    Guard(ordered, "_COMMIT", _FENCE, "", a_zombie_commits_nothing),
    Guard(ordered, "_COMMIT", "cursor[1] ~= ARGV[3] or ", "", who_gave_the_lease_back_commits_nothing),
    Guard(
        ordered,
        "_COMMIT",
        "if cursor[3] == commit_id then return {'OK', sequence} end",
        "",
        a_commit_sent_again_is_a_success,
    ),
    Guard(
        ordered,
        "_COMMIT",
        "if sequence ~= ARGV[5] then return {'STALE', sequence} end",
        "",
        a_moved_cursor_takes_no_commit,
    ),
    Guard(ordered, "_COMMIT", _STREAM, "", a_batch_of_a_deleted_stream_is_stale),
    Guard(ordered, "_COMMIT", _TYPES, "", an_ordered_commit_to_something_else_writes_nothing),
    Guard(ordered, "_COMMIT", _SLOTS, "", windows_kept_as_something_else_are_not_written_in_part),
    Guard(
        ordered,
        "_COMMIT",
        "check_kinds(7, 6 + states + windows, 'hash')",
        "check_kinds(7, 6 + states, 'hash')",
        windows_kept_as_something_else_are_not_written_in_part,
    ),
    Guard(ordered, "_COMMIT", _WINDOW_KEYS, "", windows_kept_as_something_else_are_not_written_in_part),
    Guard(
        ordered,
        "_COMMIT",
        "redis.call('HSET', meta, 'seq', sequence,",
        "redis.call('ZREM', due, 'x') redis.call('HSET', meta, 'seq', sequence,",
        a_full_server_takes_nothing_of_an_ordered_commit,
    ),
    Guard(
        ordered,
        "_ACQUIRE",
        "if is_alive(KEYS[5], now_ms, shift) then return {'HELD'} end",
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
        ordered,
        "_LOOK",
        " or redis.pcall('XPENDING', KEYS[1], ARGV[2])['err'] then return",
        " then return",
        an_owner_that_only_reads_notices_that_its_stream_was_deleted,
    ),
    Guard(ordered, "_FORGET", "if key then freed[key] = true end", "", what_waited_behind_a_deleted_record_comes),
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
        "if redis.call('HGET', meta, 'token') ~= ARGV[2] then return -1 end",
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
    Guard(
        seeking,
        "_FORGET_STATE",
        "redis.call('HSET', KEYS[1], 'token', '', 'session', '', 'clean', '1', 'intent', '')",
        "",
        whose_state_is_being_forgotten_has_no_lease,
    ),
    Guard(
        seeking,
        "_FORGET_STATE",
        "redis.call('HINCRBY', KEYS[1], 'seq', 1)",
        "",
        a_cursor_whose_state_was_forgotten_has_moved,
    ),
    Guard(
        shared,
        "_INTEND",
        "if #redis.call('XPENDING', stream, group, ARGV[at], ARGV[at], 1, session) == 1 then",
        "if true then",
        a_zombie_says_nothing_of_what_its_heir_runs,
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
        "if redis.call('XACK', stream, group, id) == 0 then",
        "if redis.call('XACK', stream, group, id) < 0 then",
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
    Guard(shared, "_COMMIT", _TYPES, "", a_shared_commit_to_something_else_writes_nothing),
    Guard(
        shared,
        "_COMMIT",
        "redis.call('HSET', meta, 'c:' .. session, commit_id, 'l:' .. session, '', 'last_commit_ms', text(now_ms))",
        "",
        a_full_server_takes_nothing_of_a_shared_commit,
    ),
    Guard(shared, "_TAKE", _IS_ALIVE, "else", a_slow_worker_keeps_its_own_while_it_lives),
)

SCENARIOS: Final = tuple({guard.scenario.__name__: guard.scenario for guard in GUARDS}.values())


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_with_all_guards(stage: Stage, scenario: Callable[[Stage], Awaitable[None]]) -> None:
    await scenario(stage)


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
async def test_without_the_guard_it_goes_wrong(stage: Stage, guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    whole: Script = getattr(guard.module, guard.script)
    assert whole.text.count(guard.text) == 1, (
        f"{guard.text!r} is in {whole.name}.lua {whole.text.count(guard.text)} times"
    )
    text = whole.text.replace(guard.text, guard.weaker)
    sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    monkeypatch.setattr(guard.module, guard.script, Script(whole.name, text, sha))
    with pytest.raises(AssertionError):
        await guard.scenario(stage)
