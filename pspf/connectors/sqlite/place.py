"""Identity of a database's files: a check that the path still leads to the files that were opened."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from pspf.connectors.sqlite.forks import FileId
from pspf.errors import BackendGone

_SUFFIXES: Final = ("", "-wal", "-shm")


def find_id(path: str | Path) -> FileId | None:
    """Return what tells a file from any other of this host; None where there is none of that name."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


def check_file(name: str, path: str | Path, known: FileId) -> None:
    """Raise BackendGone where the file at `path` is not the one that is known; a microsecond or two."""
    found = find_id(path)
    if found != known:
        what = "deleted or moved away" if found is None else "replaced"
        raise BackendGone(
            f"{name}: {path} was {what} while in use; what is written now would be lost\n"
            "  put the file back (with its -wal) while nothing uses it, then start again"
        )


@dataclass(frozen=True, slots=True)
class DatabaseFiles:
    """The files of a database as they were when it was opened. Writes to files that replaced them are lost."""

    files: tuple[tuple[str, FileId | None], ...]

    @classmethod
    def of(cls, database: Path) -> Self:
        """Return the place of a database that is open, in WAL mode."""
        paths = [f"{database}{suffix}" for suffix in _SUFFIXES]
        return cls(tuple((path, find_id(path)) for path in paths))

    @property
    def database(self) -> FileId | None:
        """The database's own file."""
        return self.files[0][1]

    def check(self, name: str) -> None:
        """Raise BackendGone where a file was deleted, moved or replaced; a few microseconds."""
        for path, known in self.files:
            if known is not None:
                check_file(name, path, known)
