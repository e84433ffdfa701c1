CREATE TABLE callbacks (
    id text COLLATE "C" PRIMARY KEY,
    state_hash text COLLATE "C" UNIQUE,
    claimer text COLLATE "C" NOT NULL,
    heartbeats bigint NOT NULL,
    tokens_stored boolean NOT NULL,
    result bytea,
    claimed_at timestamptz NOT NULL,
    finished_at timestamptz
);
CREATE INDEX callbacks_claimed_at ON callbacks (claimed_at);

ALTER TABLE callbacks ENABLE ROW LEVEL SECURITY;
CREATE POLICY pipekeeper ON callbacks TO CURRENT_USER USING (true) WITH CHECK (true);

-- Supabase serves every table of `public` that these two may read, and grants them a lot by default.
DO $$
DECLARE
    visitor text;
BEGIN
    FOR visitor IN SELECT rolname FROM pg_roles WHERE rolname IN ('anon', 'authenticated') LOOP
        EXECUTE format('REVOKE ALL ON callbacks FROM %I', visitor);
    END LOOP;
END
$$;
