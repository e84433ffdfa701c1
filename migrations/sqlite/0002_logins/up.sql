CREATE TABLE logins (
    state_hash TEXT NOT NULL PRIMARY KEY,
    platform TEXT NOT NULL,
    app_id TEXT NOT NULL,
    account_id TEXT,
    owner TEXT,
    verifier BLOB,
    binding_hash TEXT NOT NULL,
    forward_url TEXT,
    expires_at INTEGER NOT NULL,
    consumed_at INTEGER,
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX logins_expires_at ON logins (expires_at);
