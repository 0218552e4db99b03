"""Records that end the process that handles them: found by halving, charged only when alone."""

from collections import Counter
from dataclasses import dataclass, field

import pytest

from pspf.clock import ManualClock
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.limits import Limits
from pspf.events.step_places import STEPS, step_key
from pspf.records import Commit, Cursor, EntryChanges
from tests.support.brokers import World, needs
from tests.support.workers import (
    GROUP,
    HANDLER,
    TOPIC,
    Member,
    emit,
    letter,
    numbered,
    offsets,
    own,
    read_all,
    read_lag,
    retry,
    settle,
    share,
    take_batch,
    values,
)

pytestmark = needs("crash_counts")

MODES = pytest.mark.parametrize("handler", [None, HANDLER], ids=["shared", "ordered"])


async def join(broker: Broker, handler: str | None) -> Member:
    """Join shared or ordered."""
    return await own(broker, handler=handler) if handler else await share(broker)


async def crash(world: World, member: Member) -> None:
    """End the member's process, and let the others notice."""
    member.session.abandon()
    await world.expire_leases()


@MODES
async def test_a_batch_after_a_clean_end_is_not_suspect(world: World, handler: str | None) -> None:
    await world.broker.append(TOPIC, numbered(8))
    member = await join(world.broker, handler)
    await take_batch(member.consumer)
    await member.session.close()
    batch = await take_batch((await join(world.broker, handler)).consumer)
    assert (len(batch.records), batch.suspect, batch.crashes) == (8, False, 0)


@MODES
async def test_a_batch_after_a_crash_is_suspect_and_uncharged(world: World, handler: str | None) -> None:
    await world.broker.append(TOPIC, numbered(8))
    member = await join(world.broker, handler)
    await take_batch(member.consumer)
    await crash(world, member)
    batch = await take_batch((await join(world.broker, handler)).consumer)
    assert values(batch.records)[0] == "0"
    assert (batch.suspect, batch.crashes) == (True, 0)


@MODES
async def test_a_suspect_batch_that_ends_its_process_is_halved_down_to_one(world: World, handler: str | None) -> None:
    await world.broker.append(TOPIC, numbered(16))
    member = await join(world.broker, handler)
    await take_batch(member.consumer)
    sizes = []
    for _ in range(5):
        await crash(world, member)
        member = await join(world.broker, handler)
        batch = await take_batch(member.consumer)
        assert batch.suspect
        sizes.append(len(batch.records))
        await member.consumer.intend(offsets(batch.records))
    assert sizes == [16, 8, 4, 2, 1]


@MODES
async def test_crashes_count_only_for_a_record_that_ran_alone(world: World, handler: str | None) -> None:
    await world.broker.append(TOPIC, numbered(2))
    member = await join(world.broker, handler)
    await take_batch(member.consumer)
    seen = []
    for _ in range(6):
        await crash(world, member)
        member = await join(world.broker, handler)
        batch = await take_batch(member.consumer)
        seen.append((values(batch.records), batch.crashes))
        await member.consumer.intend(offsets(batch.records))
    assert seen == [(["0", "1"], 0), (["0"], 0), (["0"], 1), (["0"], 2), (["0"], 3), (["0"], 4)]


@MODES
async def test_a_crash_before_the_records_ran_charges_nobody(world: World, handler: str | None) -> None:
    await world.broker.append(TOPIC, numbered(1))
    member = await join(world.broker, handler)
    for _ in range(4):
        batch = await take_batch(member.consumer)
        assert batch.crashes == 0
        await crash(world, member)
        member = await join(world.broker, handler)


@MODES
@pytest.mark.parametrize("is_session", [False, True], ids=["consumer", "session"])
async def test_a_release_is_not_charged_and_clears_no_suspicion(
    world: World, handler: str | None, is_session: bool
) -> None:
    await world.broker.append(TOPIC, numbered(8))
    member = await join(world.broker, handler)
    await take_batch(member.consumer)
    await crash(world, member)
    for _ in range(3):
        member = await join(world.broker, handler)
        batch = await take_batch(member.consumer)
        assert (len(batch.records), batch.suspect, batch.crashes) == (8, True, 0)
        await member.consumer.intend(offsets(batch.records))
        await (member.session.close() if is_session else member.consumer.release())


@MODES
async def test_a_release_of_a_single_record_keeps_it_uncharged(world: World, handler: str | None) -> None:
    await world.broker.append(TOPIC, numbered(1))
    member = await join(world.broker, handler)
    await take_batch(member.consumer)
    await crash(world, member)
    for _ in range(4):
        member = await join(world.broker, handler)
        batch = await take_batch(member.consumer)
        assert (values(batch.records), batch.crashes) == (["0"], 0)
        await member.consumer.intend(offsets(batch.records))
        await member.session.close()


