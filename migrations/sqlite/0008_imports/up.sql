CREATE TABLE imports (
    source_table TEXT NOT NULL,
    source_row TEXT NOT NULL,
    connection_id TEXT NOT NULL,
    token_hash TEXT NOT NULL,
    mirrored_generation INTEGER NOT NULL,
    handed_back_at INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (source_table, source_row)
) STRICT;
CREATE INDEX imports_by_connection ON imports (connection_id);
