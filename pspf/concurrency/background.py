"""Background threads: an error in one is logged, and the thread goes on.

    keep_running(what, work)     the root of a thread: `work` is run again after a wait, until it returns
    attempt(what, act)           one step of a thread that goes on whatever the step meets
    await run_in_thread(work, name)  one call in a thread of its own; the caller gets its result or its error

A thread that can't be started is waited for: `start_patiently`.
"""

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

from pspf.backoff import Backoff, Sparing
from pspf.loggers import get_logger

logger = get_logger(__name__)

T = TypeVar("T")

_START_AGAIN_MS: Final = (50, 1_000)
_starts: Final = Sparing()
"""All that wants a thread shares one line: no thread can be started anywhere then."""


def _never() -> bool:
    return False


def keep_running(
    what: str,
    work: Callable[[], object],
    *,
    rest: Callable[[float], object] = time.sleep,
    is_over: Callable[[], bool] = _never,
    max_wait_ms: int = 5_000,
) -> None:
    """Run `work` until it returns or it `is_over`; where it raises, say so, `rest` some seconds and run it again.

    For the root of a thread: nothing ends it, SystemExit neither, which ends other threads without a word.
    """
    backoff, sparing = Backoff(max_ms=max_wait_ms), Sparing()
    while not is_over():
        try:
            work()
            return
        except BaseException as error:  # the root of a thread
            if is_over():
                return
            _say(what, error, "it starts again", sparing)
            rest(backoff.next_ms() / 1000)


def attempt(what: str, act: Callable[[], object], sparing: Sparing | None = None) -> BaseException | None:
    """Do `act`; what it raises is logged, as often as `sparing` lets it, and returned."""
    try:
        act()
    except BaseException as error:  # a step of a thread that has more to do
        _say(what, error, "this goes on", sparing)
        return error
    return None


def _say(what: str, error: BaseException, outlook: str, sparing: Sparing | None) -> None:
    if sparing is None or sparing.may_say():
        trace = None if isinstance(error, OSError) else error  # the system's failures need no place in the code
        logger.error("%s failed, %s: %s", what, outlook, f"{type(error).__name__}: {error}", exc_info=trace)


def start_thread(work: Callable[[], object], name: str) -> bool:
    """Run `work` in a thread of its own, in this context, that doesn't keep the interpreter alive.

    Where the system has no thread for it, say so and return False.
    """
    context = contextvars.copy_context()
    try:
        threading.Thread(target=context.run, args=(work,), name=name, daemon=True).start()
    except RuntimeError as error:
        if _starts.may_say():
            logger.warning(
                "%s: %s; tried again until there is one (the limits of threads are ulimit -u, pids.max and memory)",
                name,
                error,
            )
        return False
    return True


async def start_patiently(work: Callable[[], object], name: str, is_over: Callable[[], bool] = _never) -> bool:
    """Start a thread as `start_thread` does, and try again while there is none; False where it `is_over` before."""
    backoff = Backoff(*_START_AGAIN_MS)
    while not start_thread(work, name):
        await asyncio.sleep(backoff.next_ms() / 1000)
        if is_over():
            return False
    return True


class ThreadResult(asyncio.Future[T]):
    """What comes of a call in another thread."""

    def run(self, work: Callable[[], T]) -> None:
        """Do the call, in that thread."""
        result: T | None = None
        failure: BaseException | None = None
        try:
            result = work()
        except BaseException as error:  # the root of a thread: its caller gets the error
            failure = error
        with suppress(RuntimeError):  # the loop is closed: no caller waits
            self.get_loop().call_soon_threadsafe(self._settle, result, failure)

    def _settle(self, result: T | None, failure: BaseException | None) -> None:
        if self.done():
            return
        if failure is None:
            self.set_result(result)  # type: ignore[arg-type]  # without an error it is a result
        elif isinstance(failure, StopIteration | GeneratorExit):  # a future, or a coroutine on its way, can't hold one
            error = RuntimeError(f"the call raised {failure!r}")
            error.__cause__ = failure
            self.set_exception(error)
        else:
            self.set_exception(failure)


async def run_in_thread(work: Callable[[], T], name: str, is_over: Callable[[], bool] = _never) -> T | None:
    """Return what `work` returns in a thread of its own, or raise what it raises.

    Waits for a thread to be had; None where it `is_over` before.
    """
    outcome: ThreadResult[T] = ThreadResult()
    if not await start_patiently(lambda: outcome.run(work), name, is_over):
        return None
    return await outcome
