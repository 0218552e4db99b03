"""File descriptors of a process: reads take one each and leave enough for leases and commits.

Reads are not shared by cursors: a read that waits for many streams has to be called back and sent again whenever one
of them is to be read again, or no more.
"""

import os
import resource
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pspf.errors import BackendUnavailable

LEFT: Final = 24
"""What reads leave to others: leases, commits, what handlers open."""
_LISTS: Final = (Path("/proc/self/fd"), Path("/dev/fd"))
_OVERHEAD: Final = 2
"""A connection that is replaced is closed a moment after the new one was opened, and looking takes one."""


class NoRoom(BackendUnavailable):
    """A process may open no more, or should not: the rest is left to what matters more than one more read."""


def count_open() -> int:
    """Return how many descriptors this process has."""
    for path in _LISTS:
        if path.is_dir():
            return len(os.listdir(path)) - 1
    return 0


def read_limit() -> int:
    """Return how many it may have at once."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 30 if soft == resource.RLIM_INFINITY else soft


def refuse_crowding(name: str) -> None:
    """Return where there is room for one more connection that reads.

    Raises:
        NoRoom: No descriptor is left.
    """
    limit = read_limit()
    count = count_open()
    if count + LEFT > limit:
        raise NoRoom(
            f"{name}: no descriptor is left for a connection to read on: {count} of the {limit} that the process may"
            f" open are open, and {LEFT} are left to leases, commits and handlers; raise the hard limit (ulimit -n,"
            " LimitNOFILE=)"
        )


def describe_need(cursors: Iterable[int], is_open: int) -> str | None:
    """Return, where a process that reads so many cursors of each handler is short of descriptors, what it can't read.

    `is_open` is how many descriptors it has without any of these.
    """
    needed, limit = sum(cursors), read_limit()
    room = max(0, limit - LEFT - _OVERHEAD - is_open)
    if needed <= room:
        return None
    return (
        f"{needed - room} of the {needed} partitions that its handlers may have here are not read: each takes a"
        f" connection, and of the {limit} descriptors that the process may open {room} are left for them; raise the"
        f" hard limit (ulimit -n, LimitNOFILE=) to {is_open + LEFT + _OVERHEAD + needed} or more"
    )
