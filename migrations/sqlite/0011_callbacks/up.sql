CREATE TABLE callbacks (
    id TEXT NOT NULL PRIMARY KEY,
    state_hash TEXT UNIQUE,
    claimer TEXT NOT NULL,
    heartbeats INTEGER NOT NULL,
    tokens_stored INTEGER NOT NULL,
    result BLOB,
    claimed_at INTEGER NOT NULL,
    finished_at INTEGER
) STRICT;
CREATE INDEX callbacks_claimed_at ON callbacks (claimed_at);
