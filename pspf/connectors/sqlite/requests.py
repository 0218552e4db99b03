"""Requests to the engine's thread, and their answers on the way back to the tasks.

A request is new, parked (a poll that found nothing), or being written. The timekeeper may
give one up, from any thread; a write that has begun is only said to be stored or not.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pspf.clock import Clock
from pspf.connectors.sqlite.engine.base import Job, OutcomeUnknown, Poll, Write, finish
from pspf.connectors.sqlite.lock_wait import BUSY_MS
from pspf.loggers import get_logger

logger = get_logger(__name__)

Answer = tuple["asyncio.Future[Any]", Any, BaseException | None]


@dataclass(slots=True, eq=False)
class EngineRequest:
    """What a task asked for, and where its answer goes."""

    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Any]"
    write: Write | None = None
    job: Job[Any] | None = None
    poll: Poll | None = None
    patience_ms: int | None = None
    deadline_ms: int = 0
    due_ms: int | None = None
    is_given_up: bool = False
    """Whether it was answered with an error while it waited: it is not to be begun any more."""
    since_s: float = field(default_factory=time.monotonic)


def make_request() -> EngineRequest:
    """Return a request of the running task, which asks for nothing yet."""
    loop = asyncio.get_running_loop()
    return EngineRequest(loop, loop.create_future())


class Requests:
    """All requests that have no answer yet."""

    def __init__(self) -> None:
        self.new: deque[EngineRequest] = deque()
        self.parked: list[EngineRequest] = []
        self.in_hand: Sequence[EngineRequest] = ()
        """What the thread is about to write, or waits to."""
        self.giving_up = threading.Lock()
        """Held while a write is begun or given up."""
        self._answers: dict[asyncio.AbstractEventLoop, list[Answer]] = {}

    def drop_after_fork(self) -> None:
        """Forget all, in a forked child: no task there waits for an answer."""
        self.giving_up = threading.Lock()
        self.new.clear()
        self.parked, self.in_hand = [], ()
        self._answers.clear()

    # What follows runs on the engine's thread, or on the one that stands in for it.

    def choose(self, writes: Sequence[Write]) -> Sequence[Write]:
        """Return the writes that were not given up while they waited, and mark them as begun."""
        with self.giving_up:
            chosen = [write for write in writes if not write.is_given_up]
            for write in chosen:
                write.is_begun = True
        return chosen

    def answer(self, request: EngineRequest, result: Any, error: BaseException | None) -> None:
        """Have an answer delivered with the next ones."""
        self._answers.setdefault(request.loop, []).append((request.future, result, error))

    def deliver(self) -> None:
        """Send the answers to the event loops that wait for them."""
        answers, self._answers = self._answers, {}
        for loop, batch in answers.items():
            _deliver_to(loop, batch)

    def idle_ms(self, clock: Clock, next_tick_ms: int) -> int:
        """Return for how long there is nothing to do, at most until the next tick; 0 where something waits."""
        if self.new:
            return 0
        now_ms = clock.monotonic_ms()
        idle_ms = next_tick_ms - now_ms
        for request in self.parked:
            idle_ms = min(idle_ms, request.deadline_ms - now_ms)
            if request.due_ms is not None:
                idle_ms = min(idle_ms, request.due_ms - clock.now_ms())
        return max(0, idle_ms)

    # What follows may run on any thread.

    def give_up_all(self, error: BaseException) -> None:
        """Answer all with an error; a write that has begun may be stored or not."""
        with self.giving_up:
            requests = [*list(self.parked), *list(self.new), *self.in_hand]
            self.parked, self.in_hand = [], ()
            self.new.clear()
            for request in requests:
                self.give_up(request, error)
        self.deliver()

    def give_up(self, request: EngineRequest, error: BaseException) -> None:
        """Answer one with an error, under `giving_up`."""
        if request.write is not None and request.write.is_begun:
            error = OutcomeUnknown(str(error))
        elif request.write is not None:
            request.write.is_given_up = True
        request.is_given_up = True
        _deliver_to(request.loop, [(request.future, None, error)])

    def find_late(self, *, is_waiting: bool, emit_timeout_ms: int) -> list[EngineRequest]:
        """Return the writes whose callers' patience is over, and the emits that a slow disk holds.

        `is_waiting`: for other processes' writes, while reads are answered by who stands in.
        """
        now_s = time.monotonic()

        def is_late(request: EngineRequest) -> bool:
            if request.future.done() or request.is_given_up or (request.job is not None and is_waiting):
                return False
            patience_ms = request.patience_ms
            if patience_ms is None:
                if request.write is not None and request.write.is_begun:
                    return False
                patience_ms = BUSY_MS if is_waiting else emit_timeout_ms
                if request.poll is not None:
                    patience_ms += request.poll.timeout_ms
            return now_s - request.since_s > patience_ms / 1000

        return [each for each in (*list(self.new), *self.in_hand, *list(self.parked)) if is_late(each)]


def _deliver_to(loop: asyncio.AbstractEventLoop, batch: Sequence[Answer]) -> None:
    try:
        loop.call_soon_threadsafe(_finish_all, batch)
    except RuntimeError:
        logger.debug("%d answers for a closed event loop", len(batch))


def _finish_all(answers: Iterable[Answer]) -> None:
    for future, result, error in answers:
        finish(future, result, error)
