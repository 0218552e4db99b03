"""Runs jobs in a thread, for a database in a file.

One thread has the connection. While it waits for other processes' writes, and only then, a second one
stands in for it: it answers reads, and gives up what has waited for too long.
"""

import asyncio
import logging
import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import apsw

from pspf.clock import Clock
from pspf.connectors.base import Limits
from pspf.connectors.sqlite import forks
from pspf.connectors.sqlite.engine import (
    ANY_PARTITION,
    TICK_MS,
    Engine,
    Job,
    Nothing,
    OutcomeUnknown,
    Poll,
    Write,
    finish,
)
from pspf.connectors.sqlite.storage import BUSY_MS, Storage
from pspf.connectors.sqlite.wake import Wake
from pspf.errors import BackendGone, BackendUnavailable, PSPFError

logger = logging.getLogger(__name__)

T = TypeVar("T")
Answer = tuple["asyncio.Future[Any]", Any, BaseException | None]

_STAND_IN_S: Final = 0.25
_CLOSE_S: Final = 2.0
"""How long `close` waits for the thread, which may be stuck in another process's lock or in the disk."""
_JOIN_STEP_S: Final = 0.1
_POLL_LOCK_S: Final = 0.003
_TROUBLE_S: Final = 0.1
_TELL_EVERY_S: Final = 10.0


@dataclass(slots=True, eq=False)
class _Request:
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


def _finish_all(answers: Iterable[Answer]) -> None:
    for future, result, error in answers:
        finish(future, result, error)


