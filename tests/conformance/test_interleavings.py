"""Random interleavings of several workers, crashes and lost leases, against a model.

A failure prints the steps as code, and a blob that repeats them: `@reproduce_failure(...)`.
"""

import asyncio
import json
import tempfile
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from pspf.clock import ManualClock
from pspf.connectors.contract.cursors import Consumer
from pspf.connectors.contract.limits import Limits
from pspf.connectors.contract.membership import Session
from pspf.errors import CommitFenced, CommitStale
from pspf.records import Commit, Cursor, Record, Retry, parse_id
from tests.conformance.model import Model, Outcome, Plan
from tests.support.brokers import Kind, World, leased, needs
from tests.support.workers import GROUP, HANDLER, TOPIC, emit, letter, new, offsets, read_all, read_state, retry, settle

pytestmark = needs(
    "shared", "ordered", "leases", "retries", "entries", "crash_counts", "replay", "pending", "seek", "trim", "dedup"
)

T = TypeVar("T")

PARTITIONS: Final = 2
OUT: Final = "out"
MAX_WORKERS: Final = 4
KEYS: Final = (None, "a", "b", "c", "d")
OUTCOMES: Final = (Outcome.DONE, Outcome.DONE, Outcome.DONE, Outcome.RETRY, Outcome.DEAD)
SHARED_OUTCOMES: Final = (*OUTCOMES, Outcome.LEFT)
DELAYS: Final = (0, 200, 3_000, 30_000)

partitions = st.integers(0, PARTITIONS - 1)
sizes = st.integers(1, 6)
outcomes = st.lists(st.sampled_from(OUTCOMES), min_size=6, max_size=6)
shared_outcomes = st.lists(st.sampled_from(SHARED_OUTCOMES), min_size=6, max_size=6)
delays = st.sampled_from(DELAYS)


def first_of_keys(rows: dict[int, Retry]) -> dict[int, Retry]:
    """Return rows without the due time of each that is behind an earlier one of its key.

    It does not run before that one, whenever it is due. After a replay it may keep the time that it had.
    """
    keys: set[bytes] = set()
    seen: dict[int, Retry] = {}
    for offset, row in sorted(rows.items()):
        seen[offset] = replace(row, due_ms=None) if row.key in keys else row
        if row.key is not None:
            keys.add(row.key)
    return seen


@dataclass
class OrderedHand:
    """An ordered cursor in a worker's hands: what it polled and not committed, and the rows as it knows them."""

    consumer: Consumer
    read_position: int
    rows: dict[int, Retry]
    queue: list[tuple[list[Record], int]] = field(default_factory=list)
    last: Commit | None = None

    @property
    def taken(self) -> set[int]:
        return {record.offset for records, _ in self.queue for record in records}


@dataclass
class Worker:
    """A worker: alive, or a zombie that was taken for dead and still sends what it has."""

    number: int
    session: Session
    shared: dict[int, Consumer] = field(default_factory=dict)
    in_hand: dict[int, dict[int, Record]] = field(default_factory=lambda: {p: {} for p in range(PARTITIONS)})
    sent: list[tuple[int, Commit]] = field(default_factory=list)
    ordered: dict[int, OrderedHand] = field(default_factory=dict)
    is_dead: bool = False


