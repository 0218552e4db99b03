"""Commits of a cursor without a broker: each behind the one before, and only what the broker took counts."""

import asyncio

import pytest

from pspf.clock import ManualClock
from pspf.connectors.contract.values import Lease
from pspf.connectors.memory import MemoryBroker
from pspf.engine.batch_outcome import BatchRun
from pspf.engine.broker_retry import BrokerRetry
from pspf.engine.commits import CursorCommits
from pspf.engine.cursor_scope import CursorScope
from pspf.engine.effect_budget import EffectLimits
from pspf.engine.tuning import Tuning
from pspf.errors import BackendUnavailable, CommitFenced
from pspf.observability.telemetry import HandlerCounters, TelemetryManager
from pspf.records import Batch, Commit, Record
from pspf.subscription import RetryPolicy, Subscription, inspect_handler
from tests.unit.engine.scripted import CURSOR, ScriptedConsumer, let_run, records


async def handle(event: object) -> None: ...


class Bench:
    """The commits of one cursor."""

    def __init__(self, consumer: ScriptedConsumer) -> None:
        self.clock = ManualClock()
        self.telemetry = TelemetryManager()
        self.subscription = Subscription(
            "orders", "billing", inspect_handler(handle), own_retry=RetryPolicy(2, 100, 100, 0)
        )
        self.scope = CursorScope(
            self.subscription,
            MemoryBroker(),
            consumer,  # type: ignore[arg-type]  # as much of a consumer as is asked for here
            Tuning(),
            self.clock,
            self.telemetry,
            "orders",
            {},
            set(),
            None,
            None,
            BrokerRetry(CURSOR, lambda: False),
        )
        self.activity = self.telemetry.enter("orders", "billing", self.subscription.name, 0)
        self.commits = CursorCommits(self.scope, None, self.activity)

    def make(
        self, batch: list[Record], *, failed: tuple[int, ...] = (), suspect: bool = False
    ) -> tuple[Commit, BatchRun]:
        """Return a batch's commit, and its run; records at `failed` have failed."""
        run = BatchRun(
            self.subscription,
            Batch(batch, batch[-1].offset + 1, suspect=suspect),
            held=None,
            state=None,
            clock=self.clock,
            limits=EffectLimits(),
        )
        for record in batch:
            if record.offset in failed:
                run.fail(record, ValueError("no"))
        run.taken = len(batch)
        return run.as_commit(batch, [], whole=False), run

    @property
    def counters(self) -> HandlerCounters:
        (found,) = self.telemetry.snapshot()
        return found


async def test_an_ordered_cursor_goes_on_when_its_commit_is_written() -> None:
    consumer = ScriptedConsumer(is_remote=True, lease=Lease(1, 1))
    bench = Bench(consumer)
    consumer.hold()
    adding = asyncio.create_task(bench.commits.add(*bench.make(records(1))))
    await let_run()
    assert not adding.done()
    assert not bench.commits.are_done
    consumer.open.set()
    await adding
    assert bench.commits.are_done
    assert bench.counters.processed == 1


async def test_a_shared_cursor_on_a_server_goes_on_beside_its_commit_and_the_next_one_waits_for_it() -> None:
    consumer = ScriptedConsumer(is_remote=True)
    bench = Bench(consumer)
    consumer.hold()
    await bench.commits.add(*bench.make(records(1)))
    second = asyncio.create_task(bench.commits.add(*bench.make(records(2))))
    await let_run()
    assert (len(consumer.commits), second.done(), bench.commits.are_done) == (1, False, False)
    consumer.open.set()
    await second
    await bench.commits.wait()
    assert [commit.done for commit in consumer.commits] == [[1], [2]]
    assert bench.scope.wake.is_set(), "the loop hears of it"


async def test_a_shared_cursor_in_this_process_waits_for_its_commit() -> None:
    consumer = ScriptedConsumer(is_remote=False)
    bench = Bench(consumer)
    consumer.hold()
    adding = asyncio.create_task(bench.commits.add(*bench.make(records(1))))
    await let_run()
    assert not adding.done()
    consumer.open.set()
    await adding


async def test_a_suspect_batch_is_committed_before_anything_else_runs() -> None:
    consumer = ScriptedConsumer(is_remote=True)
    bench = Bench(consumer)
    consumer.hold()
    adding = asyncio.create_task(bench.commits.add(*bench.make(records(1), suspect=True)))
    await let_run()
    assert not adding.done()
    consumer.open.set()
    await adding


async def test_the_error_of_a_commit_beside_is_raised_by_the_next_one() -> None:
    consumer = ScriptedConsumer(is_remote=True)
    bench = Bench(consumer)
    consumer.failures.append(CommitFenced("another has it"))
    await bench.commits.add(*bench.make(records(1)))
    await let_run()
    with pytest.raises(CommitFenced, match="another has it"):
        await bench.commits.add(*bench.make(records(2)))
    assert len(consumer.commits) == 1


async def test_a_batch_without_anything_to_commit_still_raises_what_the_one_before_met() -> None:
    consumer = ScriptedConsumer(is_remote=True)
    bench = Bench(consumer)
    consumer.failures.append(CommitFenced("another has it"))
    await bench.commits.add(*bench.make(records(1)))
    await bench.commits.add(None, None)  # not known yet
    await let_run()
    with pytest.raises(CommitFenced):
        await bench.commits.add(None, None)


async def test_a_commit_whose_outcome_is_unknown_is_sent_again_as_it_is() -> None:
    consumer = ScriptedConsumer()
    bench = Bench(consumer)
    consumer.failures.append(BackendUnavailable("no answer"))
    await bench.commits.add(*bench.make(records(1)))
    first, second = consumer.commits
    assert first is second
    assert bench.counters.batches == 1


async def test_records_that_were_another_worker_s_count_for_nothing(caplog: pytest.LogCaptureFixture) -> None:
    consumer = ScriptedConsumer()
    bench = Bench(consumer)
    consumer.lost = [1, 2]
    await bench.commits.add(*bench.make(records(1, 2, 3, 4), failed=(2, 4)))
    found = bench.counters
    assert (found.processed, found.failed, found.retried, found.dead) == (1, 1, 1, 0)
    assert "orders 0 4 in " in caplog.text
    assert "orders 0 2 in " not in caplog.text


async def test_a_dead_letter_is_finished_and_not_processed() -> None:
    bench = Bench(ScriptedConsumer())
    batch = [record._replace(attempts=1) for record in records(1, 2)]
    await bench.commits.add(*bench.make(batch, failed=(1,)))
    found = bench.counters
    assert (found.processed, found.failed, found.retried, found.dead) == (1, 1, 0, 1)


async def test_closing_gives_up_a_commit_that_is_under_way() -> None:
    consumer = ScriptedConsumer(is_remote=True)
    bench = Bench(consumer)
    consumer.hold()
    await bench.commits.add(*bench.make(records(1)))
    await let_run()
    await bench.commits.close()
    assert bench.telemetry.snapshot() == ()
