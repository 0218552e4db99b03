"""`StreamTester`: runs a whole app in a test, on a broker in memory and with a clock that the test moves."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from pspf.clock import ManualClock, SystemClock
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.contract.broker import Broker
from pspf.connectors.urls import make_broker
from pspf.errors import ConfigurationError, NotAvailable, NotSettled
from pspf.events.durations import Duration, as_ms
from pspf.events.topic import find_declared
from pspf.records import encode_headers, format_ids
from pspf.runtime.app.loader import LoadedApp
from pspf.runtime.worker.drain import read_unfinished
from pspf.stream import Stream
from pspf.testing.failures import Failures
from pspf.testing.known_topics import KnownTopics
from pspf.testing.reading import AppReading
from pspf.testing.records import at_time, has_time, make_record, parse_step
from pspf.testing.unfinished import UnfinishedWork

__all__ = ["ManualClock", "StreamTester"]

_AT_ONCE: Final = 20
_LONGEST_WAIT_S: Final = 0.01
_NOTICE_MS: Final = 2_000
"""How long after the end of its lease a dead worker is noticed at the latest."""
_STEP_MS: Final = 1_000


class StreamTester(AppReading):
    """Runs a stream's handlers while a test sends events and looks at what comes of them.

        async with StreamTester(stream) as tester:
            await tester.send("orders", {"amount": 120.5}, key="ada")
            assert await tester.outputs("vip") == [{"event_type": "GenericEvent", "customer": "ada"}]

    Whatever moves something (`send`, `advance`, `finish`, `crash`) returns when the app has settled: all
    is handled, emitted and committed that there is to do at the clock's time. Nothing sleeps. What a handler
    raises is raised by the call that caused it; with `raises=False` the record is retried when the clock gets there,
    and when it is given up, `dead_letters` shows why.

    Args:
        stream: The app. It runs on the tester's broker until the block ends, and is then as it was.
        backend: A broker's URL, or a broker or backend; a broker in memory of the test's own unless given.
        clock: The clock of broker and handlers. One of the test's own, unless `backend` is an object:
            that has its own, which `advance` can move only where it is given here, too.
        partitions: How many partitions topics have, by name; 1 unless named.
        raises: Whether what handlers raise is raised in the test, with the failed record committed as it is in
            production.
        any_topic: Whether events may be sent to topics that no handler reads, and topics read that nobody writes.
        auto_advance: How far the clock goes on behind each event that is sent without a time of its own, as `advance`
            takes it; None: not at all.
        settle_timeout_ms: How long, in real time, the app may be at work before a call gives it up.
    """

    def __init__(
        self,
        stream: Stream,
        backend: str | Broker | StreamingBackend | None = None,
        *,
        clock: ManualClock | None = None,
        partitions: Mapping[str, int] | None = None,
        raises: bool = True,
        any_topic: bool = False,
        auto_advance: Duration | float | None = None,
        settle_timeout_ms: Duration = 10_000,
    ) -> None:
        super().__init__(stream, KnownTopics(stream, takes_all=any_topic))
        is_ours = backend is None or isinstance(backend, str)
        self._clock = clock or (ManualClock() if is_ours else None)
        self._backend = backend
        self._partitions = dict(partitions or {})
        self._declared = {str(each): each for each in stream.declared_topics}
        self._failures = Failures() if raises else None
        self._step_ms = None if auto_advance is None else parse_step("auto_advance", auto_advance)
        self._timeout_ms = as_ms("StreamTester", "settle_timeout_ms", settle_timeout_ms)
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
            if self._failures is not None:
                self._stream.processor.on_failures = self._failures.note
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
        self._stream.processor.on_failures = None
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
        self._topics.check_sent(topic)
        raw_headers = encode_headers(headers)
        declared = find_declared(topic, self._declared) if key is None else None
        step_ms = None if timestamp is not None else self._step_ms
        records = [make_record(event, key, timestamp, raw_headers, declared) for event in events]
        if step_ms is not None:
            records = [
                record if has_time(event) else at_time(event, record, self.now_ms + number * step_ms)
                for number, (event, record) in enumerate(zip(events, records, strict=True))
            ]
        ids = format_ids(await self.broker.append(topic, records))
        await self.settle()
        if step_ms is not None:
            await self.advance(step_ms * len(events))
        return ids

    async def advance(self, by: Duration | float) -> None:
        """Let time pass: what becomes due on the way (retries, timers, silence) is done at its time, in order.

        `by` is a timedelta, text such as `10s`, or milliseconds.

        Raises:
            ConfigurationError: The broker goes by a clock that the tester does not have, or `by` is no whole
                number of milliseconds, 0 or more.
        """
        clock = self._manual("advance()")
        until_ms = clock.now_ms() + parse_step("advance", by)
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
            Exception: What a handler has raised, unless with `raises=False`.
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
            if not left or time.monotonic() > deadline:
                self._raise_failure()
            if not left:
                return
            if time.monotonic() > deadline:
                raise NotSettled(f"not settled within {self._timeout_ms} ms: {'; '.join(left)}")
            checks += 1

    # Looking: see `AppReading`

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

    def _raise_failure(self) -> None:
        if self._failures is not None:
            self._failures.raise_first()

    def _deadline(self) -> float:
        return time.monotonic() + self._timeout_ms / 1000
