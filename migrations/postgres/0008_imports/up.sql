CREATE TABLE imports (
    source_table text COLLATE "C" NOT NULL,
    source_row text COLLATE "C" NOT NULL,
    connection_id text COLLATE "C" NOT NULL,
    token_hash text COLLATE "C" NOT NULL,
    mirrored_generation bigint NOT NULL,
    handed_back_at timestamptz,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (source_table, source_row)
);
CREATE INDEX imports_by_connection ON imports (connection_id);

ALTER TABLE imports ENABLE ROW LEVEL SECURITY;
CREATE POLICY pipekeeper ON imports TO CURRENT_USER USING (true) WITH CHECK (true);

-- Supabase serves every table of `public` that these two may read, and grants them a lot by default.
DO $$
DECLARE
    visitor text;
BEGIN
    FOR visitor IN SELECT rolname FROM pg_roles WHERE rolname IN ('anon', 'authenticated') LOOP
        EXECUTE format('REVOKE ALL ON imports FROM %I', visitor);
    END LOOP;
END
$$;
