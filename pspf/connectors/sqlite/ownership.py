"""Ownership of what lies beside a database: who may use the database may use that as well.

SQLite gives its log the database's owner and mode. What PSPF makes beside it follows the same rule: without it the
worker that comes first decides who can work there, such as root in a folder of another user's.
"""

import os
from contextlib import suppress
from pathlib import Path


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
        return  # whoever looks next tells of it
    owner = model.st_uid if os.geteuid() == 0 else -1
    mode = model.st_mode & 0o666
    try:
        os.chown(path, owner, model.st_gid)
    except PermissionError:  # of a group that this user is not in: it would be opened to a wrong one
        mode &= 0o600
    os.chmod(path, mode | (mode & 0o444) >> 2 if path.is_dir() else mode)
