"""Runner of a Stream: its handlers as tasks, from the start of the session to its end."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pspf.backoff import Backoff
from pspf.concurrency.shielding import shielded
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.membership import Session
from pspf.context import current_call
from pspf.engine.orphans import find_orphans, refuse_orphans
from pspf.engine.stop import Stop
from pspf.engine.tuning import Tuning
from pspf.errors import BackendUnavailable, ConfigurationError
from pspf.loggers import get_logger
from pspf.settings import settings
from pspf.stream.connection import StreamConnection
from pspf.subscription import Subscription

if TYPE_CHECKING:
    from pspf.engine.processor import BatchProcessor

logger = get_logger(__name__)

Places = Collection[tuple[str, str]]
"""Pairs of topic and group."""


@dataclass(slots=True)
class StreamRun:
    """What one run is started with.

    `places` are the (topic, group)s where every cursor has to be the app's; `known` are the app's subscriptions, of
    which `chosen` run.
    """

    broker: Broker
    processor: "BatchProcessor"
    chosen: Sequence[Subscription]
    known: Sequence[Subscription]
    places: Places
    session_name: str | None
    accepts_orphans: bool
    lifespan: Callable[[], AbstractAsyncContextManager[None]]
    stop: Stop = field(default_factory=Stop)


class Runner:
    """Runs subscriptions, one run at a time.

    idle --run--> running --stop--> draining --all cursors are given back--> idle
                     |
                     +-----give_up--> cancelled --all cursors are given back--> idle
    """

    def __init__(self, connection: StreamConnection) -> None:
        self.session: Session | None = None
        self._connection = connection
        self._stop: Stop | None = None
        self._task: asyncio.Task[object] | None = None
        self._finished: asyncio.Event | None = None
        self._gave_up = False

    @property
    def is_running(self) -> bool:
        """Whether a run has begun and not ended."""
        return self._stop is not None

    async def run(self, run: StreamRun) -> None:
        """Run until `stop`, or until a handler's loop ends with an error, which is raised.

        Raises:
            ConfigurationError: It runs already.
            OrphanedCursors: The broker has cursors of handlers that the app lacks.
        """
        if self._stop is not None:
            raise ConfigurationError("this Stream runs already")
        self._stop = run.stop
        finished = self._finished = asyncio.Event()
        self._task = asyncio.current_task()
        self._gave_up = run.processor.is_abandoned = False
        was_open = self._connection.is_open
        try:
            await self._connection.open()
            with run.processor.telemetry.asking():
                await _refuse_orphans(run)
            await self._consume(run)
        except asyncio.CancelledError:
            if not self._take_back_cancellation():
                raise
        except BaseExceptionGroup as errors:
            self._take_back_cancellation()
            raise _first(errors) from errors
        finally:
            self._stop = self._task = None
            try:
                if not was_open:
                    await shielded(self._connection.close())
            finally:
                finished.set()

    async def stop(self) -> None:
        """Finish the running batches, commit, give all cursors back. From inside a handler it only asks."""
        finished = self._finished
        if self._stop is None:
            await self._connection.close()
            return
        runs_in = None if self._task is None else self._task.get_loop()
        if runs_in is not None and runs_in is not asyncio.get_running_loop():
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.stop(), runs_in))
            return
        self._stop.set()
        if finished is not None and current_call.get() is None:
            await finished.wait()

    def give_up(self) -> None:
        """End now: handlers are cancelled, their batches are not committed, all is given back."""
        if self._stop is not None:
            self._stop.set()
        if self._task is not None and not self._gave_up:
            self._gave_up = True
            self._task.cancel()

    async def _consume(self, run: StreamRun) -> None:
        from pspf.engine.assignment import Assignment  # start-up: a Stream that only emits has no loop

        async with run.lifespan(), self._session_entered(run) as session:
            if session is None:  # stopped before it could join
                return
            run.processor.tuning = Tuning.from_settings(settings)
            async with asyncio.TaskGroup() as group:
                for subscription in run.chosen:
                    assignment = Assignment(subscription, run.broker, session, run.processor, run.stop)
                    group.create_task(assignment.run(), name=f"{subscription.name} on {subscription.topic}")

    def _take_back_cancellation(self) -> bool:
        """Return whether this task was cancelled by `give_up` alone."""
        task = asyncio.current_task()
        return self._gave_up and task is not None and task.uncancel() == 0

    @asynccontextmanager
    async def _session_entered(self, run: StreamRun) -> AsyncIterator[Session | None]:
        session = self.session = await _open_session(run)
        if session is None:
            yield None
            return
        try:
            yield session
        finally:
            self.session = None
            await shielded(_leave(session))


async def _open_session(run: StreamRun) -> Session | None:
    """Open a session, as soon as the broker stores it (its disk may be full, or locked); None once stopped."""
    backoff = Backoff()
    while not run.stop.is_set:
        try:
            with run.processor.telemetry.asking():
                return await run.broker.open_session(run.session_name)
        except BackendUnavailable as error:
            if isinstance(error.__cause__, PermissionError):  # waiting mends no permission
                raise
            if backoff.is_first:
                logger.warning("can't join %s, will try again: %s", run.broker.name, error)
            await run.stop.wait(backoff.next_ms())
    return None


async def _refuse_orphans(run: StreamRun) -> None:
    """Raise OrphanedCursors where there are some, or log them; wait until the broker can say.

    Raises:
        ConfigurationError: A handler has other windows in the broker than in the code.
    """
    from pspf.engine.stored_state import check_stored  # start-up, as above

    backoff = Backoff()
    while not run.stop.is_set:
        try:
            await check_stored(run.broker, run.known)
            orphans = await find_orphans(run.broker, run.known, run.places)
        except BackendUnavailable as error:
            if backoff.is_first:
                logger.warning("can't look at what is stored of the app's handlers, waits until it can: %s", error)
            await run.stop.wait(backoff.next_ms())
            continue
        if not (run.accepts_orphans or settings.ACCEPT_ORPHANS):
            refuse_orphans(orphans, run.known)
        for orphan in orphans:
            logger.warning(
                "group %s has %s on %s, which the app lacks; it is left as it is", orphan.group, orphan, orphan.topic
            )
        return


async def _leave(session: Session) -> None:
    try:
        await session.close()
    except BackendUnavailable as error:
        logger.warning("can't give everything back, others wait for the leases to end: %s", error)


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error of nested groups: what ended a loop ends the worker."""
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
