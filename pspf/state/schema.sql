-- The tables of a SQLite state store. Read by pspf.state.sqlite when the file is new; no keys, no reply.
-- entry: one row a slot. kind: 'state' or 'checkpoint'. value: JSON, or bytes after a zero byte.
-- expires_ms: wall clock, NULL = never.
CREATE TABLE IF NOT EXISTS entry (
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    expires_ms INTEGER,
    PRIMARY KEY (kind, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS entry_expiry ON entry (expires_ms) WHERE expires_ms IS NOT NULL;
