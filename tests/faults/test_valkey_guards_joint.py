"""Checks of a joint commit: each is taken out of its script, and the scenario that it is for ends badly."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

import pytest

from pspf.connectors.valkey.consume import acquiring, ordered
from pspf.errors import BackendCorrupt, CommitFenced, CommitStale
from pspf.records import Commit
from tests.faults.guards import Guard, Stage, refused, scenarios_of
from tests.support.joint import BESIDE, HOME, OTHER, Pair, own_both
from tests.support.workers import (
    GROUP,
    HANDLER,
    TOPIC,
    emit,
    letter,
    numbered,
    read_all,
    settle,
    take,
    take_batch,
    values,
)


async def open_both(stage: Stage) -> tuple[Pair, Commit, Commit]:
    """Return a worker with a batch of both topics in hand, and its joint commit."""
    for topic in (TOPIC, OTHER):
        await stage.broker.append(topic, numbered(2))
    pair = await own_both(stage.broker)
    first, second = await take_batch(pair.home), await take_batch(pair.beside)
    home = settle(first.records, position=first.end, emits=[emit(first.records[0], "joint")])
    return pair, home, settle(second.records, position=second.end)


async def who_has_lost_the_one_beside_commits_nothing(stage: Stage) -> None:
    pair, home, beside = await open_both(stage)
    stage.call("HSET", f"pspf:{{{OTHER}}}:cur:{GROUP}:{HANDLER}", "token", "another's")
    assert await refused(pair.home.commit_jointly(home, [(pair.beside, beside)]), CommitFenced)
    assert await read_all(stage.broker, "alerts") == []


async def a_joint_commit_sent_again_is_a_success(stage: Stage) -> None:
    pair, home, beside = await open_both(stage)
    for _ in range(2):
        await pair.home.commit_jointly(home, [(pair.beside, beside)])
    assert values(await read_all(stage.broker, "alerts")) == ["joint"]


async def what_was_moved_beside_takes_no_commit(stage: Stage) -> None:
    pair, home, beside = await open_both(stage)
    (first, *_) = beside.done
    (dead, *_) = await stage.broker.read(OTHER, 0, offset=first, max_records=1)
    await pair.home.commit_jointly(replace(home, emits=(), dead=[letter(dead)]), [(pair.beside, beside)])
    await stage.broker.replay_dead_letters(await stage.broker.list_dead_letters())
    home = settle(emits=home.emits)
    assert await refused(pair.home.commit_jointly(home, [(pair.beside, settle())]), CommitStale)
    assert await read_all(stage.broker, "alerts") == []


async def a_batch_of_a_stream_deleted_beside_is_stale(stage: Stage) -> None:
    pair, home, beside = await open_both(stage)
    stage.call("DEL", OTHER)
    assert await refused(pair.home.commit_jointly(home, [(pair.beside, beside)]), CommitStale)
    assert await read_all(stage.broker, "alerts") == []


async def what_waits_beside_kept_as_something_else_is_not_written_in_part(stage: Stage) -> None:
    pair, home, beside = await open_both(stage)
    stage.call("SET", f"pspf:{{{OTHER}}}:due:{GROUP}:{HANDLER}", "mine")
    assert await refused(pair.home.commit_jointly(home, [(pair.beside, beside)]), BackendCorrupt)
    assert await read_all(stage.broker, "alerts") == []


async def who_has_lost_the_first_takes_none_beside_it(stage: Stage) -> None:
    pair, _, _ = await open_both(stage)
    await stage.broker.operations.seek(HOME, 0, force=True)
    heir = await own_both(await stage.world.open_other())
    assert await refused(pair.session.take_beside(pair.home, BESIDE), CommitFenced)
    assert values(await take(heir.beside)) == ["0", "1"]


async def nobody_is_charged_for_what_was_taken_from_who_lives(stage: Stage) -> None:
    pair, _, _ = await open_both(stage)
    await stage.broker.operations.seek(HOME, 0, force=True)
    heir = await own_both(await stage.world.open_other())
    assert not (await take_batch(heir.beside)).suspect
    assert pair.beside.lease is not None


_FENCE: Final = "if found[1] ~= ARGV[at + 1] or found[2] ~= ARGV[at + 2] then return {'FENCED', number} end"
_STALE: Final = "if sequence ~= ARGV[at + 3] then return {'STALE', number, sequence} end"
_GONE: Final = "if not has_group(KEYS[key], ARGV[at]) then return {'GONE', number} end"
_BESIDE: Final = "if is_beside and redis.call('HGET', KEYS[7], 'token') ~= ARGV[8] then return {'FENCED'} end"
_DUES: Final = "check_keys(key + 2, key + 2, 'zset', 'ZADD', 'ZREM')"


def of_the_first(guard: str) -> str:
    """Return a check as it would be of the first cursor alone."""
    return f"if number == 1 then {guard} end"


GUARDS: Final = (
    Guard(ordered, "_COMMIT", _FENCE, of_the_first(_FENCE), who_has_lost_the_one_beside_commits_nothing),
    Guard(ordered, "_COMMIT", "sent_before = sent_before + 1", "", a_joint_commit_sent_again_is_a_success),
    Guard(ordered, "_COMMIT", _STALE, of_the_first(_STALE), what_was_moved_beside_takes_no_commit),
    Guard(ordered, "_COMMIT", _GONE, of_the_first(_GONE), a_batch_of_a_stream_deleted_beside_is_stale),
    Guard(
        ordered,
        "_COMMIT",
        _DUES,
        f"(key == 2 and {_DUES} or nil)",
        what_waits_beside_kept_as_something_else_is_not_written_in_part,
    ),
    Guard(acquiring, "_ACQUIRE", _BESIDE, "", who_has_lost_the_first_takes_none_beside_it),
    Guard(
        acquiring, "_ACQUIRE", " and not is_taken then", " then", nobody_is_charged_for_what_was_taken_from_who_lives
    ),
)


@pytest.mark.parametrize("scenario", scenarios_of(GUARDS), ids=lambda scenario: scenario.__name__)
async def test_with_all_guards(stage: Stage, scenario: Callable[[Stage], Awaitable[None]]) -> None:
    await scenario(stage)


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
async def test_without_the_guard_it_goes_wrong(stage: Stage, guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    await guard.check(stage, monkeypatch)
