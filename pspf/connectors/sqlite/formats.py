"""The format of the database: its tables, made where it is new, brought up to date where they are older.

    1  no windows                 4  replayed records (replayed.sql)
    2  windows (entries.sql)      5  state and windows are entries (move_state.sql)
    3  their log (entry_log.sql)

All of it is one transaction of the caller: done as a whole, or done again.
"""

from importlib.resources import files
from typing import Any, Final

import apsw

from pspf.errors import BackendCorrupt
from pspf.loggers import get_logger
from pspf.records import STATE, state_key

logger = get_logger(__name__)

FORMAT: Final = 5
"""Written into each file; a file of a newer format is refused, one of an older is brought up to date."""

_OURS: Final = {"meta", "topics", "records", "cursors"}


def look_whose(connection: apsw.Connection, name: str) -> bool:
    """Return whether the database has all tables of now; nothing is written.

    Raises:
        BackendCorrupt: It is another program's, or of a newer format.
    """
    try:
        tables = {table for (table,) in connection.execute("SELECT name FROM sqlite_schema")}
        if tables and not tables >= _OURS:
            raise BackendCorrupt(f"{name}: a database of another program; give PSPF a file of its own")
        found = read_format(connection) if tables else 0
        if found is None or found > FORMAT:
            version = "unknown" if found is None else found
            raise BackendCorrupt(f"{name}: format {version}, this version reads {FORMAT}; use a newer PSPF")
    except (apsw.Error, BackendCorrupt):
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)  # it is left as it is
        raise
    return found == FORMAT


def read_format(connection: apsw.Connection) -> int | None:
    """Return the format that the database says it has, None where it says none."""
    for (value,) in connection.execute("SELECT value FROM meta WHERE name = 'format'").fetchall():
        return value if isinstance(value, int) else None
    return None


def make(connection: apsw.Connection, name: str) -> None:
    """Make the tables, or bring them up to date; the caller holds a write transaction."""
    if not connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall():
        for script in ("schema.sql", "entries.sql", "entry_log.sql", "replayed.sql"):
            _run(connection, script)
        connection.execute("INSERT INTO meta VALUES ('format', ?)", (FORMAT,)).fetchall()
        return
    version = read_format(connection)
    if version is not None and version < FORMAT:
        logger.info("%s: format %d becomes %d", name, version, FORMAT)
        _update(connection, version)
        connection.execute("UPDATE meta SET value = ? WHERE name = 'format'", (FORMAT,)).fetchall()


def _update(connection: apsw.Connection, version: int) -> None:
    _run(connection, "entries.sql" if version < 2 else "rename_windows.sql")
    _run(connection, "entry_log.sql")
    if version >= 3:
        _run(connection, "move_window_log.sql")
    if version < 4:
        _run(connection, "replayed.sql")
    connection.create_scalar_function("state_key", _state_key, 2, deterministic=True)
    connection.create_scalar_function("state_namespace", _state_namespace, 0, deterministic=True)
    _run(connection, "move_state.sql")
    connection.create_scalar_function("state_key", None, 2)
    connection.create_scalar_function("state_namespace", None, 0)


def _state_key(*arguments: Any) -> bytes:
    return state_key(*arguments)


def _state_namespace(*_: Any) -> int:
    return STATE


def _run(connection: apsw.Connection, script: str) -> None:
    text = files("pspf.connectors.sqlite").joinpath(script).read_text(encoding="utf-8")
    connection.execute(text).fetchall()
