-- The entries of operators. Run once, in one transaction, when a file is made, and when one of format 1 is opened;
-- format 2 to 4 call this table `windows` and have state in a table of its own.
-- Caller: pspf/connectors/sqlite/formats.py.

-- namespace: as pspf/records.py makes it; of windows a window's start, or that of a slice that windows share.
CREATE TABLE entries (
    cursor_id INTEGER NOT NULL,
    namespace INTEGER NOT NULL,
    key BLOB NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (cursor_id, namespace, key)
) WITHOUT ROWID;

-- What an operator remembers beside its entries; progress is opaque here.
CREATE TABLE operators (
    cursor_id INTEGER PRIMARY KEY,
    watermark_ms INTEGER,
    progress BLOB NOT NULL
);
