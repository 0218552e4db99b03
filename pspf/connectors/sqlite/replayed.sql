-- Records that are replayed from their dead letters since they were trimmed from the topic, new in format 4. Run once,
-- in one transaction, when a file is made, and when one of an older format is opened.
-- Caller: pspf/connectors/sqlite/formats.py.

-- What the record was; its row in `retries` says how far the cursor is with it.
CREATE TABLE replayed (
    cursor_id INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    key BLOB,
    value BLOB NOT NULL,
    headers BLOB,
    timestamp_ms INTEGER NOT NULL,
    PRIMARY KEY (cursor_id, offset)
);

-- When a retry is finished, dropped or forgotten, its bytes go with it. INSERT OR REPLACE fires no DELETE trigger
-- (recursive_triggers is off): a record that fails again keeps them.
CREATE TRIGGER replayed_is_done AFTER DELETE ON retries
BEGIN
    DELETE FROM replayed WHERE cursor_id = OLD.cursor_id AND offset = OLD.offset;
END;
