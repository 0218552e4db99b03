"""Shutdown stages of a worker process, moved by signals and deadlines."""

import functools
import math
import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from enum import Enum
from types import FrameType
from typing import Final, NamedTuple

from pspf.concurrency.background import attempt
from pspf.runtime.worker.leaving import MOST_MS

GIVE_UP_MS: Final = 1_000
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_DEFAULTS: Final = (
    (signal.SIGTERM, signal.SIG_DFL),
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
)


def end_quietly_on_signals() -> None:
    """Until there is something to drain, a signal ends the process at once, with exit code 0. Main thread only."""
    for number in _SIGNALS:
        signal.signal(number, lambda number, frame: os._exit(0))


class _Masks(threading.local):
    """What each thread lets through beside a fork."""

    before: frozenset[int] = frozenset()


_masks: Final = _Masks()


@functools.cache  # a second call would save the mask that the first one has set
def _follow_forks() -> None:
    os.register_at_fork(before=_hold_signals, after_in_parent=_let_signals_through, after_in_child=_take_no_signals)


def _hold_signals() -> None:
    """Delay signals until the child of a fork has its own handlers: it would take one as the worker does, and go on."""
    _masks.before = frozenset(signal.pthread_sigmask(signal.SIG_BLOCK, [number for number, _ in _DEFAULTS]))


def _let_signals_through() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before)


def _take_no_signals() -> None:
    """Restore the default signals: a process that a handler forks has nothing to drain, and its parent waits for it."""
    for number, handler in _DEFAULTS:
        signal.signal(number, handler)
    _let_signals_through()


class Stage(Enum):
    """Stage of a worker process."""

    RUNNING = "running"
    DRAINING = "draining"
    GIVING_UP = "giving up"
    ENDED = "ended"


class _Deadline(NamedTuple):
    """A time on the monotonic clock, and the action that is due then."""

    at_s: float
    act: Callable[[], None]


class Stages:
    """How a worker process ends.

        RUNNING --1st signal--> DRAINING --2nd signal--> GIVING_UP --3rd signal--> gone
                                    |                        |
                           (drained: ENDED, exit 0)       (leases given back: exit 130 or 143)
                                    |                        |
                                    +--drain deadline------->+--1 s--> gone, with the same code

    The deadlines are kept by a thread, and what they end they end with `os._exit`: a handler that
    blocks the event loop, swallows its cancellation or left a thread behind can't hold them up.
    `drain` and `give_up` are called from the main thread's signal handler or from that thread;
    they have to be safe there.
    """

    def __init__(self, *, drain_timeout_ms: int, drain: Callable[[], None], give_up: Callable[[], None]) -> None:
        self._drain_timeout_ms = drain_timeout_ms
        self._drain = drain
        self._give_up = give_up
        self._lock = threading.RLock()
        # A SimpleQueue may be put to from a signal handler, whatever the main thread was doing;
        # starting a thread there could wait for a lock that the interrupted code holds.
        self._deadlines: queue.SimpleQueue[_Deadline] = queue.SimpleQueue()
        threading.Thread(target=self._keep_deadlines, name="pspf-deadlines", daemon=True).start()
        self._signals = 0
        self._drain_ends_s = math.inf
        self.stage = Stage.RUNNING
        self.code = 0
        """The exit code, should nothing else decide it."""
        self.signal: int = signal.SIGTERM
        """The first signal that came."""

    def install(self, *, escalates: bool = True) -> None:
        """Take SIGTERM and SIGINT over, for the rest of the process; main thread only.

        Where they do not escalate, each only drains: somebody else says when to give up. Where they do, SIGHUP only
        drains, unless it is ignored.
        """
        for number in _SIGNALS:
            signal.signal(number, self._on_signal if escalates else lambda number, frame: self.begin_drain())
        if escalates and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # no other process sees it
            signal.signal(signal.SIGHUP, lambda number, frame: self.begin_drain())
        _follow_forks()

    def begin_drain(self, *, timeout_ms: int | None = None, late_code: int = 0) -> None:
        """Drain as the first signal does; a shorter `timeout_ms` than the worker's own counts.

        Where that is over, it gives up with `late_code`, or as after SIGTERM.
        """
        with self._lock:
            if self.stage is not Stage.RUNNING:
                return
            self.stage = Stage.DRAINING
            code = late_code or 128 + signal.SIGTERM
            deadline_ms = self._drain_timeout_ms if timeout_ms is None else timeout_ms
            self._drain_ends_s = time.monotonic() + deadline_ms / 1000
            self._after(deadline_ms, lambda: self.begin_give_up(code))
        self._drain()

    def end(self) -> int:
        """Drop all deadlines at the end. Return how many milliseconds were left of the last one."""
        with self._lock:
            if self.stage is Stage.GIVING_UP:  # that is short, and has its code
                return 0
            self.stage = Stage.ENDED
            self._deadlines.put(_Deadline(time.monotonic() + threading.TIMEOUT_MAX / 2, lambda: None))
            left_s = self._drain_ends_s - time.monotonic()
            return MOST_MS if left_s * 1000 > MOST_MS else max(0, round(left_s * 1000))

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # Counted apart from the stage: where a worker drains by itself (the end of a burst),
        # a first signal doesn't make it give up.
        self._signals += 1
        if self.stage is Stage.ENDED:
            os._exit(self.code)
        elif self._signals == 1:
            self.signal = number
            self.begin_drain()
        elif self._signals == 2:
            self.begin_give_up(128 + number)
        else:
            os._exit(128 + number)

    def begin_give_up(self, code: int) -> None:
        """Give up as the second signal does, to end with `code`."""
        with self._lock:
            if self.stage in (Stage.GIVING_UP, Stage.ENDED):
                return
            self.stage = Stage.GIVING_UP
            self.code = code
            self._after(GIVE_UP_MS, lambda: os._exit(code))
        self._give_up()

    def _after(self, delay_ms: int, act: Callable[[], None]) -> None:
        self._deadlines.put(_Deadline(time.monotonic() + delay_ms / 1000, act))

    def _keep_deadlines(self) -> None:
        """Act when a deadline has passed; a later stage's replaces the one before."""
        deadline = self._deadlines.get()
        while True:
            try:
                deadline = self._deadlines.get(timeout=max(0.0, deadline.at_s - time.monotonic()))
            except queue.Empty:
                attempt("what was due at a deadline", deadline.act)
                deadline = self._deadlines.get()
