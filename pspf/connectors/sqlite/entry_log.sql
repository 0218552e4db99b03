-- What commits did to the entries of a cursor, on top of the rows in `entries`. Run once, in one transaction, when a
-- file is made, and when one of an older format is opened. Caller: pspf/connectors/sqlite/formats.py.

-- number: the cursor's sequence after the commit, so that it grows for ever. changes: as entry_log.py has them.
CREATE TABLE entry_log (
    cursor_id INTEGER NOT NULL,
    number INTEGER NOT NULL,
    changes BLOB NOT NULL
);

CREATE UNIQUE INDEX entry_log_cursor ON entry_log (cursor_id, number);
