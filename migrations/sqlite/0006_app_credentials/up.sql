CREATE TABLE app_credentials (
    platform TEXT NOT NULL,
    app_id TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (platform, app_id)
) STRICT;
