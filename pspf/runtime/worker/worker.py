"""Worker process: opens the broker, runs the Stream's handlers, and stops them."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from pspf import faults
from pspf.engine.assignment import Assignment
from pspf.engine.processor import BatchProcessor
from pspf.errors import BackendUnavailable, ConfigurationError
from pspf.loggers import get_logger
from pspf.runtime.app.plan import Totals, WorkerOptions
from pspf.runtime.app.work import CursorName, Work
from pspf.runtime.status.exit_status import BURST_TIMED_OUT
from pspf.runtime.worker.broker_wait import connect_patiently
from pspf.runtime.worker.descriptors import raise_descriptor_limit
from pspf.runtime.worker.drain import describe_left, finish, read_lags, wait_until_drained
from pspf.runtime.worker.interpreter import tune_interpreter
from pspf.runtime.worker.logs import configure_logging
from pspf.runtime.worker.shutdown import Stage, Stages
from pspf.runtime.worker.stdio import show_prints
from pspf.settings import settings
from pspf.stream import Stream
from pspf.subscription import Subscription

logger = get_logger(__name__)

SHARED: Final = (Assignment, BatchProcessor)
"""Modules that a Stream imports when it runs: imported here before the fork, so that processes share them."""
_ANSWER_S: Final = 1.0
_PRINT_PATIENCE_S: Final = 10.0
"""How long a handler waits for the reader of its prints: shorter than a silent event loop is allowed to be."""

Only = Callable[[Subscription], bool]


class Watcher(Protocol):
    """Observer of a worker process."""

    def begin(self) -> None:
        """Called in the event loop, before anything else runs in it."""

    def connected(self) -> None:
        """Called when the broker has answered."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a worker process ended; `is_drained` says of a burst that nothing was left to do."""

    code: int
    totals: Totals
    is_drained: bool = False


def prepare_process(options: WorkerOptions) -> None:
    """Set up the process: log, fault points, descriptors, standard output, interpreter.

    Raises:
        ConfigurationError: The log level, the log format or the fault is unknown.
    """
    configure_logging(options.log_level, options.log_format)
    faults.arm(settings.FAULT)
    raise_descriptor_limit()
    show_prints(patience_s=_PRINT_PATIENCE_S)
    tune_interpreter()


def run_process(work: Coroutine[Any, Any, Ended], loop: str) -> Ended:
    """Run `work` on the event loop that `loop` names: `auto`, `uvloop` or `asyncio`.

    Raises:
        ConfigurationError: uvloop was asked for and is not installed, or `loop` is no such name.
    """
    if loop not in ("auto", "uvloop", "asyncio"):
        work.close()
        raise ConfigurationError(f"--loop {loop!r}: use auto, uvloop or asyncio")
    if loop != "asyncio":
        try:
            # Deferred: it is not there on every platform, and a worker on asyncio doesn't pay for it.
            import uvloop
        except ImportError:
            if loop == "uvloop":
                work.close()
                raise ConfigurationError("--loop uvloop: uvloop is not installed; use --loop asyncio") from None
        else:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return _run_through(runner, work)
    with asyncio.Runner() as runner:
        return _run_through(runner, work)


def _run_through(runner: asyncio.Runner, work: Coroutine[Any, Any, Ended]) -> Ended:
    """Run `work` to its end: only signals end a worker, and those are taken by its stages.

    A SystemExit or a KeyboardInterrupt in a task that a handler has started would end the event loop. Whoever
    awaits that task gets it as well.
    """
    loop = runner.get_loop()
    task = loop.create_task(work, name="pspf worker")
    while True:
        try:
            return loop.run_until_complete(task)
        except (SystemExit, KeyboardInterrupt) as error:
            if task.done():
                raise
            kind = type(error).__name__
            logger.error("a task that a handler has started raised %s: the worker goes on", kind, exc_info=error)


