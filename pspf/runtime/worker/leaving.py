"""Exit of a process that ran an app: within a limit of time, whatever threads the app has left.

The interpreter waits for every thread that is no daemon, and then for what was registered with atexit. A handler
that leaves a thread behind would keep its process for ever.
"""

import os
import sys
import threading
import time
from dataclasses import dataclass
from typing import Final

from pspf.loggers import get_logger

logger = get_logger(__name__)

MOST_MS: Final = 10_000
LEAST_MS: Final = 2_000
"""Less than what a process is given on top of its time-out, before it is killed."""


@dataclass(slots=True)
class _Process:
    runs_app: bool = False


_process: Final = _Process()


def note_app() -> None:
    """Note that an app runs in this process from now on."""
    _process.runs_app = True


def bound_exit(code: int, *, within_ms: int = MOST_MS) -> None:
    """Let this process end with `code`, at the latest after `within_ms`; nothing where no app ran in it."""
    if _process.runs_app:
        within_s = max(LEAST_MS, min(MOST_MS, within_ms)) / 1000
        try:
            threading.Thread(target=_end, args=(code, within_s), name="pspf-exit", daemon=True).start()
        except RuntimeError as error:  # the system has no thread to give
            logger.warning("pid %d waits for what the app has left behind, if anything: %s", os.getpid(), error)


def _end(code: int, within_s: float) -> None:
    time.sleep(within_s)
    logger.warning(
        "pid %d ends without %s, which the app has left behind: it did not end within %.0f s",
        os.getpid(),
        ", ".join(_left_behind()) or "what is done at exit (atexit)",
        within_s,
    )
    os._exit(code)


def _left_behind() -> list[str]:
    """Return the threads that the interpreter waits for, and where they are."""
    frames = sys._current_frames()
    found = []
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.main_thread():
            frame = frames.get(thread.ident or 0)
            where = "" if frame is None else f" ({os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno})"
            found.append(f"thread {thread.name}{where}")
    return found
