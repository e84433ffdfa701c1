CREATE TABLE app_credentials (
    platform text COLLATE "C" NOT NULL,
    app_id text COLLATE "C" NOT NULL,
    fingerprint text COLLATE "C" NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (platform, app_id)
);

ALTER TABLE app_credentials ENABLE ROW LEVEL SECURITY;
CREATE POLICY pipekeeper ON app_credentials TO CURRENT_USER USING (true) WITH CHECK (true);

-- Supabase serves every table of `public` that these two may read, and grants them a lot by default.
DO $$
DECLARE
    visitor text;
BEGIN
    FOR visitor IN SELECT rolname FROM pg_roles WHERE rolname IN ('anon', 'authenticated') LOOP
        EXECUTE format('REVOKE ALL ON app_credentials FROM %I', visitor);
    END LOOP;
END
$$;
