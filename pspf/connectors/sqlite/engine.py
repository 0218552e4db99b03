"""Runs jobs on the database, in one thread per process (a file) or in place (memory).

A job is a function of `Storage`. Reads run at once; all writes that wait at a moment share one
transaction, each in a savepoint, so that one that fails is undone alone. A poll is a job that
looks, and is parked until its partition grows, its next record is due or its time is up.
"""

import asyncio
import contextlib
import logging
import os
import selectors
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import apsw

from pspf import faults
from pspf.clock import Clock
from pspf.connectors.base import Limits
from pspf.connectors.sqlite.storage import Storage, translate
from pspf.connectors.sqlite.wake import Wake
from pspf.errors import BackendCorrupt, BackendUnavailable, PSPFError

logger = logging.getLogger(__name__)

T = TypeVar("T")
Job = Callable[[Storage], T]

_TICK_MS: Final = 500
ANY_PARTITION: Final = 0
"""For a poll that any append may concern."""
MEMBERS: Final = -1
"""Stands among `grown` for: a member of some group came, left or gave a cursor back."""


class OutcomeUnknown(BackendUnavailable):
    """The database failed at the commit itself; it may have taken effect or not."""


@dataclass(frozen=True, slots=True)
class Nothing:
    """What a look found: nothing, and when (wall clock) there may be something without an append."""

    due_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Poll:
    """A look that may be parked. `take` turns what was found into a write; without it, it is the result.

    While `is_eager` says so, a poll whose partition has grown takes without looking first.
    """

    partition_id: int
    look: Callable[[Storage], Any]
    take: Callable[[Storage], Any] | None
    timeout_ms: int
    is_eager: Callable[[], bool] = bool


class Chore(Protocol):
    """Something that is to be done from time to time, on the engine's thread."""

    every_ms: int

    def run(self, engine: "Engine") -> None: ...


@dataclass(slots=True)
class Write:
    """A write in a transaction with others: `result` or `error` is set when it is done."""

    job: Job[Any]
    is_durable: bool
    result: Any = None
    error: BaseException | None = None


class Engine(ABC):
    """What brokers call. `grown` collects the partitions that a transaction appended to."""

    def __init__(self, storage: Storage, clock: Clock, limits: Limits) -> None:
        self.storage = storage
        self.clock = clock
        self.limits = limits
        self.grown: set[int] = set()
        self.after_commit: list[Callable[[], None]] = []
        """What the jobs of a transaction are to remember, once it is committed: called then, on the engine's thread."""
        self._chores: dict[Chore, int] = {}

    @abstractmethod
    async def open(self) -> None: ...

    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    async def read(self, job: Job[T]) -> T: ...

    @abstractmethod
    async def write(self, job: Job[T], *, durable: bool = True) -> T: ...

    @abstractmethod
    async def poll(self, poll: Poll) -> Any: ...

    @abstractmethod
    def look_again(self) -> None:
        """Let every parked poll look, whatever partition it waits for."""

    def add_chore(self, chore: Chore) -> None:
        self._chores[chore] = self.clock.monotonic_ms() + chore.every_ms

    def remove_chore(self, chore: Chore) -> None:
        self._chores.pop(chore, None)

    # What follows runs on the engine's thread.

    def read_now(self, job: Job[T]) -> T:
        try:
            return job(self.storage)
        except apsw.Error as error:
            raise translate(error, self.storage.name) from error

    def write_now(self, job: Job[T], *, durable: bool = False) -> T:
        write = Write(job, durable)
        self.transact([write])
        if write.error is not None:
            raise write.error
        result: T = write.result
        return result

    def transact(self, writes: Sequence[Write]) -> None:
        """Run writes in one transaction; each gets its result or its error, none raises here."""
        try:
            with self.storage.queued():
                self._transact_in_turn(writes)
        except OSError as error:  # the queue's file itself
            self._fail(writes, error)

    def _transact_in_turn(self, writes: Sequence[Write]) -> None:
        self.grown = set()
        self.after_commit = []
        try:
            self.storage.begin(durable=any(write.is_durable for write in writes))
            if len(writes) == 1:
                writes[0].result = writes[0].job(self.storage)  # alone: no savepoint, which copies each page
            else:
                for write in writes:
                    self._run_in_savepoint(write)
            faults.reach("commit.sent")
            self._commit()
            faults.reach("commit.reply")
        except Exception as error:  # the boundary of a transaction: each caller gets the error
            self.storage.rollback()
            self._fail(writes, error)
        else:
            for remember in self.after_commit:
                remember()
            self.storage.checkpoint_if_due()

    def _fail(self, writes: Sequence[Write], error: Exception) -> None:
        self.grown = set()
        for write in writes:
            write.error = write.error or self._as_pspf(error)

    def _commit(self) -> None:
        try:
            self.storage.commit()
        except (apsw.IOError, apsw.InterruptError) as error:
            raise OutcomeUnknown(f"{self.storage.name}: {error}") from error

    def _as_pspf(self, error: BaseException) -> BaseException:
        if isinstance(error, apsw.Error):
            return translate(error, self.storage.name)
        if isinstance(error, OSError):
            return BackendUnavailable(f"{self.storage.name}: {error}")
        return error

    def _run_in_savepoint(self, write: Write) -> None:
        grown = self.grown
        self.grown = set()
        remembered = len(self.after_commit)
        self.storage.run("SAVEPOINT one")
        try:
            write.result = write.job(self.storage)
        except (apsw.FullError, apsw.IOError, apsw.CorruptError, apsw.BusyError):
            raise  # these undo the transaction as a whole
        except Exception as error:  # the boundary of one write: its caller gets the error, the others go on
            self.storage.run("ROLLBACK TO one")
            write.error = self._as_pspf(error)
            self.grown = set()
            del self.after_commit[remembered:]
        self.storage.run("RELEASE one")
        self.grown |= grown

    def run_chores(self) -> int:
        """Run the chores that are due; return the milliseconds until the next one."""
        now_ms = self.clock.monotonic_ms()
        for chore, due_ms in list(self._chores.items()):
            if due_ms <= now_ms and chore in self._chores:
                self._chores[chore] = now_ms + chore.every_ms
                try:
                    chore.run(self)
                except BackendUnavailable as error:
                    logger.warning("%s", error)
        return max(0, min(self._chores.values(), default=now_ms + _TICK_MS) - now_ms)


