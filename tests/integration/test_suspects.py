"""What the crash of a process is charged to: a record that ran alone in it, and nothing that others ran beside."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from pspf import Stream
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.contract.cursors import Consumer
from pspf.connectors.contract.limits import Limits
from pspf.connectors.contract.membership import Session
from pspf.connectors.sqlite.broker import MemoryBroker
from pspf.engine.solo_gate import SoloGate
from pspf.records import Batch, Cursor
from pspf.subscription import Ordering
from tests.integration.running import GROUP, TOPIC, Number, numbers, running, until, wait_until
from tests.support.brokers import leased

MODES = pytest.mark.parametrize("ordering", ["none", "key"])


@pytest.fixture
async def broker() -> AsyncIterator[MemoryBroker]:
    broker = MemoryBroker(Limits(lease_ms=150, renew_ms=40))
    async with broker:
        yield broker


async def take_over(broker: MemoryBroker, ordering: Ordering) -> tuple[Session, Consumer, Batch]:
    """Return the record, and whose it is, once nobody else has it."""
    cursor = Cursor(TOPIC, GROUP, "suspect" if ordering == "key" else None, 0)
    session = await broker.open_session()
    await session.register(TOPIC, GROUP, cursor.handler)
    consumer: Consumer | None = None
    batch = Batch((), 0)

    async def is_taken() -> bool:
        nonlocal consumer, batch
        if consumer is None:
            consumer = await leased(session).acquire(cursor) if cursor.handler else await session.share(cursor)
        if consumer is not None:
            batch = await consumer.poll(max_records=10, timeout_ms=0)
        return bool(batch.records)

    await wait_until(is_taken)
    assert consumer is not None
    return session, consumer, batch


async def accuse(broker: MemoryBroker, ordering: Ordering, *, times: int = 2) -> None:
    """Have a record in hand at one crash, and about to run alone at the next ones."""
    await Stream(StreamingBackend(broker, TOPIC, GROUP)).emit(numbers(1)[0])
    for _ in range(times):
        session, consumer, batch = await take_over(broker, ordering)
        await consumer.intend([record.offset for record in batch.records])
        session.abandon()


async def read_crashes(broker: MemoryBroker, ordering: Ordering) -> int:
    _, _, batch = await take_over(broker, ordering)
    return batch.crashes


class App:
    """A suspect that hangs, and another handler."""

    def __init__(self, broker: MemoryBroker, ordering: Ordering, gate: SoloGate) -> None:
        self.stream = stream = Stream(StreamingBackend(broker, TOPIC, GROUP))
        stream.processor.gate = gate
        self.is_suspect_running = False
        self.others: list[int] = []

        @stream.subscribe(TOPIC, ordering=ordering, name="suspect")
        async def suspect(event: Number) -> None:
            self.is_suspect_running = True
            await asyncio.Event().wait()

        @stream.subscribe("others", group="others", name="other")
        async def other(event: Number) -> None:
            self.others.append(event.n)

    async def crash(self, task: "asyncio.Task[None]") -> None:
        self.stream.abandon()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_crash_while_a_suspect_runs_alone_is_charged_to_it(broker: MemoryBroker) -> None:
    ordering: Ordering = "key"
    await accuse(broker, ordering)
    app = App(broker, ordering, SoloGate())
    task = asyncio.create_task(app.stream.run_forever())
    await until(lambda: app.is_suspect_running)
    await app.crash(task)
    assert await read_crashes(broker, ordering) == 2


@MODES
async def test_a_crash_after_the_others_have_joined_a_suspect_is_charged_to_nobody(
    broker: MemoryBroker, ordering: Ordering
) -> None:
    await accuse(broker, ordering)
    app = App(broker, ordering, SoloGate(alone_s=0.05))
    task = asyncio.create_task(app.stream.run_forever())
    await until(lambda: app.is_suspect_running)
    await app.stream.emit(numbers(1)[0], topic="others")
    await until(lambda: app.others == [0])
    await app.crash(task)
    assert await read_crashes(broker, ordering) == 1


@MODES
async def test_a_crash_while_a_suspect_runs_beside_a_call_that_hangs_is_charged_to_nobody(
    broker: MemoryBroker, ordering: Ordering
) -> None:
    await accuse(broker, ordering)
    app = App(broker, ordering, SoloGate(hold_s=0.02, rest_s=0.05, wait_s=0.2))
    async with app.stream.processor.gate.together():
        task = asyncio.create_task(app.stream.run_forever())
        await until(lambda: app.is_suspect_running)
        await app.crash(task)
    assert await read_crashes(broker, ordering) == 1


async def test_a_record_that_was_charged_too_often_becomes_a_dead_letter_beside_a_call_that_hangs(
    broker: MemoryBroker,
) -> None:
    await accuse(broker, "none", times=4)
    app = App(broker, "none", SoloGate())

    async def is_dead() -> bool:
        return bool(await broker.list_dead_letters())

    async with app.stream.processor.gate.together(), running(app.stream):
        await wait_until(is_dead)
    assert not app.is_suspect_running