class ThreadEngine(Engine):
    """Runs jobs in one thread; what it waits for, it waits for with its mutex released."""

    def __init__(self, storage: Storage, clock: Clock, limits: Limits) -> None:
        super().__init__(storage, clock, limits)
        self._requests: deque[_Request] = deque()
        self._parked: list[_Request] = []
        self._in_hand: Sequence[_Request] = ()
        """What the thread is about to write, or waits to."""
        self._answers: dict[asyncio.AbstractEventLoop, list[Answer]] = {}
        self._thread: threading.Thread | None = None
        self._ending: threading.Thread | None = None
        """The thread that was told to end last; it may still have the connection."""
        self._is_closing = False
        self._is_forked = False
        self._mutex = threading.Lock()
        """Held by the thread that uses the connection and the state of this object."""
        self._giving_up = threading.Lock()
        """Held while a write is begun or given up."""
        self._is_waiting = False
        """Whether the thread waits for other processes' writes, and the second one may stand in."""
        self._wake: Wake | None = None
        self._selector: selectors.BaseSelector | None = None
        self._bell_read = self._bell_write = -1
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
            with forks.held_off():
                self._bell_read, self._bell_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
                self._selector = selectors.DefaultSelector()
            self._selector.register(self._bell_read, selectors.EVENT_READ)
            forks.watch(self)
            self._thread = threading.Thread(target=self._serve, name="pspf-sqlite", daemon=True)
            threading.Thread(target=self._stand_by, args=(self._thread,), name="pspf-sqlite-wait", daemon=True).start()
            self._thread.start()
        except (OSError, RuntimeError) as error:  # no descriptor, no thread
            self._thread = None
            self._drop_descriptors()
            raise BackendUnavailable(f"{self.storage.name}: can't be opened: {error}") from error
        try:
            await self.read(lambda storage: storage.open())
        except BaseException:
            await self.close()
            raise

    async def _await_end(self) -> None:
        ending = self._ending
        if ending is not None and ending.is_alive():
            await asyncio.get_running_loop().run_in_executor(None, ending.join, _CLOSE_S)
            if ending.is_alive():
                raise BackendUnavailable(f"{self.storage.name}: this process is not done with closing it yet")

    async def close(self) -> None:
        if self._thread is None:
            return
        thread, self._thread = self._thread, None
        self._ending = thread
        self._is_closing = True
        self._ring()
        await asyncio.get_running_loop().run_in_executor(None, self._join, thread)
        if thread.is_alive():
            self._give_up_all(BackendUnavailable(f"{self.storage.name}: closed"))

    def _join(self, thread: threading.Thread) -> None:
        """Wait for the thread's end, shortly where it waits itself: it ends by itself, a little later."""
        for _ in range(round(_CLOSE_S / _JOIN_STEP_S)):
            thread.join(_JOIN_STEP_S)
            if self._is_waiting or not thread.is_alive():
                return

    def drop_after_fork(self) -> None:
        self._is_forked = True
        self._thread = self._ending = None
        self._mutex, self._giving_up = threading.Lock(), threading.Lock()
        self._requests.clear()
        if self._wake is not None:
            self._wake.drop()
            self._wake = None
        self._drop_descriptors()

    def _drop_descriptors(self) -> None:
        if self._selector is not None:
            self._selector.close()
            self._selector = None
        for end in (self._bell_read, self._bell_write):
            if end >= 0:
                os.close(end)
        self._bell_read = self._bell_write = -1

    def look_again(self) -> None:
        self._is_changed = True

    async def read(self, job: Job[T]) -> T:
        request = self._request()
        request.job = job
        result: T = await self._submit(request)
        return result

    async def write(self, job: Job[T], *, durable: bool = True, patience_ms: int | None = None) -> T:
        request = self._request()
        request.write = Write(job, durable)
        request.patience_ms = patience_ms
        result: T = await self._submit(request)
        return result

    async def poll(self, poll: Poll) -> Any:
        request = self._request()
        request.poll = poll
        request.deadline_ms = self.clock.monotonic_ms() + poll.timeout_ms
        return await self._submit(request)

    def _request(self) -> _Request:
        loop = asyncio.get_running_loop()
        return _Request(loop, loop.create_future())

    async def _submit(self, request: _Request) -> Any:
        if self._thread is None:
            why = "opened before this process was forked; it can't be used here" if self._is_forked else "not connected"
            raise BackendUnavailable(f"{self.storage.name}: {why}")
        self._requests.append(request)
        self._ring()
        return await request.future

    def _ring(self) -> None:
        try:
            os.write(self._bell_write, b"!")
        except BlockingIOError:
            return  # it has rung often enough
        except OSError as error:  # the thread has ended, and closed it
            self._give_up_all(self._broken or BackendUnavailable(f"{self.storage.name}: not connected ({error})"))

    # What follows runs on the thread.

    def _serve(self) -> None:
        try:
            with self._mutex:
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
        with self._giving_up:
            self._drop_descriptors()
        self._give_up_all(self._broken or BackendUnavailable(f"{self.storage.name}: closed"))
        if self._wake is not None:
            self._wake.close()
            self._wake = None
        self.storage.close()

    def _get_over(self, error: Exception) -> None:
        self.storage.rollback()
        self._give_up_all(self._as_pspf(error))
        now = time.monotonic()
        if now - self._told_at >= _TELL_EVERY_S:
            self._told_at = now
            expected = isinstance(error, OSError | apsw.Error | PSPFError)
            logger.warning("%s: what was asked for failed: %s", self.storage.name, error, exc_info=not expected)
        with self._waiting():
            time.sleep(_TROUBLE_S)

    def _turn(self, next_tick_ms: int) -> int:
        """Wait for something to do, and do it; return when the next tick is due."""
        assert self._selector is not None
        self._selector.select(self._idle_ms(next_tick_ms) / 1000)
        self._drain_bell()
        grown, is_any = self._hear()
        now_ms = self.clock.monotonic_ms()
        if now_ms >= next_tick_ms:
            next_tick_ms = now_ms + TICK_MS
            is_any = self._tick() or is_any
        self._work(grown, is_any)
        self._deliver()
        if self.storage.is_open and self._broken is None:
            self.storage.checkpoint_if_due()  # whoever waits has got the answer
        return next_tick_ms

    def _idle_ms(self, next_tick_ms: int) -> int:
        if self._requests:
            return 0
        now_ms = self.clock.monotonic_ms()
        idle_ms = next_tick_ms - now_ms
        for request in self._parked:
            idle_ms = min(idle_ms, request.deadline_ms - now_ms)
            if request.due_ms is not None:
                idle_ms = min(idle_ms, request.due_ms - self.clock.now_ms())
        return max(0, idle_ms)

    def _drain_bell(self) -> None:
        try:
            os.read(self._bell_read, 4096)
        except BlockingIOError:
            return

    def _tick(self) -> bool:
        """Do the chores; return whether another process committed since the last tick."""
        if not self.storage.is_open or self._broken is not None:
            return False
        try:
            version = self.storage.data_version()
            self._check()
            self._tend_wake()
            if self.storage.queue is not None:
                self.storage.queue.reopen_if_replaced()
            self.run_chores()
        except PSPFError as error:
            self._give_up_all(error)
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

    def _tend_wake(self) -> None:
        """Listen for other processes, once something waits; without it they are only heard of later."""
        if self.storage.path is None or self._selector is None:
            return
        if self._wake is None:
            self._wake = Wake(self.storage.path)
        self._wake.tend(self._selector, is_wanted=bool(self._parked))

    def _hear(self) -> tuple[set[int], bool]:
        if self._wake is None or not self._wake.is_listening:
            return set(), False
        return self._wake.read()

    def _notify(self, grown: set[int]) -> None:
        """Tell other processes what grew. What was written stays written, whatever becomes of it."""
        try:
            if self._wake is None:
                self._tend_wake()
            if self._wake is not None:
                self._wake.notify(grown)
        except OSError as error:
            logger.debug("%s: nobody is woken up: %s", self.storage.name, error)

    def _work(self, grown: set[int], is_any: bool) -> None:
        if self._broken is not None:
            self._give_up_all(self._broken)
        writes: list[_Request] = []
        self._in_hand = writes
        self._sort(writes, grown, is_any)
        while writes:
            batch, writes = writes, []
            self._run_writes(batch)
            self._in_hand = writes
            if self.grown:
                grown = self.grown
                self._notify(grown)
                self._look_at_parked(writes, grown, False)

    def _sort(self, writes: list[_Request], grown: set[int], is_any: bool) -> None:
        """Answer what is only read, park what waits; add what is to be written to `writes`."""
        self._look_at_parked(writes, grown, is_any)
        while self._requests:
            request = self._requests.popleft()
            if request.poll is not None:
                self._look(request, writes)
            elif request.write is not None:
                writes.append(request)
            else:
                self._answer_read(request)

    def _run_writes(self, requests: list[_Request]) -> None:
        for request in requests:
            if request.poll is not None and request.poll.take is not None:
                request.write = Write(request.poll.take, is_durable=False, is_given_up=request.is_given_up)
        self._in_hand = requests
        self.transact([request.write for request in requests if request.write is not None])
        for request in requests:
            write = request.write
            assert write is not None
            if isinstance(write.result, Nothing) and request.poll is not None and write.error is None:
                self._park(request, write.result)
            else:
                self._answer(request, write.result, write.error)

    def transact(self, writes: Sequence[Write]) -> None:
        queue = self.storage.queue
        assert queue is not None
        try:
            if not queue.try_enter():
                with self._waiting():
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
                if now > until and all(request.is_given_up or request.patience_ms is None for request in self._in_hand):
                    raise self.storage.locked(BUSY_MS) from None
                with self._waiting():
                    time.sleep(_POLL_LOCK_S)
            else:
                self._check()
                return
        raise BackendUnavailable(f"{self.storage.name}: closed")

    def _choose(self, writes: Sequence[Write]) -> Sequence[Write]:
        with self._giving_up:
            chosen = [write for write in writes if not write.is_given_up]
            for write in chosen:
                write.is_begun = True
        return chosen

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Let the second thread stand in during the block."""
        self._is_waiting = True
        self._mutex.release()
        try:
            yield
        finally:
            self._mutex.acquire()
            self._is_waiting = False

    def _look_at_parked(self, writes: list[_Request], grown: set[int], is_any: bool) -> None:
        if not self._parked:
            return
        now_ms, wall_ms = self.clock.monotonic_ms(), self.clock.now_ms()
        parked, self._parked = self._parked, []
        for request in parked:
            assert request.poll is not None
            is_due = request.due_ms is not None and request.due_ms <= wall_ms
            if request.is_given_up or request.future.done():
                continue
            is_grown = bool(grown) if request.poll.partition_id == ANY_PARTITION else request.poll.partition_id in grown
            if is_grown and request.poll.is_eager():
                writes.append(request)
            elif is_any or is_due or is_grown or request.deadline_ms <= now_ms:
                self._look(request, writes)
            else:
                self._parked.append(request)

    def _look(self, request: _Request, writes: list[_Request]) -> None:
        poll = request.poll
        assert poll is not None
        if request.is_given_up or request.future.done():
            return
        try:
            found = self.read_now(poll.look)
        except BaseException as error:  # the boundary of one read: its caller gets the error
            self._answer_error(request, error)
            return
        if isinstance(found, Nothing):
            self._park(request, found)
        elif poll.take is None:
            self._answer(request, found, None)
        else:
            writes.append(request)

    def _park(self, request: _Request, nothing: Nothing) -> None:
        if request.deadline_ms <= self.clock.monotonic_ms():
            self._answer(request, nothing, None)
            return
        request.due_ms, request.write = nothing.due_ms, None
        self._parked.append(request)
        if self._wake is None or not self._wake.is_listening:
            try:
                self._tend_wake()
            except OSError as error:
                logger.debug("%s: not listening yet: %s", self.storage.name, error)

    def _answer_read(self, request: _Request) -> None:
        assert request.job is not None
        try:
            self._answer(request, self.read_now(request.job), None)
        except BaseException as error:  # the boundary of one read: its caller gets the error
            self._answer_error(request, error)

    def _answer_error(self, request: _Request, error: BaseException) -> None:
        if not isinstance(error, Exception):  # the end of this thread, not of the caller's event loop
            self._answer(request, None, BackendUnavailable(f"{self.storage.name}: its thread has ended: {error!r}"))
            raise error
        self._answer(request, None, error)

    def _answer(self, request: _Request, result: Any, error: BaseException | None) -> None:
        self._answers.setdefault(request.loop, []).append((request.future, result, error))

    def _deliver(self) -> None:
        answers, self._answers = self._answers, {}
        for loop, batch in answers.items():
            self._deliver_to(loop, batch)

    def _deliver_to(self, loop: asyncio.AbstractEventLoop, batch: Sequence[Answer]) -> None:
        try:
            loop.call_soon_threadsafe(_finish_all, batch)
        except RuntimeError:
            logger.debug("%s: %d answers for a closed event loop", self.storage.name, len(batch))

    # What follows may run on any thread.

    def _give_up_all(self, error: BaseException) -> None:
        """Answer all that waits with an error; what is being written may be stored or not."""
        with self._giving_up:
            requests = [*list(self._parked), *list(self._requests), *self._in_hand]
            self._parked, self._in_hand = [], ()
            self._requests.clear()
            for request in requests:
                self._give_up(request, error)
        self._deliver()

    def _give_up(self, request: _Request, error: BaseException) -> None:
        if request.write is not None and request.write.is_begun:
            error = OutcomeUnknown(str(error))
        elif request.write is not None:
            request.write.is_given_up = True
        request.is_given_up = True
        self._deliver_to(request.loop, [(request.future, None, error)])

    # What follows runs on the second thread.

    def _stand_by(self, thread: threading.Thread) -> None:
        while thread.ident is None or thread.is_alive():
            time.sleep(_STAND_IN_S)
            try:
                self._give_up_what_is_late()
                if self._is_waiting and self._mutex.acquire(blocking=False):
                    try:
                        self._stand_in()
                    finally:
                        self._mutex.release()
            except Exception:  # the root of the thread: it goes on
                logger.exception("%s: what waits can't be looked after now", self.storage.name)

    def _stand_in(self) -> None:
        if not self._is_waiting or not self.storage.is_open:
            return
        writes: list[_Request] = []
        self._sort(writes, set(), False)
        self._requests.extendleft(reversed(writes))  # what is to be written waits on
        self._deliver()

    def _give_up_what_is_late(self) -> None:
        """Give up writes that have waited for longer than their callers' patience, and emits that a slow disk holds."""
        now = time.monotonic()
        with self._giving_up:
            late = [
                each
                for each in (*list(self._requests), *self._in_hand, *list(self._parked))
                if self._is_late(each, now)
            ]
            for request in late:
                waited_ms = round((now - request.since_s) * 1000)
                if self._is_waiting:
                    self._give_up(request, self.storage.locked(waited_ms))
                else:
                    name = self.storage.name
                    why = f"{name}: not done within {waited_ms / 1000:.1f} s: this process or its disk is too slow"
                    self._give_up(request, BackendUnavailable(why))

    def _is_late(self, request: _Request, now: float) -> bool:
        if request.future.done() or request.is_given_up or (request.job is not None and self._is_waiting):
            return False
        patience_ms = request.patience_ms
        if patience_ms is None:
            if request.write is not None and request.write.is_begun:
                return False
            patience_ms = BUSY_MS if self._is_waiting else self.limits.emit_timeout_ms
            if request.poll is not None:
                patience_ms += request.poll.timeout_ms
        return now - request.since_s > patience_ms / 1000
