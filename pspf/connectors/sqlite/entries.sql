-- The states of windowed handlers, new in format 2. Run once, in one transaction, when a file is made, and
-- when one of format 1 is opened. Caller: pspf/connectors/sqlite/storage.py.

-- slot: a window's start, or that of a slice that windows share; 0 where sessions are kept by key alone.
CREATE TABLE windows (
    cursor_id INTEGER NOT NULL,
    slot INTEGER NOT NULL,
    key BLOB NOT NULL,
    state BLOB NOT NULL,
    PRIMARY KEY (cursor_id, slot, key)
) WITHOUT ROWID;

-- What a windowed handler remembers beside its states; progress is opaque here.
CREATE TABLE operators (
    cursor_id INTEGER PRIMARY KEY,
    watermark_ms INTEGER,
    progress BLOB NOT NULL
);
