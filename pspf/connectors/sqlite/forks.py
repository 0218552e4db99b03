"""Forked processes: a child drops its parent's broker as soon as it runs.

A lock taken with flock belongs to the open file, which a forked child shares: were it to keep the
descriptor, the lock would outlive a parent that is killed. SQLite's own locks are worse: they stay with
the parent, while the library's memory in the child says that this process holds them, so that a second
connection to the same file would run without any. A file that was open at the fork is refused there.
"""

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

FileId = tuple[int, int]
"""Device and inode."""


class ForkSensitive(Protocol):
    """Something that holds descriptors or locks."""

    def drop_after_fork(self) -> None:
        """Close the descriptors, release nothing and touch no database: the parent goes on with them."""


_mutex: Final = threading.Lock()
_holders: Final["weakref.WeakSet[ForkSensitive]"] = weakref.WeakSet()
_inherited: Final[set[FileId]] = set()


@contextmanager
def held_off() -> Iterator[None]:
    """Let no fork happen in the block, between opening a descriptor and writing down whose it is."""
    with _mutex:
        yield


def watch(holder: ForkSensitive) -> None:
    """Have `drop_after_fork` called in every child that is forked while `holder` exists."""
    with _mutex:
        _holders.add(holder)


def note_inherited(file: FileId) -> None:
    """Remember, in a child, a database that its parent had open."""
    _inherited.add(file)


def is_inherited(file: FileId) -> bool:
    """Return whether the parent had this database open when this process was forked."""
    return file in _inherited


def _drop() -> None:
    _mutex.release()
    for holder in list(_holders):
        holder.drop_after_fork()


os.register_at_fork(before=_mutex.acquire, after_in_parent=_mutex.release, after_in_child=_drop)
