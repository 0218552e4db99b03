"""Engine of a database in a file: jobs run in one thread, which has the connection.

While it waits for other processes' writes, and only then, a second one uses the connection (stand_in.py).
"""

import asyncio
import logging
import threading
import time
from collections.abc import Sequence
from typing import Any, Final, TypeVar

import apsw

from pspf.clock import Clock
from pspf.connectors.contract.limits import Limits
from pspf.connectors.sqlite import forks
from pspf.connectors.sqlite.engine.base import TICK_MS, Engine, Job, Nothing, Poll, Write
from pspf.connectors.sqlite.engine.stand_in import StandIn
from pspf.connectors.sqlite.lock_wait import BUSY_MS
from pspf.connectors.sqlite.polls import Polls
from pspf.connectors.sqlite.requests import EngineRequest, Requests, make_request
from pspf.connectors.sqlite.storage import Storage
from pspf.connectors.sqlite.wakeups import WakeUps
from pspf.errors import BackendGone, BackendUnavailable, PSPFError
from pspf.loggers import get_logger

logger = get_logger(__name__)

T = TypeVar("T")

_CLOSE_S: Final = 2.0
"""How long `close` waits for the thread, which may be stuck in another process's lock or in the disk."""
_JOIN_STEP_S: Final = 0.002
_JOIN_WAITING_S: Final = 0.1
_POLL_LOCK_S: Final = 0.003
_TROUBLE_S: Final = 0.1
_TELL_EVERY_S: Final = 10.0


