"""A broker that is away for a moment: waited for, and nobody's failure."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from pspf import Context, Stream
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.cursors import Consumer
from pspf.connectors.contract.limits import Limits
from pspf.connectors.contract.membership import Session
from pspf.connectors.leases.session import LeasedSession
from pspf.connectors.memory import MemoryBroker
from pspf.connectors.sqlite.broker import SQLiteBroker
from pspf.engine.solo_gate import SoloGate
from pspf.errors import BackendUnavailable
from pspf.records import Batch, Commit, Cursor, EntryPlace
from pspf.subscription import Ordering
from tests.integration.running import (
    GROUP,
    TOPIC,
    Number,
    drain,
    numbers,
    read_events,
    run_until_drained,
    running,
    until,
    wait_until,
)
from tests.support.brokers import leased


class Trouble:
    """How often each call is still to fail, before it does anything or (`after commit`) when it has done it."""

    def __init__(self, **failures: int) -> None:
        self.failures = Counter(failures)
        self.calls: list[str] = []

    def strike(self, call: str) -> None:
        self.calls.append(call)
        if self.failures[call] > 0:
            self.failures[call] -= 1
            raise BackendUnavailable(f"{call}: away")


class TroubledConsumer(Consumer):
    """A consumer whose calls may fail."""

    def __init__(self, consumer: Consumer, trouble: Trouble) -> None:
        self.cursor = consumer.cursor
        self.lease = consumer.lease
        self._consumer = consumer
        self._trouble = trouble

    async def poll(self, *, max_records: int, timeout_ms: int, retries_only: bool = False) -> Batch:
        self._trouble.strike("poll")
        return await self._consumer.poll(max_records=max_records, timeout_ms=timeout_ms, retries_only=retries_only)

    async def commit(self, commit: Commit) -> Sequence[int]:
        self._trouble.strike("commit")
        lost = await self._consumer.commit(commit)
        self._trouble.strike("reply")
        return lost

    async def intend(self, offsets: Sequence[int], *, is_alone: bool = True) -> None:
        self._trouble.strike("intend")
        await self._consumer.intend(offsets, is_alone=is_alone)

    async def read_entries(self, places: Sequence[EntryPlace]) -> Mapping[EntryPlace, bytes]:
        self._trouble.strike("read_entries")
        return await self._consumer.read_entries(places)

    async def scan_entries(
        self, namespace: int, *, after: bytes | None = None, max_entries: int = 1_000
    ) -> Sequence[tuple[bytes, bytes]]:
        self._trouble.strike("scan_entries")
        return await self._consumer.scan_entries(namespace, after=after, max_entries=max_entries)

    async def release(self) -> None:
        self._trouble.strike("release")
        await self._consumer.release()


class TroubledSession(LeasedSession):
    """A session whose calls may fail."""

    def __init__(self, session: LeasedSession, trouble: Trouble) -> None:
        self.id, self.limits, self.outage = session.id, session.limits, session.outage
        self._session = session
        self._trouble = trouble

    async def register(self, topic: str, group: str, handler: str | None, *, start: str = "start") -> int:
        self._trouble.strike("register")
        return await self._session.register(topic, group, handler, start=start)

    async def count_partitions(self, topic: str) -> int | None:
        return await self._session.count_partitions(topic)

    async def resign(self, topic: str, group: str, handler: str | None) -> None:
        self._trouble.strike("resign")
        await self._session.resign(topic, group, handler)

    async def read_members(self, topic: str, group: str, handler: str | None) -> Sequence[str]:
        self._trouble.strike("read_members")
        return await self._session.read_members(topic, group, handler)

    async def read_free(self, topic: str, group: str, handler: str) -> Sequence[int]:
        return await self._session.read_free(topic, group, handler)

    async def acquire(self, cursor: Cursor) -> Consumer | None:
        self._trouble.strike("acquire")
        consumer = await self._session.acquire(cursor)
        return None if consumer is None else TroubledConsumer(consumer, self._trouble)

    async def share(self, cursor: Cursor) -> Consumer:
        self._trouble.strike("share")
        return TroubledConsumer(await self._session.share(cursor), self._trouble)

    async def close(self) -> None:
        self._trouble.strike("close")
        await self._session.close()

    def abandon(self) -> None:
        self._session.abandon()


class TroubledMemory(MemoryBroker):
    """A memory broker whose sessions' calls may fail."""

    def __init__(self, trouble: Trouble, limits: Limits | None = None) -> None:
        super().__init__(limits)
        self.trouble = trouble

    async def open_session(self, name: str | None = None) -> Session:
        session = await super().open_session(name)
        assert isinstance(session, LeasedSession)
        return TroubledSession(session, self.trouble)


