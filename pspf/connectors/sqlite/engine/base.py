"""The engine's interface: runs jobs on the database, in a thread (threaded.py) or in place (inline.py).

A job is a function of `Storage`. Reads run at once; all writes that wait at a moment share one
transaction, each in a savepoint, so that one that fails is undone alone. A poll is a job that
looks, and is parked until its partition grows, its next record is due or its time is up.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import apsw

from pspf import faults
from pspf.clock import Clock
from pspf.connectors.contract.limits import Limits
from pspf.connectors.sqlite.storage import Storage, translate
from pspf.errors import BackendGone, BackendUnavailable
from pspf.loggers import get_logger

logger = get_logger(__name__)

T = TypeVar("T")
Job = Callable[[Storage], T]

TICK_MS: Final = 500
"""How often is looked for what nobody tells: other processes' commits, what became of the file."""
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
    """A write in a transaction with others: `result` or `error` is set when it is done.

    It is begun, or its caller has given it up before: one excludes the other.
    """

    job: Job[Any]
    is_durable: bool
    is_begun: bool = False
    is_given_up: bool = False
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
        self._failing: set[Chore] = set()

    @abstractmethod
    async def open(self) -> None: ...

    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    async def read(self, job: Job[T]) -> T: ...

    @abstractmethod
    async def write(self, job: Job[T], *, durable: bool = True, patience_ms: int | None = None) -> T:
        """Run a job in a transaction.

        It waits for other processes for `patience_ms` at most, by default for a few seconds. With one, the
        answer comes by then, whatever the disk does.

        Raises:
            BackendUnavailable: Nothing was written.
            OutcomeUnknown: It was written or not.
        """

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
        self.grown = set()
        self.after_commit = []
        try:
            self._begin(durable=any(write.is_durable for write in writes))
            writes = self._choose(writes)
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

    def _begin(self, *, durable: bool) -> None:
        """Begin a transaction, once others let it."""
        self.storage.begin(durable=durable)

    def _choose(self, writes: Sequence[Write]) -> Sequence[Write]:
        """Return the writes that nobody has given up while they waited, and have them begun."""
        return writes

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
                self._run_chore(chore)
        return max(0, min(self._chores.values(), default=now_ms + TICK_MS) - now_ms)

    def _run_chore(self, chore: Chore) -> None:
        try:
            chore.run(self)
        except BackendGone:
            raise  # nothing else works either
        except Exception as error:  # the root of what nobody waits for: the other chores go on
            is_expected = isinstance(error, BackendUnavailable | OSError)
            if chore not in self._failing:
                self._failing.add(chore)
                name = f"{self.storage.name}: {type(chore).__name__.lower()}"
                logger.warning("%s failed, will be tried again: %s", name, error, exc_info=not is_expected)
        else:
            self._failing.discard(chore)


def finish(future: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
    """Give a future its result or its error, unless it has one or nobody waits any more."""
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
