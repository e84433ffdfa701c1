CREATE TABLE callbacks (
    id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    state_hash VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NULL,
    claimer VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    heartbeats BIGINT NOT NULL,
    tokens_stored BOOLEAN NOT NULL,
    result MEDIUMBLOB NULL,
    claimed_at DATETIME(6) NOT NULL,
    finished_at DATETIME(6) NULL,
    UNIQUE KEY callbacks_state_hash (state_hash),
    KEY callbacks_claimed_at (claimed_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
