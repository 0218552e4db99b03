"""Holders of a lock: the process that keeps others waiting, as far as the system tells."""

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_WRITER: Final = 120
_READERS: Final = range(123, 128)
"""Bytes of the `-shm` file that stand for locks (sqlite.org/walformat.html, 2.3.1): the writer's and the readers'."""
_WORDS: Final = 3
"""How many characters of a command line are shown: the rest may be data."""
_MAX_COMMAND: Final = 80
_LOCK: Final = re.compile(r"(FLOCK|POSIX|OFDLCK)\s+\S+\s+(READ|WRITE)\s+(-?\d+)\s+\S+?:(\d+)\s+(\d+)\s+(\d+|EOF)")


@dataclass(frozen=True, slots=True)
class LockHolder:
    """A process that holds a lock: since when (wall clock, None where unknown), and as what it was started."""

    pid: int
    command: str = ""
    since_ms: int | None = None

    def __str__(self) -> str:
        since = ""
        if self.since_ms is not None:
            at = time.strftime("%H:%M:%S", time.localtime(self.since_ms / 1000))
            since = f" since {at} ({max(0, time.time_ns() // 1_000_000 - self.since_ms) / 1000:.0f} s)"
        command = f" ({self.command})" if self.command else ""
        state = {"T": ", which is stopped", "t": ", which a debugger has stopped", "": ", which has ended"}
        return f"pid {self.pid}{command}{state.get(_state_of(self.pid), '')}{since}"


def find_flock_holder(path: Path) -> int | None:
    """Return the pid of the process that took the flock of a file; None where the system does not tell."""
    return next((pid for kind, _, pid, _ in _locks_of(path) if kind == "FLOCK"), None)


def find_writer(database: Path) -> int | None:
    """Return the pid of the process that is in a write transaction; None where there is none or it is unknown."""
    return next((pid for _, how, pid, at in _locks_of(_shm(database)) if how == "WRITE" and at == _WRITER), None)


def find_readers(database: Path) -> list[int]:
    """Return the pids of the processes that are in a read transaction."""
    return sorted({pid for _, how, pid, at in _locks_of(_shm(database)) if how == "READ" and at in _READERS})


def command_of(pid: int) -> str:
    """Return the first words of the command that a process was started with, or the name that it gave itself."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return ""
    if name.startswith("pspf "):  # a worker process, which is named after what it consumes
        return name
    first, *rest = [os.path.basename(words[0]), *filter(None, words[1:])]
    if rest and first.startswith("python") and not rest[0].startswith("-"):
        first, rest = os.path.basename(rest[0]), rest[1:]
    if rest[:1] == ["-c"]:
        rest = rest[:1]
    return " ".join(" ".join([first, *rest[: _WORDS - 1]]).split())[:_MAX_COMMAND]


def _shm(database: Path) -> Path:
    return Path(f"{database}-shm")


def _locks_of(path: Path) -> list[tuple[str, str, int, int]]:
    """Return kind, READ or WRITE, pid and first byte of the locks that are held on a file."""
    try:
        inode = os.stat(path).st_ino
        text = Path("/proc/locks").read_text(encoding="ascii", errors="replace")
    except OSError:
        return []
    found = []
    for line in text.splitlines():
        match = _LOCK.search(line)
        if match is not None and "->" not in line and int(match[4]) == inode and int(match[3]) > 0:
            found.append((match[1], match[2], int(match[3]), int(match[5])))
    return found


def _state_of(pid: int) -> str:
    """Return the letter of a process's state; empty where there is none, `?` where the system does not tell."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    except OSError:
        return "" if Path("/proc/self/stat").exists() else "?"
