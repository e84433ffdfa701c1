CREATE TABLE refresh_log (
    id TEXT NOT NULL PRIMARY KEY,
    connection_id TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    trigger_kind TEXT NOT NULL,
    outcome TEXT NOT NULL,
    generation_before INTEGER NOT NULL,
    generation_after INTEGER,
    duration_ms INTEGER NOT NULL,
    error TEXT
) STRICT;
CREATE INDEX refresh_log_started_at ON refresh_log (started_at);
CREATE INDEX refresh_log_by_connection ON refresh_log (connection_id, started_at, id);
