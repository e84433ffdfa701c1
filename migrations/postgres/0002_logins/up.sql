CREATE TABLE logins (
    state_hash text COLLATE "C" PRIMARY KEY,
    platform text COLLATE "C" NOT NULL,
    app_id text COLLATE "C" NOT NULL,
    account_id text COLLATE "C",
    owner text COLLATE "C",
    verifier bytea,
    binding_hash text COLLATE "C" NOT NULL,
    forward_url text,
    expires_at timestamptz NOT NULL,
    consumed_at timestamptz,
    created_at timestamptz NOT NULL
);
CREATE INDEX logins_expires_at ON logins (expires_at);

ALTER TABLE logins ENABLE ROW LEVEL SECURITY;
CREATE POLICY pipekeeper ON logins TO CURRENT_USER USING (true) WITH CHECK (true);

-- Supabase serves every table of `public` that these two may read, and grants them a lot by default.
DO $$
DECLARE
    visitor text;
BEGIN
    FOR visitor IN SELECT rolname FROM pg_roles WHERE rolname IN ('anon', 'authenticated') LOOP
        EXECUTE format('REVOKE ALL ON logins FROM %I', visitor);
    END LOOP;
END
$$;
