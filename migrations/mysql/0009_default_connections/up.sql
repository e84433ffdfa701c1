CREATE TABLE default_connections (
    platform VARCHAR(64) NOT NULL,
    app_id VARCHAR(191) NOT NULL,
    account_id VARCHAR(128) NOT NULL,
    connection_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    company_id VARCHAR(128) NOT NULL,
    user_id VARCHAR(128) NOT NULL,
    reason TEXT NOT NULL,
    set_at DATETIME(6) NOT NULL,
    PRIMARY KEY (platform, app_id, account_id),
    KEY default_connections_by_connection (connection_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