class TroubledSQLite(SQLiteBroker):
    """A broker in a file whose sessions' calls may fail."""

    def __init__(self, path: Path, trouble: Trouble) -> None:
        super().__init__(path, Limits(synchronous="NORMAL"))
        self.trouble = trouble

    async def open_session(self, name: str | None = None) -> Session:
        session = await super().open_session(name)
        assert isinstance(session, LeasedSession)
        return TroubledSession(session, self.trouble)


CALLS = [
    *("poll", "commit", "reply", "register", "share", "acquire", "read_members", "read_entries", "scan_entries"),
    *("release", "resign", "close"),
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_a_call_that_finds_no_broker_is_repeated_and_charges_nobody(kind: str, call: str, tmp_path: Path) -> None:
    trouble = Trouble(**{call: 1})
    broker: Broker = TroubledMemory(trouble) if kind == "memory" else TroubledSQLite(tmp_path / "b.db", trouble)
    stream = Stream(StreamingBackend(broker, TOPIC, GROUP))
    attempts: list[int] = []

    @stream.subscribe(TOPIC, ordering="key", name="ordered")
    async def ordered(event: Number, ctx: Context) -> None:
        attempts.append(ctx.attempt)
        await ctx.state.put("count", await ctx.state.get("count", 0) + 1)

    @stream.subscribe(TOPIC, name="shared")
    async def shared(event: Number, ctx: Context) -> None:
        attempts.append(ctx.attempt)
        ctx.emit({"n": event.n}, topic="out")

    await stream.emit_many(numbers(5))
    await run_until_drained(stream)
    trouble.failures.clear()
    assert attempts == [1] * 10
    assert sorted(event["n"] for event in await read_events(broker, "out")) == list(range(5))
    assert await stream.read_state(ordered, "a", "count") == 5
    await stream.stop()


async def take_over(session: Session, cursor: Cursor) -> Consumer:
    """Return the cursor's consumer as soon as whoever held it is known to be dead."""
    taken: list[Consumer] = []

    async def is_taken() -> bool:
        taken.extend(filter(None, [await leased(session).acquire(cursor)]))
        return bool(taken)

    await wait_until(is_taken)
    return taken[0]


async def test_a_suspect_record_is_noted_only_once_it_runs_alone() -> None:
    """Noted while it waits for others to end, it would be charged with their crashes."""
    trouble = Trouble()
    broker = TroubledMemory(trouble, Limits(lease_ms=150, renew_ms=40))
    backend = StreamingBackend(broker, TOPIC, GROUP)
    await broker.connect()
    producer = Stream(backend)
    await producer.emit(numbers(1)[0])
    for _ in range(2):  # in hand at the first end, about to run at the second
        dead = await MemoryBroker.open_session(broker)
        await dead.register(TOPIC, GROUP, "suspect")
        consumer = await take_over(dead, Cursor(TOPIC, GROUP, "suspect", 0))
        batch = await consumer.poll(max_records=10, timeout_ms=0)
        await consumer.intend([record.offset for record in batch.records])
        dead.abandon()

    stream = Stream(backend)
    stream.processor.gate = SoloGate()  # nothing is left to chance
    is_busy, goes_on = asyncio.Event(), asyncio.Event()

    @stream.subscribe(TOPIC, name="slow")
    async def slow(event: Number) -> None:
        is_busy.set()
        await goes_on.wait()
        trouble.calls.append("slow has ended")

    @stream.subscribe(TOPIC, ordering="key", name="suspect")
    async def suspect(event: Number) -> None:
        trouble.calls.append("suspect runs")

    async with running(stream):
        try:
            await is_busy.wait()
            await until(lambda: "acquire" in trouble.calls)
            await asyncio.sleep(0.05)
            assert "intend" not in trouble.calls
        finally:
            goes_on.set()
        await until(lambda: "suspect runs" in trouble.calls)
    wanted = ("slow has ended", "intend", "suspect runs")
    assert [call for call in trouble.calls if call in wanted] == list(wanted)


@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_a_group_that_is_deleted_under_its_worker_is_made_again(
    backend: StreamingBackend, ordering: Ordering
) -> None:
    stream = Stream(backend)
    seen: list[int] = []

    @stream.subscribe(TOPIC, ordering=ordering)
    async def handle(event: Number) -> None:
        seen.append(event.n)

    async with running(stream):
        await stream.emit_many(numbers(2))
        await drain(stream)
        await backend.broker.operations.delete_group(GROUP, force=True)
        await stream.emit(Number(n=2))
        await until(lambda: 2 in seen, within_ms=8_000)
