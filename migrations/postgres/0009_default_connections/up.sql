CREATE TABLE default_connections (
    platform text COLLATE "C" NOT NULL,
    app_id text COLLATE "C" NOT NULL,
    account_id text COLLATE "C" NOT NULL,
    connection_id text COLLATE "C" NOT NULL,
    company_id text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    reason text NOT NULL,
    set_at timestamptz NOT NULL,
    PRIMARY KEY (platform, app_id, account_id)
);
CREATE INDEX default_connections_by_connection ON default_connections (connection_id);

ALTER TABLE default_connections ENABLE ROW LEVEL SECURITY;
CREATE POLICY pipekeeper ON default_connections TO CURRENT_USER USING (true) WITH CHECK (true);

-- Supabase serves every table of `public` that these two may read, and grants them a lot by default.
DO $$
DECLARE
    visitor text;
BEGIN
    FOR visitor IN SELECT rolname FROM pg_roles WHERE rolname IN ('anon', 'authenticated') LOOP
        EXECUTE format('REVOKE ALL ON default_connections FROM %I', visitor);
    END LOOP;
END
$$;
