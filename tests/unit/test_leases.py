"""Balancing by leases, without a broker: shares, moves, what is revoked when, what nobody reads."""

import asyncio
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pspf.backoff import Outage
from pspf.connectors.contract.assigned import Assigned
from pspf.connectors.contract.cursors import Consumer
from pspf.connectors.contract.limits import Limits
from pspf.connectors.leases.balance import LeaseBalance
from pspf.connectors.leases.leases import Leases
from pspf.connectors.leases.shares import UnreadPartitions, choose_given_back, share_of
from pspf.errors import BackendUnavailable, NotFound
from pspf.records import Batch, Commit, Cursor
from tests.support.waiting import wait_until

LEASE_MS = 40


def test_only_the_newest_beyond_the_share_are_given_back() -> None:
    held = {0: 100.0, 1: 300.0, 2: 200.0}
    assert choose_given_back(held, 3, 1_000, 50) == []
    assert choose_given_back(held, 2, 1_000, 50) == [1]
    assert choose_given_back(held, 1, 1_000, 50) == [1, 2]
    assert choose_given_back(held, 0, 1_000, 50) == [1, 2, 0]


def test_what_is_beyond_the_share_is_held_for_a_lease_first() -> None:
    """Another one is not given back in its place: it would come back next."""
    assert choose_given_back({0: 0.0, 1: 980.0}, 1, 1_000, 50) == []
    assert choose_given_back({0: 0.0, 1: 950.0}, 1, 1_000, 50) == [1]


def test_a_partition_is_unread_once_it_was_free_for_so_long_without_a_break() -> None:
    unread = UnreadPartitions(100)
    assert unread.update([1, 2, 3], {3}, 0) == ()
    assert unread.update([1, 2], (), 99) == ()
    assert unread.update([2, 3], (), 100) == (2,)
    assert unread.update([1, 2, 3], (), 120) == (2,)  # 1 was read in between, 3 was held
    assert unread.update([1, 3], {3}, 220) == (1,)


@dataclass
class Member:
    """A member that reviews when it is told to, as `LeaseBalance` does, on a table of owners."""

    name: str
    held: dict[int, float] = field(default_factory=dict)

    def review(self, members: Sequence[str], owners: dict[int, str], partitions: int, now_ms: int) -> int:
        """Take and give back; return how many partitions moved."""
        share, before = share_of(members, self.name, partitions), len(self.held)
        for partition in [each for each in range(partitions) if each not in owners]:
            if len(self.held) < share:
                owners[partition], self.held[partition] = self.name, now_ms
        for partition in choose_given_back(self.held, share, now_ms, LEASE_MS):
            del owners[partition], self.held[partition]
        return abs(len(self.held) - before)


@given(
    partitions=st.integers(0, 24),
    changes=st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=8),
    order=st.randoms(use_true_random=False),
)
def test_members_that_come_and_go_end_with_an_even_division_and_then_nothing_moves(
    partitions: int, changes: list[tuple[bool, int]], order: random.Random
) -> None:
    members: dict[str, Member] = {}
    owners: dict[int, str] = {}
    now_ms = 0

    def settle() -> int:
        """Let all review, in any order, until that moves nothing; return what was moved."""
        nonlocal now_ms
        moved = 0
        for _ in range(2 * len(members) + 3):
            now_ms += LEASE_MS
            names = list(members)
            order.shuffle(names)
            moved += sum(members[each].review(sorted(members), owners, partitions, now_ms) for each in names)
        return moved

    for joins, number in [*changes, (True, 9)]:
        name = f"worker-{number}"
        if joins:
            members.setdefault(name, Member(name))
        elif name in members:
            for partition in members.pop(name).held:
                del owners[partition]
        settle()
        counts = [len(each.held) for each in members.values()]
        assert sum(counts) == (partitions if members else 0)
        assert max(counts, default=0) - min(counts, default=0) <= 1
        assert settle() == 0


