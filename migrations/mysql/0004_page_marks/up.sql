CREATE TABLE page_marks (
    connection_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    listing VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    start BIGINT NOT NULL,
    page_cursor TEXT NOT NULL,
    last_id BIGINT NOT NULL,
    expires_at DATETIME(6) NOT NULL,
    PRIMARY KEY (connection_id, listing, start),
    KEY page_marks_expires_at (expires_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