@MODES
async def test_a_suspicion_ends_with_the_records_it_is_about(world: World, handler: str | None) -> None:
    await world.broker.append(TOPIC, numbered(4))
    member = await join(world.broker, handler)
    await take_batch(member.consumer)
    for _ in range(2):
        await crash(world, member)
        member = await join(world.broker, handler)
        batch = await take_batch(member.consumer)
        await member.consumer.intend(offsets(batch.records))
    while batch.records:
        await member.consumer.commit(settle(batch.records, position=batch.end if handler else None))
        batch = await take_batch(member.consumer)
    await world.broker.append(TOPIC, numbered(4, start=4))
    batch = await take_batch(member.consumer)
    assert (values(batch.records), batch.suspect) == (["4", "5", "6", "7"], False)
    await member.session.close()
    batch = await take_batch((await join(world.broker, handler)).consumer)
    assert (values(batch.records), batch.suspect) == (["4", "5", "6", "7"], False)


@dataclass
class Deployment:
    """Workers that are restarted whenever a record ends them, as a supervisor does."""

    world: World
    handler: str | None
    poison: set[str]
    clock: ManualClock
    failing: set[str] = field(default_factory=set)
    """Fail once, to be retried: due retries mix with the suspects."""
    handled: Counter[str] = field(default_factory=Counter)
    ends: int = 0

    async def run(self) -> None:
        """Restart until nothing is left."""
        cursor = Cursor(TOPIC, GROUP, self.handler, 0)
        await (await join(self.world.broker, self.handler)).session.close()
        while await read_lag(self.world.broker, cursor):
            member = await join(self.world.broker, self.handler)
            if await self._work(member):
                await member.session.close()
            else:
                self.ends += 1
                # One crash nobody expected, at most seven halvings of 100, three alone: for each of them.
                assert self.ends <= (1 + 7 + self.world.limits.max_crashes) * len(self.poison)
                await crash(self.world, member)
            self.clock.advance(1_000)

    async def _work(self, member: Member) -> bool:
        """Handle batches until one is empty; return False where a record ended the process."""
        while (batch := await take_batch(member.consumer, 50)).records:
            position = batch.end if self.handler else None
            if len(batch.records) == 1 and batch.crashes >= self.world.limits.max_crashes:
                await member.consumer.commit(settle(dead=[letter(batch.records[0])], position=position))
                continue
            if batch.suspect:
                await member.consumer.intend(offsets(batch.records))
            names = values(batch.records)
            for name in names:
                self.handled[name] += 1
                if name in self.poison:
                    return False
            failed = [record for record in batch.records if self._fails(record.value.decode(), record.attempts)]
            done = [record for record in batch.records if record not in failed]
            commit = settle(
                done,
                retries=[retry(record, due_ms=self.clock.now_ms() + 1_000) for record in failed],
                emits=[emit(record, record.value.decode()) for record in done],
                position=position,
            )
            assert not await member.consumer.commit(commit)
        return True

    def _fails(self, name: str, attempts: int) -> bool:
        return name in self.failing and attempts == 0


@MODES
@pytest.mark.parametrize("poison", [{0}, {49}, {17}, {17, 18}, {3, 40, 99}])
async def test_a_record_that_always_ends_its_process_is_the_only_dead_letter(
    world: World, clock: ManualClock, handler: str | None, poison: set[int]
) -> None:
    await world.broker.append(TOPIC, numbered(100))
    deployment = Deployment(world, handler, {str(n) for n in poison}, clock)
    await deployment.run()
    dead = [found.record.value.decode() for found in await world.broker.list_dead_letters()]
    assert sorted(dead, key=int) == [str(n) for n in sorted(poison)]
    neighbours = sorted(values(await read_all(world.broker, "alerts")), key=int)
    assert neighbours == [str(n) for n in range(100) if n not in poison]


@MODES
async def test_a_poison_among_retries_is_the_only_dead_letter(
    world: World, clock: ManualClock, handler: str | None
) -> None:
    await world.broker.append(TOPIC, numbered(60))
    deployment = Deployment(world, handler, {"30"}, clock, failing={str(n) for n in range(0, 60, 7)})
    await deployment.run()
    assert [found.record.value for found in await world.broker.list_dead_letters()] == [b"30"]
    neighbours = sorted(values(await read_all(world.broker, "alerts")), key=int)
    assert neighbours == [str(n) for n in range(60) if n != 30]


@MODES
async def test_a_machine_that_crashes_by_itself_loses_no_record(
    world: World, clock: ManualClock, handler: str | None, limits: Limits
) -> None:
    """Every third batch ends its process whatever is in it: nothing may be lost, nothing counted twice."""
    await world.broker.append(TOPIC, numbered(100))
    batches = 0
    await (await join(world.broker, handler)).session.close()
    while await read_lag(world.broker, Cursor(TOPIC, GROUP, handler, 0)):
        member = await join(world.broker, handler)
        while True:
            batch = await take_batch(member.consumer, 10)
            if not batch.records:
                await member.session.close()
                break
            assert batch.crashes < limits.max_crashes
            if batch.suspect:
                await member.consumer.intend(offsets(batch.records))
            batches += 1
            if batches % 3 == 0:
                await crash(world, member)
                break
            emits = [emit(record, record.value.decode()) for record in batch.records]
            await member.consumer.commit(settle(batch.records, emits=emits, position=batch.end if handler else None))
    assert sorted(values(await read_all(world.broker, "alerts")), key=int) == [str(n) for n in range(100)]