class Worker:
    """Runs a stream's handlers in this process until a signal, the end of a burst or an error.

    `work` is what a burst waits for, `only` chooses the subscriptions that run here.
    """

    def __init__(
        self,
        stream: Stream,
        options: WorkerOptions,
        *,
        work: Work,
        only: Only | None,
        say: Callable[[str], None],
        watcher: Watcher,
    ) -> None:
        self.companion: Callable[[], Coroutine[Any, Any, None]] | None = None
        """What runs beside the handlers, until they have ended."""
        self._stream = stream
        self._options = options
        self._work = work
        self._only = only
        self._say = say
        self._watcher = watcher
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._code = 0
        stream.processor.ends_on_refusal = options.burst  # it would never be drained
        self._is_drained = False
        self.stages = Stages(drain_timeout_ms=options.drain_timeout_ms, drain=self._drain, give_up=self._give_up)

    async def run(self) -> Ended:
        """Run to the end; `stages` are to be installed before."""
        self._loop = asyncio.get_running_loop()
        self._watcher.begin()
        if self.stages.stage is not Stage.RUNNING:  # a signal came before there was a loop
            self._stopping.set()
        try:
            async with asyncio.timeout(self._options.burst_left_s):
                is_open = await connect_patiently(self._stream.broker, self._stopping, self._say)
        except TimeoutError:
            self._say(f"the broker was not there within {self._options.burst_timeout_ms} ms")
            return Ended(BURST_TIMED_OUT, Totals())
        if is_open:
            self._watcher.connected()
            try:
                await self._run_stream()
            except BackendUnavailable:
                if self._code != BURST_TIMED_OUT:
                    raise  # else the burst's time was up, and its exit code says so
            finally:
                # What runs beside the handlers may have asked the broker something after the stream had closed it.
                await self._stream.broker.close()
        code = self.stages.code or self._code
        if code == 0 and self._options.burst and not self._is_drained:
            code = 128 + self.stages.signal  # stopped: its parent must not take it for done
        return Ended(code, totals_of(self._stream), self._is_drained)

    async def _run_stream(self) -> None:
        """Run the handlers beside what may stop them, and always end by stopping the stream, once."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._stop_when_asked())
                beside = [] if self.companion is None else [tasks.create_task(self.companion())]
                if self._options.burst:
                    beside.append(tasks.create_task(self._stop_when_drained()))
                try:
                    # All processes of a worker check all of its groups: what one of them refuses, none begins.
                    places = {(cursor.topic, cursor.group) for cursor in self._work.cursors}
                    await self._stream.run_forever(only=self._only, places=places)
                finally:
                    self._stopping.set()
                    for task in beside:
                        task.cancel()
        except BaseExceptionGroup as group:
            # The stream's error is what counts; a helper has at most failed over the same thing.
            raise group.exceptions[0] from None

    async def _stop_when_asked(self) -> None:
        await self._stopping.wait()
        await self._stream.stop()

    async def _stop_when_drained(self) -> None:
        broker = self._stream.broker
        try:
            async with asyncio.timeout(self._options.burst_left_s):
                await wait_until_drained(broker, self._work)
                if self._options.final:
                    await finish(broker, self._work, self._stream.finish)
            self._is_drained = True
        except TimeoutError:
            self._code = BURST_TIMED_OUT
            lags = await self._read_lags()
            self._say(describe_left(lags, self._options.burst_timeout_ms))
            is_refused = self._stream.processor.is_refused or broker.find_obstacle() is not None
            if lags is None or is_refused:  # the running batches could not be committed either
                self.stages.begin_give_up(BURST_TIMED_OUT)
                return
        self.stages.begin_drain(late_code=self._code)

    async def _read_lags(self) -> Mapping[CursorName, int | None] | None:
        """Return the work that is left; None where the broker does not answer now."""
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await read_lags(self._stream.broker, self._work.cursors)
        except (BackendUnavailable, TimeoutError):
            return None

    def _drain(self) -> None:
        self._in_loop(self._stopping.set)

    def _give_up(self) -> None:
        self._in_loop(self._say_why_and_give_up)

    def _say_why_and_give_up(self) -> None:
        obstacle = self._stream.broker.find_obstacle()
        if obstacle is not None:
            self._say(f"what is in hand is given up: {obstacle}")
        self._stream.give_up()

    def _in_loop(self, act: Callable[[], None]) -> None:
        """Do `act` in the event loop, wherever this is called from: a signal handler or a thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and all with it
                self._loop.call_soon_threadsafe(act)


def totals_of(stream: Stream) -> Totals:
    """Return what the stream's handlers did in this process."""
    counts = stream.telemetry.snapshot()
    return Totals(
        handled=sum(count.processed for count in counts),
        failed=sum(count.failed for count in counts),
        dead=sum(count.dead for count in counts),
    )
