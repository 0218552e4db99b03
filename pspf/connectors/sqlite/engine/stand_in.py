"""Second thread of an engine: answers reads while the first one waits for other processes, and ends long waits."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from pspf.connectors.sqlite.polls import Polls
from pspf.connectors.sqlite.requests import EngineRequest, Requests
from pspf.connectors.sqlite.storage import Storage
from pspf.errors import BackendUnavailable
from pspf.loggers import get_logger

logger = get_logger(__name__)

_LOOK_S: Final = 0.25


class StandIn:
    """The second thread, and the mutex by which the first one lets it use the connection.

    first thread   holds the mutex --waiting()--> waits, mutex free --> holds the mutex
    second thread                                 answers reads
    """

    def __init__(self, storage: Storage, requests: Requests, polls: Polls, emit_timeout_ms: Callable[[], int]) -> None:
        self.mutex = threading.Lock()
        """Held by the thread that uses the connection and the state of the engine."""
        self.is_waiting = False
        """Whether the first thread waits for other processes' writes."""
        self._storage = storage
        self._requests = requests
        self._polls = polls
        self._emit_timeout_ms = emit_timeout_ms

    def drop_after_fork(self) -> None:
        """Forget who held the mutex, in a forked child."""
        self.mutex = threading.Lock()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let the second thread stand in during the block; called by the first one."""
        self.is_waiting = True
        self.mutex.release()
        try:
            yield
        finally:
            self.mutex.acquire()
            self.is_waiting = False

    # What follows runs on the second thread.

    def run(self, thread: threading.Thread, is_decided: threading.Event) -> None:
        """Stand by until the first thread has ended; `is_decided` is set once it was started or could not be."""
        is_decided.wait()  # a thread that is not started yet, or never, is not alive
        while thread.is_alive():
            time.sleep(_LOOK_S)
            try:
                self._end_long_waits()
                if self.is_waiting and self.mutex.acquire(blocking=False):
                    try:
                        self._answer_reads()
                    finally:
                        self.mutex.release()
            except Exception:  # the root of the thread: it goes on
                logger.exception("%s: what waits can't be looked after now", self._storage.name)

    def _answer_reads(self) -> None:
        if not self.is_waiting or not self._storage.is_open:
            return
        writes: list[EngineRequest] = []
        self._polls.sort(writes, set(), False)
        self._requests.new.extendleft(reversed(writes))  # what is to be written waits on
        self._requests.deliver()

    def _end_long_waits(self) -> None:
        """Give up writes that have waited for longer than their callers' patience, and emits that a slow disk holds."""
        with self._requests.giving_up:
            is_waiting = self.is_waiting
            late = self._requests.find_late(is_waiting=is_waiting, emit_timeout_ms=self._emit_timeout_ms())
            for request in late:
                waited_ms = round((time.monotonic() - request.since_s) * 1000)
                if is_waiting:
                    self._requests.give_up(request, self._storage.locked(waited_ms))
                else:
                    name = self._storage.name
                    why = f"{name}: not done within {waited_ms / 1000:.1f} s: this process or its disk is too slow"
                    self._requests.give_up(request, BackendUnavailable(why))