def test_a_member_that_joins_moves_no_more_than_its_share() -> None:
    members, owners = {f"w{n}": Member(f"w{n}") for n in range(3)}, dict[int, str]()
    for now_ms in range(0, 10 * LEASE_MS, LEASE_MS):
        for member in members.values():
            member.review(sorted(members), owners, 12, now_ms)
    before = dict(owners)
    members["w3"] = Member("w3")
    for now_ms in range(10 * LEASE_MS, 20 * LEASE_MS, LEASE_MS):
        for member in members.values():
            member.review(sorted(members), owners, 12, now_ms)
    assert sum(owners[partition] != owner for partition, owner in before.items()) == 3


# LeaseBalance on a table of leases


class Idle(Consumer):
    """A cursor that nobody reads from."""

    def __init__(self, cursor: Cursor) -> None:
        self.cursor = cursor
        self.lease = None

    async def poll(self, *, max_records: int, timeout_ms: int, retries_only: bool = False) -> Batch:
        raise NotImplementedError

    async def commit(self, commit: Commit) -> Sequence[int]:
        raise NotImplementedError

    async def intend(self, offsets: Sequence[int], *, is_alone: bool = True) -> None:
        raise NotImplementedError

    async def release(self) -> None:
        raise NotImplementedError


class Table(Leases):
    """The leases of one handler in a dictionary; what `fails` names fails once, after it was done."""

    review_ms = 20

    def __init__(self, members: list[str], owners: dict[int, str | None]) -> None:
        self.id = "me"
        self.limits = Limits(lease_ms=LEASE_MS)
        self.outage = Outage()
        self.members = members
        self.owners = owners
        self.lost: list[int] = []
        self.fails: dict[str, Exception] = {}
        self.calls: list[str] = []
        self.heard = asyncio.Event()

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name in self.fails:
            raise self.fails.pop(name)

    async def resign(self, topic: str, group: str, handler: str | None) -> None:
        self.members.remove(self.id)

    async def listen(self, topic: str, group: str, handler: str) -> None:
        self._called("listen")
        await self.heard.wait()
        self.heard.clear()

    async def read_members(self, topic: str, group: str, handler: str | None) -> Sequence[str]:
        self._called("read_members")
        return list(self.members)

    async def read_free(self, topic: str, group: str, handler: str) -> Sequence[int]:
        self._called("read_free")
        return [partition for partition, owner in self.owners.items() if owner is None]

    async def read_lost(self, topic: str, group: str, handler: str) -> Sequence[int]:
        return self.lost

    async def acquire(self, cursor: Cursor) -> Consumer | None:
        if self.owners[cursor.partition] not in (None, self.id):
            return None
        self.owners[cursor.partition] = self.id
        self._called("acquire")
        return Idle(cursor)


