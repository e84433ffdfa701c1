CREATE TABLE default_connections (
    platform TEXT NOT NULL,
    app_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    connection_id TEXT NOT NULL,
    company_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    reason TEXT NOT NULL,
    set_at INTEGER NOT NULL,
    PRIMARY KEY (platform, app_id, account_id)
) STRICT;
CREATE INDEX default_connections_by_connection ON default_connections (connection_id);