@needs("retries")
@MODES
async def test_crashes_of_one_record_are_not_charged_to_another(
    world: World, clock: ManualClock, handler: str | None
) -> None:
    await world.broker.append(TOPIC, numbered(2))
    member = await join(world.broker, handler)
    retried, poison = (await take_batch(member.consumer)).records
    waiting = retry(retried, due_ms=clock.now_ms() + 3_600_000)
    position = poison.offset if handler else None
    await member.consumer.commit(settle(retries=[waiting], position=position))
    for _ in range(3):
        await crash(world, member)
        member = await join(world.broker, handler)
        batch = await take_batch(member.consumer)
        assert offsets(batch.records) == [poison.offset]
        await member.consumer.intend([poison.offset])
    await crash(world, member)
    clock.advance(3_600_000)
    member = await join(world.broker, handler)
    batch = await take_batch(member.consumer, 1)
    while batch.records[0].offset != retried.offset:
        await member.consumer.commit(settle(batch.records, position=batch.end if handler else None))
        batch = await take_batch(member.consumer, 1)
    assert batch.crashes == 0


async def see_crashes(world: World, handler: str | None, *runs: tuple[bool, ...]) -> list[int]:
    """Crash with a record that is known to have been in hand; `runs` say whether it was noted as alone, in turn.

    Return what it was charged with before each run, and at the end.
    """
    seen = []
    for run in [*runs, None]:
        member = await join(world.broker, handler)
        batch = await take_batch(member.consumer)
        assert (len(batch.records), batch.suspect) == (1, True)
        seen.append(batch.crashes)
        for is_alone in run or ():
            await member.consumer.intend(offsets(batch.records), is_alone=is_alone)
        await crash(world, member)
    return seen


async def leave_one_in_hand(world: World, handler: str | None) -> None:
    await world.broker.append(TOPIC, numbered(1))
    member = await join(world.broker, handler)
    await take_batch(member.consumer)
    await crash(world, member)


@MODES
async def test_a_crash_charges_no_record_that_others_ran_beside(world: World, handler: str | None) -> None:
    await leave_one_in_hand(world, handler)
    assert await see_crashes(world, handler, (False,), (False,), (True,)) == [0, 0, 0, 1]


@MODES
async def test_what_was_noted_as_alone_is_charged_with_no_crash_once_others_run_too(
    world: World, handler: str | None
) -> None:
    await leave_one_in_hand(world, handler)
    runs = [(True,), (True, False), (True, False), (True,), (True, False), (False, True)]
    assert await see_crashes(world, handler, *runs) == [0, 1, 1, 1, 2, 2, 3]


@MODES
async def test_a_range_that_others_ran_beside_is_halved(world: World, handler: str | None) -> None:
    await world.broker.append(TOPIC, numbered(8))
    member = await join(world.broker, handler)
    await take_batch(member.consumer)
    sizes = []
    for _ in range(3):
        await crash(world, member)
        member = await join(world.broker, handler)
        batch = await take_batch(member.consumer)
        sizes.append(len(batch.records))
        await member.consumer.intend(offsets(batch.records), is_alone=False)
    assert sizes == [8, 4, 2]


@MODES
async def test_a_record_that_others_run_beside_is_committed_as_any_other(world: World, handler: str | None) -> None:
    await leave_one_in_hand(world, handler)
    assert await see_crashes(world, handler, (True,)) == [0, 1]
    member = await join(world.broker, handler)
    batch = await take_batch(member.consumer)
    for is_alone in (True, False):
        await member.consumer.intend(offsets(batch.records), is_alone=is_alone)
    assert not await member.consumer.commit(settle(batch.records, position=batch.end if handler else None))
    await world.broker.append(TOPIC, numbered(1, start=1))
    batch = await take_batch(member.consumer)
    assert (values(batch.records), batch.suspect) == (["1"], False)


async def test_a_commit_within_a_batch_leaves_the_suspicion_and_the_crashes_as_they_are(world: World) -> None:
    await world.broker.append(TOPIC, numbered(3))
    member = await join(world.broker, HANDLER)
    await take_batch(member.consumer)
    charged: list[int] = []
    for number in range(5):
        await crash(world, member)
        member = await join(world.broker, HANDLER)
        batch = await take_batch(member.consumer)
        assert batch.suspect
        charged += [batch.crashes] if len(batch.records) == 1 else []
        await member.consumer.intend([record.offset for record in batch.records])
        changes = EntryChanges((), {STEPS: {step_key(0, f"step-{number}"): b"1"}})
        await member.consumer.commit(Commit(b"%012d" % number, changes=changes))
    assert len(charged) >= 3
    assert charged == list(range(charged[0], charged[0] + len(charged))), "one more with each crash"
