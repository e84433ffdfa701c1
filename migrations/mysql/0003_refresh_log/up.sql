CREATE TABLE refresh_log (
    id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    connection_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    started_at DATETIME(6) NOT NULL,
    trigger_kind TEXT NOT NULL,
    outcome TEXT NOT NULL,
    generation_before BIGINT NOT NULL,
    generation_after BIGINT NULL,
    duration_ms BIGINT NOT NULL,
    error TEXT NULL,
    KEY refresh_log_started_at (started_at),
    KEY refresh_log_by_connection (connection_id, started_at, id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