class InlineEngine(Engine):
    """Runs jobs in place, for a database in memory."""

    def __init__(self, storage: Storage, clock: Clock, limits: Limits) -> None:
        super().__init__(storage, clock, limits)
        self._mutex = threading.RLock()
        """Held by who uses the connection: tasks of several event loops may, each in a thread of its own."""
        self._waiters: set[asyncio.Future[None]] = set()

    async def open(self) -> None:
        if not self.storage.is_open:
            self.storage.open()

    async def close(self) -> None:
        self._wake()  # the database lives as long as the broker object

    def look_again(self) -> None:
        self._wake()

    async def read(self, job: Job[T]) -> T:
        with self._mutex:
            self.run_chores()
            return self.read_now(job)

    async def write(self, job: Job[T], *, durable: bool = True) -> T:
        with self._mutex:
            self.run_chores()
            result = self.write_now(job, durable=durable)
            if self.grown:
                self._wake()
            return result

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                with contextlib.suppress(RuntimeError):  # its event loop is closed, and nobody waits any more
                    waiter.get_loop().call_soon_threadsafe(_finish, waiter, None, None)

    async def poll(self, poll: Poll) -> Any:
        deadline_ms = self.clock.monotonic_ms() + poll.timeout_ms
        while True:
            with self._mutex:
                self.run_chores()
                found = self.read_now(poll.look)
                if not isinstance(found, Nothing) and poll.take is not None:
                    found = self.write_now(poll.take)
                    if self.grown:
                        self._wake()
                left_ms = deadline_ms - self.clock.monotonic_ms()
                if not isinstance(found, Nothing) or left_ms <= 0:
                    return found
                if found.due_ms is not None:
                    left_ms = min(left_ms, max(1, found.due_ms - self.clock.now_ms()))
                waiter = asyncio.get_running_loop().create_future()
                self._waiters.add(waiter)
            try:
                async with asyncio.timeout(min(left_ms, _TICK_MS) / 1000):  # wait_for may drop a cancellation
                    await waiter
            except TimeoutError:
                continue
            finally:
                self._waiters.discard(waiter)


@dataclass(slots=True, eq=False)
class _Request:
    """What a task asked for, and where its answer goes."""

    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Any]"
    write: Write | None = None
    job: Job[Any] | None = None
    poll: Poll | None = None
    deadline_ms: int = 0
    due_ms: int | None = None


