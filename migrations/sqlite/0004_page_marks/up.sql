CREATE TABLE page_marks (
    connection_id TEXT NOT NULL,
    listing TEXT NOT NULL,
    start INTEGER NOT NULL,
    page_cursor TEXT NOT NULL,
    last_id INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (connection_id, listing, start)
) STRICT;
CREATE INDEX page_marks_expires_at ON page_marks (expires_at);
