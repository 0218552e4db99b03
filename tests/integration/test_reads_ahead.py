"""When a cursor is read beside a batch that is in hand."""

import asyncio

import pytest

from pspf.clock import SystemClock
from pspf.connectors.memory import MemoryBroker
from pspf.engine.batch_outcome import BatchRun
from pspf.engine.batch_size import BatchSize
from pspf.engine.broker_retry import BrokerRetry
from pspf.engine.handlers.executor import Executor
from pspf.engine.key_order import KeyOrder
from pspf.engine.prefetch import Prefetch
from pspf.observability.telemetry import Activity
from pspf.records import Record, Retry
from tests.support.workers import GROUP, HANDLER, TOPIC, own


class Idle(Executor):
    """Runs nothing."""

    async def run(self, records: "list[Record]", run: BatchRun) -> int:  # type: ignore[override]
        return len(records)


@pytest.mark.parametrize(("held", "reads"), [(3, False), (2, True)], ids=["full", "room for one"])
async def test_nothing_is_read_ahead_while_as_much_is_held_back_as_may_be(held: int, reads: bool) -> None:
    """All that could come is a retry that is in hand; and a read that asks for retries alone would not see new ones."""
    async with MemoryBroker() as broker:
        await broker.create_topic(TOPIC)
        member = await own(broker)
        activity = Activity(TOPIC, GROUP, HANDLER, 0)
        rows = [Retry(offset, b"k", 1, None, "ValueError: no") for offset in range(1, held + 1)]
        ahead = Prefetch(
            member.consumer,
            Idle(),
            BatchSize(fixed=10, smallest=1, largest=10, target_ms=50, most_bytes=1_000_000),
            KeyOrder(rows, held + 1),
            3,
            SystemClock(),
            activity,
            BrokerRetry(member.consumer.cursor, lambda: False),
            asyncio.Event(),
        )
        await ahead.go_ahead(1)
        for _ in range(5):
            await asyncio.sleep(0)
        assert (activity.reading_since_ms is not None) is reads
        await ahead.close()