def _finish(future: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


def _finish_all(answers: Iterable[tuple["asyncio.Future[Any]", Any, BaseException | None]]) -> None:
    for future, result, error in answers:
        _finish(future, result, error)


class ThreadEngine(Engine):
    """Runs jobs in one thread, the only user of the connection."""

    def __init__(self, storage: Storage, clock: Clock, limits: Limits) -> None:
        super().__init__(storage, clock, limits)
        self._requests: deque[_Request] = deque()
        self._parked: list[_Request] = []
        self._answers: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any, BaseException | None]]] = {}
        self._thread: threading.Thread | None = None
        self._ending: threading.Thread | None = None
        """The thread that was told to end last; it may still have the connection."""
        self._is_closing = False
        self._wake: Wake | None = None
        self._bell_read = self._bell_write = -1
        self._data_version = 0
        self._broken: PSPFError | None = None
        self._is_changed = False

    async def open(self) -> None:
        while self._ending is not None and self._ending.is_alive():
            await asyncio.get_running_loop().run_in_executor(None, self._ending.join)
        if self._thread is not None:
            return
        self._is_closing = False
        self._bell_read, self._bell_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._thread = threading.Thread(target=self._serve, name="pspf-sqlite", daemon=True)
        self._thread.start()
        try:
            await self.read(lambda storage: storage.open())
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        if self._thread is None:
            return
        thread, self._thread = self._thread, None
        self._ending = thread
        bell = self._bell_read, self._bell_write  # by the end of the thread there may be another one's
        self._is_closing = True
        self._ring()
        await asyncio.get_running_loop().run_in_executor(None, thread.join)
        for end in bell:
            os.close(end)

    def look_again(self) -> None:
        self._is_changed = True

    async def read(self, job: Job[T]) -> T:
        request = self._request()
        request.job = job
        result: T = await self._submit(request)
        return result

    async def write(self, job: Job[T], *, durable: bool = True) -> T:
        request = self._request()
        request.write = Write(job, durable)
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
            raise BackendUnavailable(f"{self.storage.name}: not connected")
        self._requests.append(request)
        self._ring()
        return await request.future

    def _ring(self) -> None:
        try:
            os.write(self._bell_write, b"!")
        except BlockingIOError:
            return  # it has rung often enough

    # What follows runs on the thread.

    def _serve(self) -> None:
        wake = self._wake = None if self.storage.path is None else Wake(self.storage.path)
        with selectors.DefaultSelector() as selector:
            selector.register(self._bell_read, selectors.EVENT_READ)
            is_listening = False
            next_tick_ms = 0
            while not self._is_closing:
                if wake is not None and self._parked and not is_listening:
                    wake.listen()
                    selector.register(wake.fileno(), selectors.EVENT_READ)
                    is_listening = True
                selector.select(self._idle_ms(next_tick_ms) / 1000)
                self._drain_bell()
                grown, is_any = wake.read() if wake is not None and is_listening else (set(), False)
                now_ms = self.clock.monotonic_ms()
                if now_ms >= next_tick_ms:
                    next_tick_ms = now_ms + _TICK_MS
                    is_any = self._tick() or is_any
                self._work(grown, is_any)
                self._deliver()
            self._fail_all(BackendUnavailable(f"{self.storage.name}: closed"))
            self._deliver()
        if wake is not None:
            wake.close()
        self.storage.close()

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
        if not self.storage.is_open:
            return False
        try:
            self.storage.check_in_place()
            self.run_chores()
            version = self.storage.data_version()
        except BackendCorrupt as error:
            self._broken = error  # every later call fails too: what we write would go to a file that nobody reads
            return False
        except PSPFError as error:
            self._fail_all(error)
            return False
        except apsw.Error as error:
            self._fail_all(translate(error, self.storage.name))
            return False
        is_changed = self._is_changed or version != self._data_version
        self._data_version, self._is_changed = version, False
        return is_changed

    def _work(self, grown: set[int], is_any: bool) -> None:
        if self._broken is not None:
            self._fail_all(self._broken)
        writes: list[_Request] = []
        self._look_at_parked(writes, grown, is_any)
        while self._requests:
            request = self._requests.popleft()
            if request.poll is not None:
                self._look(request, writes)
            elif request.write is not None:
                writes.append(request)
            else:
                self._answer_read(request)
        while writes:
            batch, writes = writes, []
            self._run_writes(batch)
            if self.grown:
                grown = self.grown
                if self._wake is not None:
                    self._wake.notify(grown)
                self._look_at_parked(writes, grown, False)

    def _run_writes(self, requests: list[_Request]) -> None:
        for request in requests:
            if request.poll is not None and request.poll.take is not None:
                request.write = Write(request.poll.take, is_durable=False)
        self.transact([request.write for request in requests if request.write is not None])
        for request in requests:
            write = request.write
            assert write is not None
            if isinstance(write.result, Nothing) and request.poll is not None and write.error is None:
                self._park(request, write.result)
            else:
                self._answer(request, write.result, write.error)

    def _look_at_parked(self, writes: list[_Request], grown: set[int], is_any: bool) -> None:
        if not self._parked:
            return
        now_ms, wall_ms = self.clock.monotonic_ms(), self.clock.now_ms()
        parked, self._parked = self._parked, []
        for request in parked:
            assert request.poll is not None
            is_due = request.due_ms is not None and request.due_ms <= wall_ms
            if request.future.done():
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
        if request.future.done():
            return
        try:
            found = self.read_now(poll.look)
        except Exception as error:  # the boundary of one read: its caller gets the error
            self._answer(request, None, error)
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
        else:
            request.due_ms = nothing.due_ms
            self._parked.append(request)

    def _answer_read(self, request: _Request) -> None:
        assert request.job is not None
        try:
            self._answer(request, self.read_now(request.job), None)
        except Exception as error:  # the boundary of one read: its caller gets the error
            self._answer(request, None, error)

    def _answer(self, request: _Request, result: Any, error: BaseException | None) -> None:
        self._answers.setdefault(request.loop, []).append((request.future, result, error))

    def _deliver(self) -> None:
        answers, self._answers = self._answers, {}
        for loop, batch in answers.items():
            try:
                loop.call_soon_threadsafe(_finish_all, batch)
            except RuntimeError:
                logger.debug("%s: %d answers for a closed event loop", self.storage.name, len(batch))

    def _fail_all(self, error: Exception) -> None:
        requests = [*self._parked, *self._requests]
        self._parked.clear()
        self._requests.clear()
        for request in requests:
            self._answer(request, None, error)
