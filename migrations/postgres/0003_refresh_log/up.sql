CREATE TABLE refresh_log (
    id text COLLATE "C" PRIMARY KEY,
    connection_id text COLLATE "C" NOT NULL,
    started_at timestamptz NOT NULL,
    trigger_kind text NOT NULL,
    outcome text NOT NULL,
    generation_before bigint NOT NULL,
    generation_after bigint,
    duration_ms bigint NOT NULL,
    error text
);
CREATE INDEX refresh_log_started_at ON refresh_log (started_at);
CREATE INDEX refresh_log_by_connection ON refresh_log (connection_id, started_at, id);

ALTER TABLE refresh_log ENABLE ROW LEVEL SECURITY;
CREATE POLICY pipekeeper ON refresh_log TO CURRENT_USER USING (true) WITH CHECK (true);

-- Supabase serves every table of `public` that these two may read, and grants them a lot by default.
DO $$
DECLARE
    visitor text;
BEGIN
    FOR visitor IN SELECT rolname FROM pg_roles WHERE rolname IN ('anon', 'authenticated') LOOP
        EXECUTE format('REVOKE ALL ON refresh_log FROM %I', visitor);
    END LOOP;
END
$$;
