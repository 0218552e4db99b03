-- What commits did to the windows of a cursor, on top of the rows in `windows`; new in format 3. Run once, in one
-- transaction, when a file is made, and when one of an older format is opened. Caller: pspf/connectors/sqlite/storage.py.

-- changes: as pspf/connectors/sqlite/entry_log.py has it, in the order of number.
CREATE TABLE window_log (
    number INTEGER PRIMARY KEY,
    cursor_id INTEGER NOT NULL,
    changes BLOB NOT NULL
);

CREATE INDEX window_log_cursor ON window_log (cursor_id, number);
