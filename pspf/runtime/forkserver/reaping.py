"""Reaping of child processes."""

import os
from collections.abc import Iterator


def ended_children() -> Iterator[int]:
    """Yield each child that has ended and is to be `collect`ed before the next one."""
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None:
            return
        yield ended.si_pid


def collect(pid: int) -> int:
    """Take a child that has ended out of the system's list; return how it ended, a signal as a negative number."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
