CREATE TABLE imports (
    source_table VARCHAR(191) NOT NULL,
    source_row VARCHAR(191) NOT NULL,
    connection_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    token_hash VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    mirrored_generation BIGINT NOT NULL,
    handed_back_at DATETIME(6) NULL,
    created_at DATETIME(6) NOT NULL,
    updated_at DATETIME(6) NOT NULL,
    PRIMARY KEY (source_table, source_row),
    KEY imports_by_connection (connection_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