class Interleavings(RuleBasedStateMachine):
    """Each rule does one thing on the broker and the same on the model, and compares."""

    kind: ClassVar[Kind]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory(prefix="pspf-test-")
        self.clock = ManualClock()
        limits = Limits(synchronous="NORMAL", lease_ms=4_000, renew_ms=1_000)
        self.world = World(self.kind, Path(self.folder.name), limits, self.clock)
        self.model = Model(PARTITIONS)
        self.workers: list[Worker] = []
        self.numbers = 0
        self.run(self._set_up())

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    async def _set_up(self) -> None:
        await self.world.start()
        await self.world.broker.create_topic(TOPIC, partitions=PARTITIONS, retention_ms=0)
        await self.world.broker.create_topic(OUT, retention_ms=-1)
        await self._hire()

    async def _hire(self) -> Worker:
        session = await self.world.broker.open_session()
        await session.register(TOPIC, GROUP, None)
        await session.register(TOPIC, GROUP, HANDLER)
        worker = Worker(self.numbers, session)
        self.numbers += 1
        for partition in range(PARTITIONS):
            worker.shared[partition] = await session.share(Cursor(TOPIC, GROUP, None, partition))
        self.workers.append(worker)
        return worker

    @property
    def alive(self) -> list[Worker]:
        return [worker for worker in self.workers if not worker.is_dead]

    @property
    def dead_numbers(self) -> set[int]:
        alive = {worker.number for worker in self.alive}
        return set(range(self.numbers)) - alive

    def pick(self, choice: int, *, is_alive: bool = True) -> Worker:
        pool = self.alive if is_alive else self.workers
        return pool[choice % len(pool)]

    # The log, time, and who is there

    @rule(keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=8))
    def append(self, keys: list[str | None]) -> None:
        placed = self.run(self.world.broker.append(TOPIC, [new("x", key) for key in keys]))
        for key, place in zip(keys, placed, strict=True):
            assert not place.duplicate
            self.model.append(place.partition, place.offset, key.encode() if key else None)

    @rule(key=st.sampled_from(KEYS[1:]), numbers=st.lists(st.integers(0, 5), min_size=1, max_size=4))
    def append_with_ids(self, key: str, numbers: list[int]) -> None:
        records = [new("x", key, event_id=f"{key}-{number}") for number in numbers]
        for record, place in zip(records, self.run(self.world.broker.append(TOPIC, records)), strict=True):
            identity = (place.partition, str(record.event_id))
            assert place.duplicate == (identity in self.model.ids)
            assert self.model.ids.setdefault(identity, place.offset) == place.offset
            if not place.duplicate:
                self.model.append(place.partition, place.offset, record.raw_key)

    @rule(by_ms=st.sampled_from((1, 250, 3_000, 7_000)))
    def pass_time(self, by_ms: int) -> None:
        self.run(self.world.pass_time(by_ms))

    @precondition(lambda self: len(self.workers) < MAX_WORKERS)
    @rule()
    def hire(self) -> None:
        self.run(self._hire())

    @rule(choice=st.integers(0, 9))
    def close(self, choice: int) -> None:
        worker = self.pick(choice)
        self.run(worker.session.close())
        self._forget(worker)

    def _forget(self, worker: Worker) -> None:
        """Note that a worker left and gave all back, and see to it that somebody works."""
        self._leave(worker)
        if not self.alive:
            self.hire()

    @rule(choice=st.integers(0, 9))
    def crash(self, choice: int) -> None:
        worker = self.pick(choice)

        async def abandon() -> None:
            worker.session.abandon()

        self.run(abandon())
        worker.is_dead = True
        if not self.alive:
            self.hire()

    @precondition(lambda self: any(worker.is_dead for worker in self.workers))
    @rule()
    def bury_the_dead(self) -> None:
        self.workers = self.alive

    @rule()
    def reopen(self) -> None:
        self.run(self.world.reopen())
        for worker in self.alive:
            self._leave(worker)
        self.workers = []
        self.hire()

    # Shared mode

    @rule(choice=st.integers(0, 9), partition=partitions, size=sizes)
    def take(self, choice: int, partition: int, size: int) -> None:
        self.run(self._take(self.pick(choice), partition, size))

    async def _take(self, worker: Worker, partition: int, size: int) -> int:
        batch = await worker.shared[partition].poll(max_records=size, timeout_ms=0)
        assert len(batch.records) <= size
        for record in batch.records:
            self.model.shared[partition].deliver(record, worker.number, self.dead_numbers, self.clock.now_ms())
            worker.in_hand[partition][record.offset] = record
        if batch.suspect:
            await worker.shared[partition].intend(offsets(batch.records))
        return len(batch.records)

    @rule(choice=st.integers(0, 9), partition=partitions, made=shared_outcomes, delay_ms=delays, whole=st.booleans())
    def settle(self, choice: int, partition: int, made: list[Outcome], delay_ms: int, whole: bool) -> None:
        """Commit what a worker has in hand; zombies try as well."""
        self.run(self._settle(self.pick(choice, is_alive=False), partition, made, delay_ms, whole=whole))

    async def _settle(
        self, worker: Worker, partition: int, made: Sequence[Outcome], delay_ms: int, *, whole: bool
    ) -> None:
        hand = worker.in_hand[partition]
        chosen = {record.offset: made[n % len(made)] for n, record in enumerate(hand.values())}
        if whole:
            chosen = dict.fromkeys(chosen, Outcome.DONE)
        chosen = {offset: outcome for offset, outcome in chosen.items() if outcome is not Outcome.LEFT}
        if not chosen:
            return
        commit, due_ms = self._shared_commit(hand, chosen, delay_ms, whole=whole)
        lost = set(await worker.shared[partition].commit(commit))
        cursor = self.model.shared[partition]
        assert lost <= set(chosen)
        for offset, outcome in chosen.items():
            hand.pop(offset)
            is_ours = cursor.is_held(offset, worker.number)
            if offset in lost:
                assert worker.is_dead or not is_ours, f"{offset} was worker {worker.number}'s, and was refused"
                continue
            assert is_ours, f"{offset} was not worker {worker.number}'s, and was committed"
            cursor.settle(offset, outcome, due_ms)
            if outcome is Outcome.DONE:
                self.model.emit([f"shared {partition}:{offset}"])
        worker.sent.append((partition, commit))

    def _shared_commit(
        self, hand: dict[int, Record], chosen: dict[int, Outcome], delay_ms: int, *, whole: bool
    ) -> tuple[Commit, int]:
        due_ms = self.clock.now_ms() + delay_ms
        by_outcome = {o: [hand[offset] for offset, made in chosen.items() if made is o] for o in Outcome}
        done = by_outcome[Outcome.DONE]
        commit = settle(
            done,
            retries=[retry(r, due_ms=due_ms, attempts=r.attempts + 1) for r in by_outcome[Outcome.RETRY]],
            dead=[letter(record) for record in by_outcome[Outcome.DEAD]],
            emits=[emit(record, f"shared {record.partition}:{record.offset}", topic=OUT) for record in done],
            whole=whole,
        )
        return commit, due_ms

    @rule(choice=st.integers(0, 9), partition=partitions, size=sizes, made=shared_outcomes, delay_ms=delays)
    def work(self, choice: int, partition: int, size: int, made: list[Outcome], delay_ms: int) -> None:
        """Do what a worker does all day: take and settle."""
        worker = self.pick(choice)
        self.run(self._take(worker, partition, size))
        self.run(self._settle(worker, partition, made, delay_ms, whole=False))
        self._send_again(worker, -1)

    @rule(choice=st.integers(0, 9), which=st.integers(0, 9))
    def send_again(self, choice: int, which: int) -> None:
        """Send an old commit again: nothing may change (the invariants look)."""
        self._send_again(self.pick(choice, is_alive=False), which)

    def _send_again(self, worker: Worker, which: int) -> None:
        if not worker.sent:
            return
        partition, commit = worker.sent[which % len(worker.sent)]
        settled = {*commit.done, *(row.offset for row in commit.retries)}
        if not settled & set(worker.in_hand[partition]):  # given to it anew: then it is no resend any more
            self.run(self._ignore(worker.shared[partition].commit(commit)))

    async def _ignore(self, coroutine: Coroutine[Any, Any, object]) -> None:
        await coroutine

    @rule(choice=st.integers(0, 9), partition=partitions)
    def give_back(self, choice: int, partition: int) -> None:
        worker = self.pick(choice)
        self.run(worker.shared[partition].release())
        worker.in_hand[partition].clear()
        self.model.shared[partition].give_back(worker.number)

    # Ordered mode

    @rule(choice=st.integers(0, 9), partition=partitions)
    def acquire(self, choice: int, partition: int) -> None:
        self.run(self._acquire(self.pick(choice), partition))

    async def _acquire(self, worker: Worker, partition: int) -> None:
        if partition in worker.ordered:
            return
        cursor = self.model.ordered[partition]
        consumer = await leased(worker.session).acquire(Cursor(TOPIC, GROUP, HANDLER, partition))
        if consumer is None:
            assert cursor.owner is not None, f"partition {partition} is free, and was refused"
            return
        assert cursor.owner is None or cursor.owner in self.dead_numbers, "the owner lives, and lost its lease"
        assert consumer.lease is not None
        rows = {row.offset: replace(row, error="") for row in consumer.lease.held}
        expected = {offset: replace(row, error="") for offset, row in cursor.rows.items()}
        assert first_of_keys(rows) == first_of_keys(expected), f"kept {rows}, expected {expected}"
        cursor.rows |= {row.offset: row for row in consumer.lease.held}
        assert cursor.unread(consumer.lease.position) == cursor.unread(cursor.position)
        cursor.owner, cursor.is_moved = worker.number, False
        worker.ordered[partition] = OrderedHand(consumer, consumer.lease.position, dict(cursor.rows))

    @rule(choice=st.integers(0, 9), partition=partitions, size=sizes)
    def read(self, choice: int, partition: int, size: int) -> None:
        worker = self.pick(choice)
        hand = worker.ordered.get(partition)
        if hand is not None and len(hand.queue) < 2:
            self.run(self._read(worker, partition, hand, size))

    async def _read(self, worker: Worker, partition: int, hand: OrderedHand, size: int) -> int:
        cursor, now_ms = self.model.ordered[partition], self.clock.now_ms()
        try:
            batch = await hand.consumer.poll(max_records=size, timeout_ms=0)
        except CommitStale:  # a broker may say so before the commit would
            assert cursor.is_moved, "the cursor was not moved, and the owner's read was refused"
            await self._drop(worker, partition)
            return 0
        assert len(batch.records) <= size
        fresh = [record for record in batch.records if record.offset not in hand.taken]
        unread = cursor.unread(hand.read_position)
        new_ones = [record.offset for record in fresh if record.offset >= hand.read_position]
        assert new_ones == unread[: len(new_ones)], f"read {new_ones}, expected {unread}"
        assert batch.end >= max([hand.read_position, *(offset + 1 for offset in new_ones)])
        for record in fresh:
            if record.offset >= hand.read_position:
                assert record.attempts == 0
                continue
            row = cursor.rows[record.offset]
            assert row.due_ms is not None
            assert row.due_ms <= now_ms
            assert record.attempts == row.attempts
        hand.read_position = batch.end
        if batch.records:
            hand.queue.append((fresh, batch.end))
        if batch.suspect:
            await hand.consumer.intend(offsets(batch.records))
        return len(fresh)

    @rule(choice=st.integers(0, 9), partition=partitions, made=outcomes, delay_ms=delays, frees_all=st.booleans())
    def commit(self, choice: int, partition: int, made: list[Outcome], delay_ms: int, frees_all: bool) -> None:
        """Commit a worker's oldest batch; zombies try as well."""
        worker = self.pick(choice, is_alive=False)
        hand = worker.ordered.get(partition)
        if hand is not None and hand.queue:
            self.run(self._commit(worker, partition, hand, made, delay_ms, frees_all=frees_all))

    async def _commit(
        self,
        worker: Worker,
        partition: int,
        hand: OrderedHand,
        made: Sequence[Outcome],
        delay_ms: int,
        *,
        frees_all: bool,
    ) -> None:
        records, end = hand.queue.pop(0)
        plan = Plan(dict(hand.rows))
        for n, record in enumerate(records):
            plan.handle(record, made[n % len(made)], self.clock.now_ms(), delay_ms, frees_all=frees_all)
        state = await self._next_state(hand, plan)
        commit = settle(
            plan.done,
            retries=list(plan.changed.values()),
            position=end,
            dead=[letter(record) for record in plan.dead],
            emits=[emit(record, f"ordered {partition}:{record.offset}", topic=OUT) for record in plan.done],
            state={(key, "seen"): json.dumps(seen).encode() for key, seen in state.items()},
        )
        cursor = self.model.ordered[partition]
        is_owner = cursor.owner == worker.number
        refusal: CommitFenced | None
        try:
            await hand.consumer.commit(commit)
        except CommitFenced as error:
            refusal = error
        else:
            refusal = None
        if refusal is not None:
            is_stale = isinstance(refusal, CommitStale) and cursor.is_moved
            assert worker.is_dead or not is_owner or is_stale, f"the owner's commit was refused: {refusal!r}"
            await self._drop(worker, partition)
            return
        assert is_owner, f"worker {worker.number} committed, the owner is {cursor.owner}"
        assert not cursor.is_moved, "the cursor was moved, and the commit was taken"
        cursor.position, cursor.rows = end, dict(plan.rows)
        cursor.dead.update(offsets(plan.dead))
        cursor.state.update(state)
        self.model.emit([f"ordered {partition}:{record.offset}" for record in plan.done])
        hand.rows, hand.last = plan.rows, commit

    async def _next_state(self, hand: OrderedHand, plan: Plan) -> dict[bytes, list[int]]:
        """Return the state after the batch: per key, the offsets that were handled, in turn."""
        keys = {record.raw_key for record in plan.done if record.raw_key is not None}
        found = await read_state(hand.consumer, sorted(keys))
        state = {key: json.loads(found.get(key, {}).get("seen", b"[]")) for key in keys}
        for record in plan.done:
            if record.raw_key is not None:
                state[record.raw_key].append(record.offset)
        return state

    async def _drop(self, worker: Worker, partition: int) -> None:
        """Let go of a cursor that was lost or moved."""
        hand = worker.ordered.pop(partition)
        await hand.consumer.release()
        if self.model.ordered[partition].owner == worker.number:
            self.model.ordered[partition].owner = None

    @rule(choice=st.integers(0, 9), partition=partitions, times=st.integers(1, 2))
    def send_ordered_again(self, choice: int, partition: int, times: int) -> None:
        """Send the last commit again: a success of the owner's, and nothing changes."""
        self._send_ordered_again(self.pick(choice, is_alive=False), partition, times)

    def _send_ordered_again(self, worker: Worker, partition: int, times: int) -> None:
        hand = worker.ordered.get(partition)
        if hand is None or hand.last is None:
            return
        is_owner = self.model.ordered[partition].owner == worker.number
        for _ in range(times):
            try:
                self.run(self._ignore(hand.consumer.commit(hand.last)))
            except CommitFenced:
                assert worker.is_dead or not is_owner

    @rule(choice=st.integers(0, 9), partition=partitions)
    def let_go(self, choice: int, partition: int) -> None:
        worker = self.pick(choice)
        if partition in worker.ordered:
            self.run(self._drop(worker, partition))

    @rule(
        choice=st.integers(0, 9),
        partition=partitions,
        size=sizes,
        made=outcomes,
        delay_ms=delays,
        again=st.integers(0, 2),
    )
    def work_in_order(
        self, choice: int, partition: int, size: int, made: list[Outcome], delay_ms: int, again: int
    ) -> None:
        """Do what a worker does all day: take the cursor, read, commit; twice. An answer may get lost."""
        worker = self.pick(choice)
        for _ in range(2):
            self.acquire(choice, partition)
            self.read(choice, partition, size)
            if partition in worker.ordered and worker.ordered[partition].queue:
                hand = worker.ordered[partition]
                self.run(self._commit(worker, partition, hand, made, delay_ms, frees_all=False))
                self._send_ordered_again(worker, partition, again)

    # Dead letters

    @rule(which=st.integers(0, 9))
    def replay(self, which: int) -> None:
        letters = self.run(self.world.broker.list_dead_letters())
        if not letters:
            return
        found = letters[which % len(letters)]
        offset = parse_id(found.original_id)[1]
        source = self.run(self.world.broker.read(TOPIC, found.partition, offset=offset, max_records=1))
        if not source or source[0].offset != offset:
            return  # trimmed
        assert self.run(self.world.broker.replay_dead_letters([found])) == 1
        now_ms = self.clock.now_ms()
        if found.ordered:
            self.model.ordered[found.partition].replay(offset, found.record.raw_key, now_ms)
        else:
            self.model.shared[found.partition].replay(offset, now_ms)

    # What must hold at any time

    @invariant()
    def the_lag_is_exact(self) -> None:
        lags = {info.cursor: info.lag for info in self.run(self.world.broker.list_cursors(group=GROUP))}
        for partition in range(PARTITIONS):
            assert lags[Cursor(TOPIC, GROUP, None, partition)] == self.model.shared[partition].lag
            assert lags[Cursor(TOPIC, GROUP, HANDLER, partition)] == self.model.ordered[partition].lag

    @invariant()
    def every_effect_is_there_once(self) -> None:
        emitted = Counter(record.value.decode() for record in self.run(read_all(self.world.broker, OUT)))
        assert emitted == self.model.emitted
        stored = {(e.partition, e.key): json.loads(e.value) for e in self.run(self.world.broker.list_state())}
        expected = {(p, key): seen for p, cursor in enumerate(self.model.ordered) for key, seen in cursor.state.items()}
        assert stored == expected

    @invariant()
    def every_dead_letter_is_there_once(self) -> None:
        letters = self.run(self.world.broker.list_dead_letters())
        found = [(one.ordered, one.partition, parse_id(one.original_id)[1]) for one in letters]
        assert sorted(found) == self.model.dead

    # The end: half of the workers leave, the others crash, one more finishes what there is

    def teardown(self) -> None:
        try:
            self.run(self._finish())
            for cursor in self.model.ordered:
                cursor.check_order()
        finally:
            self.run(self.world.stop())
            self.run(self.loop.shutdown_default_executor())
            self.loop.close()
            self.folder.cleanup()

    async def _finish(self) -> None:
        for worker in self.alive[::2]:
            await worker.session.close()
            self._leave(worker)
        for worker in self.alive:
            worker.session.abandon()
            worker.is_dead = True
        last = await self._hire()
        await self.world.expire_leases()
        await self.world.pass_time(max(DELAYS))
        for partition in range(PARTITIONS):
            while await self._take(last, partition, 100):
                await self._settle(last, partition, [Outcome.DONE], 0, whole=False)
            await self._acquire(last, partition)
            hand = last.ordered[partition]
            while await self._read(last, partition, hand, 100):
                while hand.queue:
                    await self._commit(last, partition, hand, [Outcome.DONE], 0, frees_all=False)
        assert [cursor.lag for cursor in self.model.shared] == [0] * PARTITIONS
        assert [cursor.lag for cursor in self.model.ordered] == [0] * PARTITIONS
        lags = [info.lag for info in await self.world.broker.list_cursors(group=GROUP)]
        assert lags == [0] * 2 * PARTITIONS

    def _leave(self, worker: Worker) -> None:
        self.workers.remove(worker)
        for partition in range(PARTITIONS):
            self.model.shared[partition].give_back(worker.number)
            if self.model.ordered[partition].owner == worker.number:
                self.model.ordered[partition].owner = None


def test_random_interleavings_agree_with_the_model(kind: Kind) -> None:
    machine = type("InterleavingsOfOneKind", (Interleavings,), {"kind": kind})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=30,
            stateful_step_count=60,
            deadline=None,
            print_blob=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
