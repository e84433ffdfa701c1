CREATE TABLE logins (
    state_hash VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    platform VARCHAR(64) NOT NULL,
    app_id VARCHAR(191) NOT NULL,
    account_id VARCHAR(128) NULL,
    owner VARCHAR(128) NULL,
    verifier BLOB NULL,
    binding_hash VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    forward_url TEXT NULL,
    expires_at DATETIME(6) NOT NULL,
    consumed_at DATETIME(6) NULL,
    created_at DATETIME(6) NOT NULL,
    KEY logins_expires_at (expires_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
