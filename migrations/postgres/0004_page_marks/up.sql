CREATE TABLE page_marks (
    connection_id text COLLATE "C" NOT NULL,
    listing text COLLATE "C" NOT NULL,
    start bigint NOT NULL,
    page_cursor text NOT NULL,
    last_id bigint NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (connection_id, listing, start)
);
CREATE INDEX page_marks_expires_at ON page_marks (expires_at);

ALTER TABLE page_marks ENABLE ROW LEVEL SECURITY;
CREATE POLICY pipekeeper ON page_marks TO CURRENT_USER USING (true) WITH CHECK (true);

-- Supabase serves every table of `public` that these two may read, and grants them a lot by default.
DO $$
DECLARE
    visitor text;
BEGIN
    FOR visitor IN SELECT rolname FROM pg_roles WHERE rolname IN ('anon', 'authenticated') LOOP
        EXECUTE format('REVOKE ALL ON page_marks FROM %I', visitor);
    END LOOP;
END
$$;
