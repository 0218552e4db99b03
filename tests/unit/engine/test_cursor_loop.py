"""The loop of a cursor without a broker: what it reads it handles and commits, and how it ends."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from pspf.clock import ManualClock
from pspf.connectors.memory import MemoryBroker
from pspf.engine.processor import BatchProcessor
from pspf.engine.stop import Stop
from pspf.errors import CommitStale
from pspf.observability.telemetry import TelemetryManager
from pspf.records import Batch
from pspf.subscription import RetryPolicy, Subscription, inspect_handler
from tests.support.waiting import wait_until
from tests.unit.engine.scripted import ScriptedConsumer, records

Handle = Callable[[dict[str, Any]], Awaitable[None]]


def batch(*offsets: int, **others: Any) -> Batch:
    found = [record._replace(value=b'{"n": %d}' % record.offset) for record in records(*offsets)]
    return Batch(found, offsets[-1] + 1, **others)


class Running:
    """A loop that runs, and what its handler was called with."""

    def __init__(self, consumer: ScriptedConsumer, handle: Handle | None) -> None:
        self.seen: list[int] = []
        self.processor = BatchProcessor(TelemetryManager(), "orders", clock=ManualClock())
        self.stop = Stop()
        self.consumer = consumer

        async def count(event: dict[str, Any]) -> None:
            self.seen.append(event["n"])
            if handle is not None:
                await handle(event)

        subscription = Subscription(
            "orders", "billing", inspect_handler(count), own_retry=RetryPolicy(2, 100, 100, 0), model=dict
        )
        fake: Any = consumer
        self.task = asyncio.create_task(self.processor.run(subscription, MemoryBroker(), fake, self.stop))

    async def until_committed(self, count: int) -> None:
        async def is_so() -> bool:
            return len(self.consumer.commits) >= count or self.task.done()

        await wait_until(is_so)

    async def until_at_rest(self) -> None:
        async def is_so() -> bool:
            return bool(self.consumer.polls) and self.processor.is_at_rest

        await wait_until(is_so)


@asynccontextmanager
async def running(consumer: ScriptedConsumer, handle: Handle | None = None) -> AsyncIterator[Running]:
    it = Running(consumer, handle)
    try:
        yield it
    finally:
        it.stop.set()
        it.task.cancel()
        with suppress(asyncio.CancelledError, CommitStale):
            await it.task


async def test_what_is_read_is_handled_and_committed_in_turn() -> None:
    consumer = ScriptedConsumer(batch(1, 2), batch(3))
    async with running(consumer) as it:
        await it.until_committed(2)
        assert it.seen == [1, 2, 3]
        assert [commit.done for commit in consumer.commits] == [[1, 2], [3]]


async def test_it_rests_where_there_is_nothing_to_read() -> None:
    consumer = ScriptedConsumer(batch(1))
    async with running(consumer) as it:
        await it.until_at_rest()
        assert it.seen == [1]
        consumer.give(batch(2))
        await it.until_committed(2)
        assert it.seen == [1, 2]


async def test_a_stop_ends_it_behind_the_batch_in_hand_and_gives_the_cursor_back() -> None:
    consumer, may_go = ScriptedConsumer(batch(1), batch(2)), asyncio.Event()

    async def handle(event: dict[str, Any]) -> None:
        await may_go.wait()

    async with running(consumer, handle) as it:

        async def is_in_hand() -> bool:
            return bool(it.seen)

        await wait_until(is_in_hand)
        it.stop.set()
        may_go.set()
        await it.task
        assert [commit.done for commit in consumer.commits] == [[1]]
        assert consumer.is_released


async def test_an_abandoned_cursor_is_not_given_back() -> None:
    consumer = ScriptedConsumer(batch(1))
    async with running(consumer) as it:
        await it.until_at_rest()
        it.processor.is_abandoned = True
        it.stop.set()
        await asyncio.wait([it.task])
        assert not consumer.is_released


async def test_a_cancellation_cancels_the_handler_and_commits_nothing() -> None:
    consumer, is_cancelled = ScriptedConsumer(batch(1)), asyncio.Event()

    async def handle(event: dict[str, Any]) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            is_cancelled.set()
            raise

    async with running(consumer, handle) as it:

        async def is_in_hand() -> bool:
            return bool(it.seen)

        await wait_until(is_in_hand)
        it.task.cancel()
        await asyncio.wait([it.task])
        assert (is_cancelled.is_set(), consumer.commits, consumer.is_released) == (True, [], True)


async def test_a_failed_record_is_put_off_and_the_others_are_done() -> None:
    async def handle(event: dict[str, Any]) -> None:
        if event["n"] == 2:
            raise ValueError("no")

    consumer = ScriptedConsumer(batch(1, 2, 3))
    async with running(consumer, handle) as it:
        await it.until_committed(1)
        (commit,) = consumer.commits
        assert (commit.done, [retry.offset for retry in commit.retries]) == ([1, 3], [2])


@pytest.mark.parametrize("crashes", [1, 2])
async def test_a_suspect_is_noted_before_it_runs_alone(crashes: int) -> None:
    consumer = ScriptedConsumer(batch(1, suspect=True, crashes=crashes))
    async with running(consumer) as it:
        await it.until_committed(1)
        assert (it.seen, consumer.intents) == ([1], [([1], True)])


async def test_a_record_that_ended_its_process_as_often_as_it_may_is_dead_and_does_not_run() -> None:
    consumer = ScriptedConsumer(batch(1, suspect=True, crashes=3))
    async with running(consumer) as it:
        await it.until_committed(1)
        (commit,) = consumer.commits
        assert (it.seen, [letter.error_type for letter in commit.dead]) == ([], ["HandlerCrashed"])