class ThreadEngine(Engine):
    """Runs jobs in one thread; it waits for other processes with its mutex released."""

    def __init__(self, storage: Storage, clock: Clock, limits: Limits) -> None:
        super().__init__(storage, clock, limits)
        self._requests = Requests()
        self._wakeups = WakeUps(storage.path)
        self._polls = Polls(self, self._requests, self._wakeups)
        self._thread: threading.Thread | None = None
        self._ending: threading.Thread | None = None
        """The thread that was asked to end last; it may still have the connection."""
        self._is_closing = False
        self._is_forked = False
        self._stand_in = StandIn(storage, self._requests, self._polls, lambda: self.limits.emit_timeout_ms)
        self._data_version = 0
        self._broken: PSPFError | None = None
        self._is_changed = False
        self._told_at = -_TELL_EVERY_S

    async def open(self) -> None:
        await self._await_end()
        if self._thread is not None:
            return
        self._is_closing = self._is_forked = False
        try:
            self._wakeups.open()
            forks.watch(self)
            self._start_threads()
        except (OSError, RuntimeError) as error:  # no descriptor, no thread
            self._thread = None
            self._wakeups.stop_ringing()
            raise BackendUnavailable(f"{self.storage.name}: can't be opened: {error}") from error
        try:
            await self.read(lambda storage: storage.open())
        except BaseException:
            await self.close()
            raise

    def _start_threads(self) -> None:
        thread = threading.Thread(target=self._serve, name="pspf-sqlite", daemon=True)
        is_decided = threading.Event()
        stand_by = (thread, is_decided)
        threading.Thread(target=self._stand_in.run, args=stand_by, name="pspf-sqlite-wait", daemon=True).start()
        try:
            thread.start()
        finally:
            is_decided.set()
        self._thread = thread

    async def _await_end(self) -> None:
        ending = self._ending
        if ending is not None and ending.is_alive():
            await self._join(ending, even_if_waiting=True)
            if ending.is_alive():
                raise BackendUnavailable(f"{self.storage.name}: this process is not done with closing it yet")

    async def close(self) -> None:
        if self._thread is None:
            return
        thread, self._thread = self._thread, None
        self._ending = thread
        self._is_closing = True
        self._ring()
        await self._join(thread)
        if thread.is_alive():
            self._requests.give_up_all(BackendUnavailable(f"{self.storage.name}: closed"))

    async def _join(self, thread: threading.Thread, *, even_if_waiting: bool = False) -> None:
        """Wait for the thread's end, shortly where it waits itself: it ends by itself, a little later.

        Needs no thread, which a process at its limit may not get.
        """
        begun = time.monotonic()
        while thread.is_alive() and (waited_s := time.monotonic() - begun) < _CLOSE_S:
            if self._stand_in.is_waiting and waited_s >= _JOIN_WAITING_S and not even_if_waiting:
                return
            await asyncio.sleep(_JOIN_STEP_S)

    def drop_after_fork(self) -> None:
        self._is_forked = True
        self._thread = self._ending = None
        self._stand_in.drop_after_fork()
        self._requests.drop_after_fork()
        self._wakeups.drop_after_fork()

    def look_again(self) -> None:
        self._is_changed = True

    async def read(self, job: Job[T]) -> T:
        request = make_request()
        request.job = job
        result: T = await self._submit(request)
        return result

    async def write(self, job: Job[T], *, durable: bool = True, patience_ms: int | None = None) -> T:
        request = make_request()
        request.write = Write(job, durable)
        request.patience_ms = patience_ms
        result: T = await self._submit(request)
        return result

    async def poll(self, poll: Poll) -> Any:
        request = make_request()
        request.poll = poll
        request.deadline_ms = self.clock.monotonic_ms() + poll.timeout_ms
        return await self._submit(request)

    async def _submit(self, request: EngineRequest) -> Any:
        if self._thread is None:
            why = "opened before this process was forked; it can't be used here" if self._is_forked else "not connected"
            raise BackendUnavailable(f"{self.storage.name}: {why}")
        self._requests.new.append(request)
        self._ring()
        return await request.future

    def _ring(self) -> None:
        try:
            self._wakeups.ring()
        except OSError as error:  # the thread has ended, and closed it
            why = self._broken or BackendUnavailable(f"{self.storage.name}: not connected ({error})")
            self._requests.give_up_all(why)

    # What follows runs on the thread.

    def _serve(self) -> None:
        try:
            with self._stand_in.mutex:
                self._serve_until_closed()
        except BaseException as error:  # the root of the thread: nobody may wait for it
            self._broken = BackendUnavailable(f"{self.storage.name}: its thread has ended: {error!r}")
            raise
        finally:
            self._end()

    def _serve_until_closed(self) -> None:
        next_tick_ms = 0
        while not self._is_closing:
            try:
                next_tick_ms = self._turn(next_tick_ms)
            except Exception as error:  # the root of the thread: it goes on, whatever a turn met
                self._get_over(error)

    def _end(self) -> None:
        with self._requests.giving_up:
            self._wakeups.stop_ringing()
        self._requests.give_up_all(self._broken or BackendUnavailable(f"{self.storage.name}: closed"))
        self._wakeups.close()
        self.storage.close()

    def _get_over(self, error: Exception) -> None:
        self.storage.rollback()
        self._requests.give_up_all(self._as_pspf(error))
        now = time.monotonic()
        if now - self._told_at >= _TELL_EVERY_S:
            self._told_at = now
            is_expected = isinstance(error, OSError | apsw.Error | PSPFError)  # who asked says so
            level = logging.DEBUG if is_expected else logging.WARNING
            logger.log(level, "%s: what was asked for failed: %s", self.storage.name, error, exc_info=not is_expected)
        with self._stand_in.waiting():
            time.sleep(_TROUBLE_S)

    def _turn(self, next_tick_ms: int) -> int:
        """Wait for something to do, and do it; return when the next tick is due."""
        grown, is_any = self._wakeups.wait(self._requests.idle_ms(self.clock, next_tick_ms))
        now_ms = self.clock.monotonic_ms()
        if now_ms >= next_tick_ms:
            next_tick_ms = now_ms + TICK_MS
            is_any = self._tick() or is_any
        self._work(grown, is_any)
        self._requests.deliver()
        if self.storage.is_open and self._broken is None:
            self.storage.checkpoints.run_if_due()  # the callers have their answers
        return next_tick_ms

    def _tick(self) -> bool:
        """Do the chores; return whether another process committed since the last tick."""
        if not self.storage.is_open or self._broken is not None:
            return False
        try:
            version = self.storage.data_version()
            self._check()
            self._wakeups.tend(is_wanted=bool(self._requests.parked))
            if self.storage.queue is not None:
                self.storage.queue.reopen_if_replaced()
            self.run_chores()
        except PSPFError as error:
            self._requests.give_up_all(error)
            return False
        except (apsw.Error, OSError) as error:
            self._get_over(error)
            return False
        is_changed = self._is_changed or version != self._data_version
        self._data_version, self._is_changed = version, False
        return is_changed

    def _check(self) -> None:
        try:
            self.storage.check()
        except BackendGone as error:
            self._broken = error  # every later call fails too: what is written would go where nobody reads
            raise

    def _work(self, grown: set[int], is_any: bool) -> None:
        if self._broken is not None:
            self._requests.give_up_all(self._broken)
        writes: list[EngineRequest] = []
        self._requests.in_hand = writes
        self._polls.sort(writes, grown, is_any)
        while writes:
            batch, writes = writes, []
            self._run_writes(batch)
            self._requests.in_hand = writes
            if self.grown:
                grown = self.grown
                self._wakeups.notify(grown)
                self._polls.look_at_parked(writes, grown, False)

    def _run_writes(self, requests: list[EngineRequest]) -> None:
        for request in requests:
            if request.poll is not None and request.poll.take is not None:
                request.write = Write(request.poll.take, is_durable=False, is_given_up=request.is_given_up)
        self._requests.in_hand = requests
        self.transact([request.write for request in requests if request.write is not None])
        for request in requests:
            write = request.write
            assert write is not None
            if isinstance(write.result, Nothing) and request.poll is not None and write.error is None:
                self._polls.park(request, write.result)
            else:
                self._requests.answer(request, write.result, write.error)

    def transact(self, writes: Sequence[Write]) -> None:
        queue = self.storage.queue
        assert queue is not None
        try:
            if not queue.try_enter():
                with self._stand_in.waiting():
                    queue.enter()
        except OSError as error:  # the queue's file itself
            self._fail(writes, error)
            return
        try:
            super().transact(writes)
        finally:
            queue.leave()

    def _begin(self, *, durable: bool) -> None:
        """Begin, once a program that is not in the queue (a shell, a backup) lets it."""
        until: float | None = None
        while not self._is_closing:
            try:
                self.storage.begin(durable=durable)
            except apsw.BusyError:
                now = time.monotonic()
                until = until or now + BUSY_MS / 1000
                if now > until and all(
                    request.is_given_up or request.patience_ms is None for request in self._requests.in_hand
                ):
                    raise self.storage.locked(BUSY_MS) from None
                with self._stand_in.waiting():
                    time.sleep(_POLL_LOCK_S)
            else:
                self._check()
                return
        raise BackendUnavailable(f"{self.storage.name}: closed")

    def _choose(self, writes: Sequence[Write]) -> Sequence[Write]:
        return self._requests.choose(writes)
