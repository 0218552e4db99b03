"""`StreamTester`: runs a whole app in a test, on a broker in memory and with a clock that the test moves."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import orjson

from pspf.clock import ManualClock, SystemClock
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.operations import PendingRecord
from pspf.connectors.contract.values import StoredDeadLetter
from pspf.connectors.urls import make_broker
from pspf.errors import ConfigurationError, NotAvailable, NotFound, NotSettled
from pspf.events.topic import find_declared
from pspf.records import LATE_SUFFIX, Record, encode_headers, format_ids
from pspf.runtime.app.loader import LoadedApp
from pspf.runtime.worker.drain import read_unfinished
from pspf.stream import Stream
from pspf.testing.records import make_record
from pspf.testing.unfinished import UnfinishedWork

__all__ = ["ManualClock", "StreamTester"]

_AT_ONCE: Final = 20
_LONGEST_WAIT_S: Final = 0.01
_NOTICE_MS: Final = 2_000
"""How long after the end of its lease a dead worker is noticed at the latest."""
_STEP_MS: Final = 1_000


class StreamTester:
    """Runs a stream's handlers while a test sends events and looks at what comes of them.

        async with StreamTester(stream) as tester:
            await tester.send("orders", {"amount": 120.5}, key="ada")
            assert await tester.outputs("vip") == [{"event_type": "GenericEvent", "customer": "ada"}]

    Whatever moves something (`send`, `advance`, `finish`, `crash`) returns when the app has settled: all
    is handled, emitted and committed that there is to do at the clock's time. Nothing sleeps. A handler
    that fails is retried when the clock gets there; when it is given up, `dead_letters` shows why.

    Args:
        stream: The app. It runs on the tester's broker until the block ends, and is then as it was.
        backend: A broker's URL, or a broker or backend; a broker in memory of the test's own unless given.
        clock: The clock of broker and handlers. One of the test's own, unless `backend` is an object:
            that has its own, which `advance` can move only where it is given here, too.
        partitions: How many partitions topics have, by name; 1 unless named.
        settle_timeout_ms: How long, in real time, the app may be at work before a call gives it up.
    """

    def __init__(
        self,
        stream: Stream,
        backend: str | Broker | StreamingBackend | None = None,
        *,
        clock: ManualClock | None = None,
        partitions: Mapping[str, int] | None = None,
        settle_timeout_ms: int = 10_000,
    ) -> None:
        is_ours = backend is None or isinstance(backend, str)
        self._clock = clock or (ManualClock() if is_ours else None)
        self._stream = stream
        self._backend = backend
        self._partitions = dict(partitions or {})
        self._topics = {str(each): each for each in stream.declared_topics}
        self._timeout_ms = settle_timeout_ms
        self._plan = LoadedApp("the app", Path(), stream).make_plan()
        self._work = UnfinishedWork(stream, self._plan, self.pending)
        self._open = ExitStack()
        self._broker: Broker | None = None
        self._runner: asyncio.Task[None] | None = None

    # Beginning and ending

    async def __aenter__(self) -> Self:
        if not self._stream.subscriptions:
            raise ConfigurationError("the stream has no handlers to test: decorate some with @stream.subscribe(...)")
        broker = self._broker = self._make_broker()
        with self._stream.on(broker, self._clock or SystemClock()):
            self._stream.check()
        if not broker.capabilities.pending:
            raise NotAvailable(f"{broker.name} can't tell what is not done, which the tester asks: leave backend= out")
        await broker.enter(self)
        try:
            for topic, number in self._partitions.items():
                await broker.create_topic(topic, partitions=number)
            self._open.enter_context(self._stream.on(broker, self._clock or SystemClock()))
            self._stream.processor.ends_on_refusal = True
            self._start()
            await self.settle()
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    def _make_broker(self) -> Broker:
        backend = self._backend
        if backend is None or isinstance(backend, str):
            return make_broker(backend or "memory://", clock=self._clock)
        return backend.broker if isinstance(backend, StreamingBackend) else backend

    def _start(self) -> None:
        self._runner = asyncio.create_task(self._stream.run_forever(), name="the app under test")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        runner, self._runner = self._runner, None
        try:
            if runner is not None:
                if error is not None:
                    self._stream.give_up()  # a running handler may be why the test fails
                await self._end(runner)
                if error is None:
                    await runner
        finally:
            self._open.close()
            if self._broker is not None:
                await self._broker.leave(self)

    async def _end(self, runner: "asyncio.Task[None]") -> None:
        try:
            async with asyncio.timeout(self._timeout_ms / 1000):
                await self._stream.stop()
        except TimeoutError:
            pass  # a handler hangs
        while not runner.done():
            self._stream.give_up()  # again, should it not have begun yet
            await asyncio.wait([runner], timeout=_LONGEST_WAIT_S)

    async def crash(self) -> None:
        """Kill the app and start it again: what it had not committed is lost, and done once more.

        The clock moves on by a lease and 2 s: so long it takes others to notice.
        """
        clock, broker = self._manual("crash()"), self.broker
        runner, self._runner = self._running, None
        self._stream.abandon()
        await runner
        left_ms = broker.limits.lease_ms + _NOTICE_MS
        while left_ms > 0:  # in steps, so that observers have the time to see a dead session
            clock.advance(min(left_ms, _STEP_MS))
            left_ms -= _STEP_MS
            await broker.ping()
        self._start()
        await self.settle()

    # Moving

    @property
    def now_ms(self) -> int:
        """The time by the broker's clock: milliseconds since the epoch."""
        return (self._clock or SystemClock()).now_ms()

    async def send(
        self,
        topic: str,
        event: Any,
        *,
        key: str | None = None,
        timestamp: datetime | float | str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """Store an event as a producer does, and settle; return its record id.

        Args:
            topic: Where to.
            event: What `Stream.emit` takes, or bytes to be stored as they are.
            key: The record's key; unless given it is what the declared topic's `key=` says, else the event's `key`.
            timestamp: The event's time: a datetime (a naive one is UTC), ISO text or seconds since the epoch. Unless
                given it is the event's own, where that was set, else the clock's.
            headers: The record's headers.
        """
        return (await self.send_many(topic, [event], key=key, timestamp=timestamp, headers=headers))[0]

    async def send_many(
        self,
        topic: str,
        events: Sequence[Any],
        *,
        key: str | None = None,
        timestamp: datetime | float | str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> list[str]:
        """Store events at once, so that handlers may get them in one batch, and settle; return their record ids."""
        raw_headers = encode_headers(headers)
        declared = find_declared(topic, self._topics) if key is None else None
        records = [make_record(event, key, timestamp, raw_headers, declared) for event in events]
        ids = format_ids(await self.broker.append(topic, records))
        await self.settle()
        return ids

    async def advance(self, by_ms: float) -> None:
        """Let time pass: what becomes due on the way (retries, timers, silence) is done at its time, in order.

        Raises:
            ConfigurationError: The broker goes by a clock that the tester does not have, or `by_ms` is no whole
                number of milliseconds, 0 or more.
        """
        clock = self._manual("advance()")
        ManualClock().advance(by_ms)  # raises the reason
        until_ms = clock.now_ms() + int(by_ms)
        while (now_ms := clock.now_ms()) < until_ms:
            dues = [each.due_ms for each in await self.pending() if each.due_ms is not None]
            dues.append(self._stream.processor.due_ms)
            clock.advance(min([until_ms, *(due_ms for due_ms in dues if due_ms > now_ms)]) - now_ms)
            await self.broker.ping()
            await self.settle()

    async def finish(self) -> None:
        """End the input: close and emit all open windows, from upstream to downstream, as `--burst --final` does."""
        for level in self._plan.work.levels:
            deadline = self._deadline()
            while unfinished := await read_unfinished(self.broker, level):
                self._stream.finish(unfinished)
                await self.settle()
                if time.monotonic() > deadline:
                    raise NotSettled(f"windows of {', '.join(map(str, unfinished))} do not close")

    async def settle(self) -> None:
        """Return when there is nothing left to do at this time. What was sent by other means is waited for.

        Raises:
            NotSettled: The app is still at work after `settle_timeout_ms`.
            PSPFError: Or any error that ended the app.
        """
        deadline = self._deadline()
        checks = 0
        while True:
            # Even where nothing is left: a broker in memory answers at once, and the app needs its turn to end.
            await asyncio.sleep(min(_LONGEST_WAIT_S, max(0, checks - _AT_ONCE) / 1000))
            if self._running.done():
                await self._running
                raise ConfigurationError("the app has ended: a handler has called stream.stop()")
            left = await self._work.find(self.broker)
            if not left:
                return
            if time.monotonic() > deadline:
                raise NotSettled(f"not settled within {self._timeout_ms} ms: {'; '.join(left)}")
            checks += 1

    # Looking

    async def outputs(self, topic: str) -> list[Any]:
        """Return the events of a topic as JSON has them, in order, by partition; none where there is no such topic."""
        return [orjson.loads(record.value) for record in await self.records(topic)]

    async def records(self, topic: str) -> list[Record]:
        """Return the records of a topic: its events with key, headers and timestamp."""
        try:
            _, partitions = await self.broker.read_topic(topic)
        except NotFound:
            return []
        return [
            record
            for each in partitions
            for record in await self.broker.read(
                topic, each.partition, offset=each.first, max_records=max(1, each.records)
            )
        ]

    async def late(self, topic: str) -> list[Any]:
        """Return the events of a topic that came too late for all of their windows."""
        return await self.outputs(topic + LATE_SUFFIX)

    async def dead_letters(self, topic: str | None = None) -> Sequence[StoredDeadLetter]:
        """Return what was given up, of one topic or all: `record`, `error_type`, `error`, `attempts`, `traceback`."""
        return await self.broker.list_dead_letters(topic=topic)

    async def pending(self) -> Sequence[PendingRecord]:
        """Return what was delivered and is not done: it waits for a retry, or for an earlier record of its key."""
        groups = sorted({name.group for name in self._plan.cursors})
        known = {info.cursor.group for info in await self.broker.list_cursors()}
        return [
            record for group in groups if group in known for record in await self.broker.operations.list_pending(group)
        ]

    async def state(self, handler: str | Callable[..., Any], key: str, name: str) -> Any:
        """Return what an ordered handler, or the one of that name, remembers for a key; None where it is nothing."""
        return await self._stream.read_state(handler, key, name)

    @property
    def broker(self) -> Broker:
        """The broker, for whatever else a test wants to know."""
        if self._broker is None:
            raise ConfigurationError("the tester does not run: async with StreamTester(stream) as tester: ...")
        return self._broker

    @property
    def _running(self) -> "asyncio.Task[None]":
        if self._runner is None:
            raise ConfigurationError("the tester does not run: async with StreamTester(stream) as tester: ...")
        return self._runner

    def _manual(self, what: str) -> ManualClock:
        if self._clock is None:
            raise ConfigurationError(
                f"{what} moves the clock, and this broker goes by one of its own: give its URL instead, or make it"
                " with a ManualClock and pass that as clock="
            )
        return self._clock

    def _deadline(self) -> float:
        return time.monotonic() + self._timeout_ms / 1000
