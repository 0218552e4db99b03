-- The embedded broker's file. Run once, in one transaction; `format` guards it.
-- Caller: pspf/connectors/sqlite/formats.py. All times are milliseconds since the epoch.

CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value
) WITHOUT ROWID;

-- retention_ms: -1 for ever, 0 as soon as all groups are done; NULL the setting's.
CREATE TABLE topics (
    topic_id INTEGER PRIMARY KEY,
    topic TEXT NOT NULL UNIQUE,
    partitions INTEGER NOT NULL,
    retention_ms INTEGER,
    created_ms INTEGER NOT NULL
);

-- Offsets are never used twice: next_offset only grows. records and size_bytes are what is retained.
CREATE TABLE partitions (
    partition_id INTEGER PRIMARY KEY,
    topic_id INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    first_offset INTEGER NOT NULL DEFAULT 1,
    next_offset INTEGER NOT NULL DEFAULT 1,
    records INTEGER NOT NULL DEFAULT 0,
    size_bytes INTEGER NOT NULL DEFAULT 0,
    UNIQUE (topic_id, partition)
);

-- place = partition_id << 40 | offset: one B-tree, each partition a range of it in offset order.
CREATE TABLE records (
    place INTEGER PRIMARY KEY,
    key BLOB,
    value BLOB NOT NULL,
    headers BLOB,
    timestamp_ms INTEGER NOT NULL
);

-- The event_ids of the de-dup window, as 64-bit hashes in buckets that are dropped whole. They enter
-- bucket 0, which is small, and move to the newest other one together.
CREATE TABLE dedup (
    partition_id INTEGER NOT NULL,
    bucket INTEGER NOT NULL,
    hash INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    PRIMARY KEY (partition_id, bucket, hash)
) WITHOUT ROWID;

CREATE TABLE dedup_buckets (
    partition_id INTEGER NOT NULL,
    bucket INTEGER NOT NULL,
    ids INTEGER NOT NULL,
    hot INTEGER NOT NULL,
    first_ms INTEGER NOT NULL,
    last_ms INTEGER NOT NULL,
    PRIMARY KEY (partition_id, bucket)
) WITHOUT ROWID;

-- When the lowest floor of all groups passed an offset, sampled: retention counts from there.
CREATE TABLE floors (
    partition_id INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    floor INTEGER NOT NULL,
    PRIMARY KEY (partition_id, at_ms)
) WITHOUT ROWID;

-- A session is one worker's membership; its row is gone when it left or was found dead.
CREATE TABLE sessions (
    session TEXT PRIMARY KEY,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    boot_id TEXT NOT NULL,
    started_ms INTEGER NOT NULL,
    renewed_ms INTEGER NOT NULL,
    renewals INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE members (
    session TEXT NOT NULL,
    topic_id INTEGER NOT NULL,
    group_name TEXT NOT NULL,
    handler TEXT NOT NULL,
    PRIMARY KEY (topic_id, group_name, handler, session)
) WITHOUT ROWID;

-- handler '' is the shared cursor. position is the first offset not read (ordered) or not claimed
-- (shared). session, token: the lease's owner, NULL when free; is_clean: 0 its last owner's process ended,
-- 1 it was given back, 2 its owner fell silent (endings.py).
-- intent: JSON of the suspect records that were about to run.
CREATE TABLE cursors (
    cursor_id INTEGER PRIMARY KEY,
    partition_id INTEGER NOT NULL,
    group_name TEXT NOT NULL,
    handler TEXT NOT NULL,
    position INTEGER NOT NULL,
    committed INTEGER,
    sequence INTEGER NOT NULL DEFAULT 0,
    commit_id BLOB,
    epoch INTEGER NOT NULL DEFAULT 0,
    session TEXT,
    token BLOB,
    is_clean INTEGER NOT NULL DEFAULT 1,
    intent TEXT,
    last_commit_ms INTEGER,
    UNIQUE (partition_id, group_name, handler)
);

-- Records that are not done and not in hand. due_ms NULL: held back behind an earlier record of
-- its key (ordered), or in a worker's hands at the moment (shared).
CREATE TABLE retries (
    cursor_id INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    key BLOB,
    attempts INTEGER NOT NULL,
    due_ms INTEGER,
    error TEXT NOT NULL,
    PRIMARY KEY (cursor_id, offset)
) WITHOUT ROWID;

-- What the shared mode has delivered and nobody has finished, as ranges [first, last].
-- claim names one delivery; session NULL: given back, up for anyone.
-- is_suspect: its worker died; is_started: it was about to run, alone, as a suspect.
CREATE TABLE claims (
    cursor_id INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    claim INTEGER NOT NULL,
    session TEXT,
    claimed_ms INTEGER NOT NULL,
    is_suspect INTEGER NOT NULL DEFAULT 0,
    is_started INTEGER NOT NULL DEFAULT 0,
    crashes INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (cursor_id, first)
) WITHOUT ROWID;

CREATE INDEX retries_due ON retries (cursor_id, due_ms);
