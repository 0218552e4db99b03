"""Presence of a worker in the broker's roster: publishes its status, and receives commands.

Runs in an event loop: the supervisor has none and gives it a thread, a worker in one process lets it
run beside its handlers.
"""

import asyncio
import functools
import json
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

from pspf.backoff import Backoff, Sparing
from pspf.concurrency.background import attempt, keep_running
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.roster import MAX_STATUS_BYTES
from pspf.errors import BackendGone, PSPFError
from pspf.loggers import get_logger
from pspf.observability.worker_status import ShownWorker, WorkerStatus

logger = get_logger(__name__)

_LISTEN_MS: Final = 3_000
_PUBLISH_S: Final = 3.0
_TTL_MS: Final = 10_000
_KEPT_ANSWERS: Final = 16
_LEAVE_S: Final = 1.0
_CLOSE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class WorkerCommand:
    """What somebody asks of a worker; `process` is the id of one of its processes, None for all of them.

    `level` is what a `log-level` sets.
    """

    command_id: str
    do: str
    process: str | None = None
    level: str = "INFO"

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """Return the command of a decoded message. KeyError: it is no command."""
        return cls(str(fields["id"]), str(fields["do"]), fields.get("process"), str(fields.get("level", "INFO")))


@dataclass(slots=True, eq=False)
class Presence:
    """One worker in the roster.

    `describe` returns its status; `obey` is given a command and the function that takes its answer,
    which may be called later and from any thread.
    """

    broker: Broker
    worker: str
    app: str
    describe: Callable[[], WorkerStatus]
    obey: Callable[[WorkerCommand, Callable[[Mapping[str, Any]], None]], None]
    leave_s: float = _LEAVE_S
    """How long it may take to withdraw; an entry that stays expires after some seconds."""
    _started_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    _answers: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    _mutex: threading.Lock = field(default_factory=threading.Lock)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _loop: asyncio.AbstractEventLoop | None = None
    _answered_since_ms: int | None = None
    _failing: set[str] = field(default_factory=set)
    """What failed when it was last done."""

    @property
    def broker_answers_ms(self) -> int:
        """For how long the broker has answered without a failure; 0 while it does not."""
        since_ms = self._answered_since_ms
        return 0 if since_ms is None else _monotonic_ms() - since_ms

    def change(self) -> None:
        """Publish soon: something is different now. Safe from any thread."""
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._changed.set)

    async def run(self) -> None:
        """Show the worker and listen, until cancelled; then withdraw it."""
        self._loop, self._changed = asyncio.get_running_loop(), asyncio.Event()  # an event belongs to one loop
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep(self._show), name="pspf presence")
                tasks.create_task(self._keep(self._listen), name="pspf commands")
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            with suppress(PSPFError, TimeoutError):  # the broker's error is logged already
                async with asyncio.timeout(self.leave_s):
                    await self.broker.roster.withdraw(self.worker)
            with suppress(PSPFError, TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await self.broker.leave(self)

    async def _keep(self, act: Callable[[], Awaitable[None]]) -> None:
        """Do something over and over, more and more seldom while it fails: without a broker, or of anything else."""
        backoff, sparing = Backoff(), Sparing()
        while True:
            try:
                await self.broker.enter(self)  # the last of its users to leave closes it
                await act()
            except BackendGone:
                raise
            except PSPFError as error:  # away, or refusing: a permission may come, a damaged key be deleted
                if not self._failing:
                    logger.warning("can't show this worker in %s, will try again: %s", self.broker.name, error)
                await self._wait(act.__name__, backoff)
            except Exception as error:  # the root of a task: without it this worker is neither seen nor stopped
                if sparing.may_say():
                    logger.exception("can't show this worker in %s, will try again: %r", self.broker.name, error)
                await self._wait(act.__name__, backoff)
            else:
                backoff.reset()
                self._note_success(act.__name__)

    async def _wait(self, name: str, backoff: Backoff) -> None:
        self._failing.add(name)
        self._answered_since_ms = None
        await asyncio.sleep(backoff.next_ms() / 1000)

    def _note_success(self, name: str) -> None:
        if self._failing == {name}:
            logger.info("%s is back: this worker is shown again", self.broker.name)
        self._failing.discard(name)
        if not self._failing:
            self._answered_since_ms = self._answered_since_ms or _monotonic_ms()

    async def _show(self) -> None:
        self._changed.clear()
        await self.broker.roster.publish(self.worker, self._status(), ttl_ms=_TTL_MS)
        with suppress(TimeoutError):
            async with asyncio.timeout(_PUBLISH_S):
                await self._changed.wait()

    async def _listen(self) -> None:
        for raw in await self.broker.roster.take_commands(self.worker, wait_ms=_LISTEN_MS):
            try:
                command = WorkerCommand.from_fields(json.loads(raw))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                logger.warning("a command that this version does not know: %.200r", raw)
                continue
            self._obey(command)

    def _obey(self, command: WorkerCommand) -> None:
        """Do it; what fails is its answer, and hides no command behind it."""
        answer = functools.partial(self._answer, command.command_id)
        error = attempt(f"command {command.do:.40}", lambda: self.obey(command, answer))
        if error is not None:
            answer({"error": f"{command.do:.40} failed: {error!r}"})

    def _answer(self, command_id: str, answer: Mapping[str, Any]) -> None:
        with self._mutex:
            self._answers[command_id] = answer
            while len(self._answers) > _KEPT_ANSWERS:
                del self._answers[next(iter(self._answers))]
        self.change()

    def _status(self) -> bytes:
        with self._mutex:
            answers = dict(self._answers)
        shown = ShownWorker(
            self.worker, socket.gethostname(), os.getpid(), self.app, self._started_ms, answers, self.describe()
        )
        while True:
            encoded = json.dumps(replace(shown, answers=answers).as_fields()).encode()
            if len(encoded) <= MAX_STATUS_BYTES or not answers:
                return encoded[:MAX_STATUS_BYTES]
            del answers[next(iter(answers))]


class PresenceThread:
    """A presence for a process without an event loop: in a thread, which ends with the `with` block.

    `on_gone` is called, in that thread, when the broker was taken away.
    """

    def __init__(self, presence: Presence, on_gone: Callable[[BackendGone], None]) -> None:
        self._presence = presence
        self._on_gone = on_gone
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="pspf-presence", daemon=True)
        self._over = threading.Event()

    def __enter__(self) -> Presence:
        self._thread.start()
        return self._presence

    def __exit__(self, *_: object) -> None:
        self._over.set()  # before: either it is seen when the loop begins, or the loop is seen here
        if self._loop is not None and self._task is not None:
            with suppress(RuntimeError):  # it has ended by itself
                self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(self._presence.leave_s + _CLOSE_S)

    def _run(self) -> None:
        keep_running(
            "the thread that shows this worker in the broker",
            lambda: asyncio.run(self._main()),
            rest=self._over.wait,
            is_over=self._over.is_set,
        )

    async def _main(self) -> None:
        self._task, self._loop = asyncio.current_task(), asyncio.get_running_loop()
        if self._over.is_set():
            return
        try:
            await self._presence.run()
        except BackendGone as error:
            self._on_gone(error)


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000