class Balance:
    """A balance under test, and what it held and told."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.unread: list[tuple[int, ...]] = []
        self.cursors = LeaseBalance(table, "orders", "g", "h", len(table.owners), self.unread.append)

    async def take_all(self) -> list[Assigned]:
        taken = []
        while (assigned := await self.cursors.take()) is not None:
            taken.append(assigned)
        return taken


async def test_a_member_takes_what_is_free_up_to_its_share() -> None:
    balance = Balance(Table(["me", "other"], {0: "other", 1: None, 2: None, 3: None}))
    assert [each.partition for each in await balance.take_all()] == [1, 2]
    assert balance.table.owners[3] is None
    await balance.cursors.close()


async def test_what_is_beyond_the_share_is_revoked_once_and_taken_again_only_when_it_is_given_back() -> None:
    table = Table(["me"], {0: None, 1: None})
    balance = Balance(table)
    held = await balance.take_all()
    stopped: list[int] = []
    for each in held:
        each.when_revoked(partial(stopped.append, each.partition))
    table.members = ["me", "other"]
    assert await balance.take_all() == []
    assert stopped == []  # it was held for no lease yet
    await asyncio.sleep(LEASE_MS / 1000)
    for _ in range(2):
        assert await balance.take_all() == []
    assert stopped == [1]
    table.owners[1] = None
    held[1].given_back()
    table.members = ["me"]
    assert [each.partition for each in await balance.take_all()] == [1]
    await balance.cursors.close()


async def test_a_cursor_that_was_revoked_before_it_began_is_told_so() -> None:
    assigned, told = Assigned(Idle(Cursor("orders", "g", "h", 0)), lambda _: None), list[str]()
    assigned.revoke()
    assigned.revoke()
    assigned.when_revoked(lambda: told.append("revoked"))
    assert told == ["revoked"]


async def test_a_lease_whose_reply_was_lost_is_asked_for_again_whatever_the_share_is_then() -> None:
    table = Table(["me"], {0: None, 1: None})
    table.fails["acquire"] = BackendUnavailable("away")
    balance = Balance(table)
    with pytest.raises(BackendUnavailable):
        await balance.cursors.take()
    table.members = ["other"]
    assert [each.partition for each in await balance.take_all()] == [0]
    await balance.cursors.close()


async def test_a_partition_that_is_gone_is_said_and_not_asked_for_again() -> None:
    table = Table(["me"], {0: None})
    table.fails["acquire"] = NotFound("gone")
    balance = Balance(table)
    with pytest.raises(NotFound):
        await balance.cursors.take()
    table.owners[0] = "other"
    assert await balance.take_all() == []
    assert table.calls.count("acquire") == 1
    await balance.cursors.close()


async def test_what_is_stored_as_ones_own_is_taken_beyond_the_share_at_the_next_survey() -> None:
    table = Table(["other"], {0: "me", 1: "other"})
    table.lost = [0]
    balance = Balance(table)
    assert await balance.take_all() == []
    await asyncio.sleep(LEASE_MS / 1000)
    assert [each.partition for each in await balance.take_all()] == [0]
    await balance.cursors.close()


async def test_what_nobody_reads_for_two_leases_is_said_once_and_taken_back(caplog: pytest.LogCaptureFixture) -> None:
    table = Table(["other"], {0: None, 1: "other"})
    balance = Balance(table)
    with caplog.at_level(logging.ERROR):
        for _ in range(6):
            await asyncio.sleep(LEASE_MS / 1000)
            await balance.take_all()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert "nobody reads 1 partitions (0)" in said[0]
    assert list(balance.unread[0]) == []
    assert list(balance.unread[-1]) == [0]
    await balance.cursors.close()
    assert list(balance.unread[-1]) == []


async def test_a_word_of_a_member_ends_the_wait_before_the_next_review() -> None:
    table = Table(["me"], {})
    table.review_ms = 60_000
    balance = Balance(table)
    await balance.take_all()
    async with asyncio.timeout(5):
        asyncio.get_running_loop().call_later(0.02, table.heard.set)
        await balance.cursors.wait()
        asyncio.get_running_loop().call_later(0.02, balance.cursors.wake)
        await balance.take_all()
        await balance.cursors.wait()
    await balance.cursors.close()


async def test_listening_outlives_a_broker_that_is_away_and_raises_what_else_ends_it() -> None:
    table = Table(["me"], {})
    table.review_ms = 60_000
    table.fails["listen"] = BackendUnavailable("away")
    balance = Balance(table)
    await balance.take_all()

    async def listened_again() -> bool:
        return table.calls.count("listen") == 2

    async with asyncio.timeout(5):
        await wait_until(listened_again)
        table.fails["listen"] = ValueError("broken")
        table.heard.set()
        await balance.cursors.wait()
        await asyncio.sleep(0.01)
        with pytest.raises(ValueError, match="broken"):
            await balance.take_all()
    with pytest.raises(ValueError, match="broken"):
        await balance.cursors.close()
