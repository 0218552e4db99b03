"""Reads of a cursor without a broker: one at a time, one batch ahead, and what ends a wait."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from pspf.clock import ManualClock
from pspf.connectors.contract.values import Lease
from pspf.engine.batch_size import BatchSize
from pspf.engine.broker_retry import BrokerRetry
from pspf.engine.key_order import KeyOrder
from pspf.engine.prefetch import Prefetch
from pspf.errors import BackendUnavailable
from pspf.observability.telemetry import Activity
from pspf.records import Batch, Retry
from pspf.windowing.spans import NEVER
from tests.unit.engine.scripted import CURSOR, IdleExecutor, ScriptedConsumer, let_run, records

MOST_HELD = 3
FOUND = Batch(records(1, 2), 3)


@asynccontextmanager
async def reading(
    consumer: ScriptedConsumer, *, held: KeyOrder | None = None, due_ms: int = NEVER, clock: ManualClock | None = None
) -> AsyncIterator[Prefetch]:
    """Give the reads of a consumer; they are closed at the end."""
    size = BatchSize(fixed=None, smallest=10, largest=10, target_ms=100, most_bytes=1_000_000)
    activity = Activity("orders", "billing", "h", 0)
    retry = BrokerRetry(CURSOR, lambda: False)
    wake = asyncio.Event()
    reads = Prefetch(
        consumer,  # type: ignore[arg-type]  # as much of a consumer as is asked for here
        IdleExecutor(due_ms),
        size,
        held,
        MOST_HELD,
        clock or ManualClock(),
        activity,
        retry,
        wake,
    )
    try:
        yield reads
    finally:
        await reads.close()


async def test_what_was_read_is_taken_and_the_next_read_is_another() -> None:
    consumer = ScriptedConsumer(FOUND, Batch(records(3), 4))
    async with reading(consumer) as reads:
        assert await reads.take() == FOUND
        assert (await reads.take()).end == 4
    assert consumer.polls == [(10, 1_000, False)] * 2


async def test_the_next_batch_is_read_once_the_handlers_wait() -> None:
    consumer = ScriptedConsumer()
    async with reading(consumer) as reads:
        await reads.go_ahead(10)
        assert consumer.polls == []
        await let_run()
        assert len(consumer.polls) == 1


@pytest.mark.parametrize(("in_hand", "sent"), [(5, 1), (4, 0)], ids=["behind", "not behind"])
async def test_on_a_server_a_worker_that_is_behind_sends_its_next_read_before_the_handlers_begin(
    in_hand: int, sent: int
) -> None:
    consumer = ScriptedConsumer(is_remote=True)
    async with reading(consumer) as reads:
        await reads.go_ahead(in_hand)
        assert len(consumer.polls) == sent


async def test_a_slow_worker_of_a_shared_group_reads_nothing_ahead_that_another_could_take() -> None:
    consumer = ScriptedConsumer()
    async with reading(consumer) as reads:
        for _ in range(3):  # each halves it at most
            reads.size.learn(10, 60_000.0)
        assert reads.size.is_slow
        await reads.go_ahead(1)
        await let_run()
    assert consumer.polls == []


async def test_something_else_to_do_ends_the_wait_and_the_read_goes_on() -> None:
    consumer = ScriptedConsumer()
    async with reading(consumer) as reads:
        reads.wake.set()
        assert (await reads.take()).records == ()
        consumer.give(FOUND)
        assert await reads.take() == FOUND
    assert len(consumer.polls) == 1


async def test_what_is_due_by_the_wall_clock_ends_the_wait() -> None:
    clock, consumer = ManualClock(), ScriptedConsumer()
    async with reading(consumer, due_ms=clock.now_ms() + 500, clock=clock) as reads:
        taking = asyncio.create_task(reads.take())
        await let_run()
        clock.advance(499)
        await let_run()
        assert not taking.done()
        clock.advance(1)
        assert (await taking).records == ()


async def test_a_read_waits_until_its_time_is_up() -> None:
    clock, consumer = ManualClock(), ScriptedConsumer()
    async with reading(consumer, clock=clock) as reads:
        await reads.go_ahead(1)
        await let_run()
        assert reads.are_waiting
        clock.advance(1_000)
        assert not reads.are_waiting


async def test_while_as_much_is_held_back_as_may_be_only_retries_are_read(caplog: pytest.LogCaptureFixture) -> None:
    rows = [Retry(offset, b"k", 1, None, "ValueError: no") for offset in range(1, MOST_HELD + 1)]
    consumer = ScriptedConsumer(Batch((), 4), Batch((), 4))
    consumer.lease = Lease(1, 4)
    async with reading(consumer, held=KeyOrder(rows, 4)) as reads:
        await reads.go_ahead(1)
        await let_run()
        assert consumer.polls == [], "nothing is read ahead: all that could come is in hand"
        await reads.take()
        await reads.take()
    assert [retries_only for _, _, retries_only in consumer.polls] == [True, True]
    assert caplog.text.count("3 records are held back; nothing new is read until one of them is done") == 1


async def test_a_read_that_finds_nothing_shows_silence_from_its_beginning() -> None:
    clock = ManualClock()
    consumer = ScriptedConsumer(Batch((), 1))
    consumer.lease = Lease(1, 1)
    async with reading(consumer, held=KeyOrder((), 1), clock=clock) as reads:
        await reads.take()
        clock.advance(700)
        consumer.give(Batch((), 1))
        await reads.take()
        assert reads.silence.lasted_ms == 700
        consumer.give(Batch(records(1), 2))
        await reads.take()
        assert reads.silence.lasted_ms == 0


async def test_a_read_of_a_broker_that_is_away_is_sent_again_and_shows_no_silence() -> None:
    consumer = ScriptedConsumer(Batch((), 1), FOUND)
    async with reading(consumer) as reads:
        await reads.take()
        consumer.failures.append(BackendUnavailable("away"))
        assert await reads.take() == FOUND
        assert reads.silence.lasted_ms == 0
    assert len(consumer.polls) == 3


async def test_closing_ends_a_read_that_has_lost_a_cancellation() -> None:
    consumer = ScriptedConsumer()
    consumer.deaf_to = 1
    async with reading(consumer) as reads:
        await reads.go_ahead(1)
        await let_run()
        assert len(consumer.polls) == 1
    assert consumer.deaf_to == 0


async def test_closing_before_a_read_was_sent_sends_none() -> None:
    consumer = ScriptedConsumer()
    async with reading(consumer) as reads:
        await reads.go_ahead(1)
    await let_run()
    assert consumer.polls == []


async def test_an_error_of_a_read_is_raised_by_the_take() -> None:
    consumer = ScriptedConsumer()
    consumer.failures.append(RuntimeError("a bug"))
    async with reading(consumer) as reads:
        with pytest.raises(RuntimeError, match="a bug"):
            await reads.take()
