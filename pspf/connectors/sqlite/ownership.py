"""Ownership of files beside a database: who may use the database may use them as well.

SQLite gives its log the database's owner and mode. What PSPF makes beside it follows the same rule: without it the
worker that comes first decides who can work there, such as root in a folder of another user's.
"""

import errno
import os
import pwd
import stat
from contextlib import suppress
from pathlib import Path

from pspf.errors import BackendUnavailable


def make_directory(directory: Path, database: Path) -> None:
    """Make a directory beside `database` where it is missing. OSError: it can't be made."""
    with suppress(FileExistsError):
        directory.mkdir(parents=True)
        follow(directory, database)


def follow(path: Path, database: Path) -> None:
    """Let `path`, which this process has just made, be open to those whom `database` is open to."""
    try:
        model = database.stat()
    except FileNotFoundError:
        return  # the next access reports it
    owner = model.st_uid if os.geteuid() == 0 else -1
    mode = model.st_mode & 0o666
    try:
        os.chown(path, owner, model.st_gid)
    except PermissionError:  # of a group that this user is not in: it would be opened to a wrong one
        mode &= 0o600
    os.chmod(path, mode | (mode & 0o444) >> 2 if path.is_dir() else mode)


def refuse_denied(name: str, database: Path | None) -> None:
    """Raise BackendUnavailable, from a PermissionError, where this process may not write a database that is a file."""
    denied = None if database is None else _find_denied(database)
    if denied is not None:
        raise BackendUnavailable(f"{name}: can't be written: {denied.strerror}") from denied


def _find_denied(database: Path) -> PermissionError | None:
    """Return which file or directory of a database this process may not write, and whose it is; None where it may."""
    for path in (database, Path(f"{database}-wal"), Path(f"{database}-shm"), database.parent):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        except PermissionError as error:
            return error
        if not os.access(path, os.W_OK, effective_ids=True):
            mode = stat.S_IMODE(status.st_mode)
            return PermissionError(
                errno.EACCES,
                f"{path} is of user {_name_of(status.st_uid)}, with mode {mode:03o}, and this process is one of"
                f" {_name_of(os.geteuid())}: change its owner or its mode, or run as its owner",
            )
    return None


def _name_of(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)
