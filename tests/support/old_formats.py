"""Broker files of older formats, made of one of now: its tables as they were then, with what they held."""

from itertools import count
from pathlib import Path
from typing import Final

import apsw

from pspf.connectors.sqlite.formats import FORMAT
from pspf.records import STATE, split_state_key

_STATE: Final = """
CREATE TABLE state (
    cursor_id INTEGER NOT NULL,
    key BLOB NOT NULL,
    name TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (cursor_id, key, name)
) WITHOUT ROWID
"""
_WINDOWS: Final = """
CREATE TABLE windows (
    cursor_id INTEGER NOT NULL,
    slot INTEGER NOT NULL,
    key BLOB NOT NULL,
    state BLOB NOT NULL,
    PRIMARY KEY (cursor_id, slot, key)
) WITHOUT ROWID
"""
_WINDOW_LOG: Final = """
CREATE TABLE window_log (
    number INTEGER PRIMARY KEY,
    cursor_id INTEGER NOT NULL,
    changes BLOB NOT NULL
);
CREATE INDEX window_log_cursor ON window_log (cursor_id, number)
"""


def make_older(path: Path, version: int) -> None:
    """Make a file of format 5, which nobody uses, one of an older format. Its log has no state, its rows may."""
    assert FORMAT == 5
    connection = apsw.Connection(str(path))
    with connection:
        connection.execute(_STATE)
        rows = connection.execute("SELECT cursor_id, key, value FROM entries WHERE namespace = ?", (STATE,)).fetchall()
        for cursor_id, key, value in rows:
            assert isinstance(key, bytes)
            connection.execute("INSERT INTO state VALUES (?, ?, ?, ?)", (cursor_id, *split_state_key(key), value))
        if version >= 2:
            connection.execute(_WINDOWS)
            connection.execute("INSERT INTO windows SELECT * FROM entries WHERE namespace <> ?", (STATE,))
        else:
            connection.execute("DROP TABLE operators")
        if version >= 3:
            connection.execute(_WINDOW_LOG)
            numbers = count(100)
            for row in connection.execute("SELECT cursor_id, changes FROM entry_log ORDER BY number").fetchall():
                connection.execute("INSERT INTO window_log VALUES (?, ?, ?)", (next(numbers), *row))
        if version < 4:
            connection.execute("DROP TRIGGER replayed_is_done; DROP TABLE replayed")
        connection.execute("DROP TABLE entries; DROP TABLE entry_log")
        connection.execute("UPDATE meta SET value = ? WHERE name = 'format'", (version,))
    connection.close()
