CREATE TABLE connections (
    id text COLLATE "C" PRIMARY KEY,
    platform text COLLATE "C" NOT NULL,
    app_id text COLLATE "C" NOT NULL,
    account_id text COLLATE "C" NOT NULL,
    owner text COLLATE "C" NOT NULL,
    company_id text COLLATE "C" NOT NULL,
    company_domain text NOT NULL,
    company_name text NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    user_name text NOT NULL,
    api_domain text NOT NULL,
    scope text NOT NULL,
    access_token bytea NOT NULL,
    refresh_token bytea NOT NULL,
    expires_at timestamptz NOT NULL,
    refreshed_at timestamptz,
    authorized_at timestamptz NOT NULL,
    idle_deadline timestamptz,
    last_used_at timestamptz,
    generation bigint NOT NULL,
    state text COLLATE "C" NOT NULL,
    state_reason text,
    state_since timestamptz NOT NULL,
    in_doubt boolean NOT NULL,
    lease_owner text COLLATE "C",
    due_at timestamptz NOT NULL,
    early_renewals integer NOT NULL,
    failures integer NOT NULL,
    retry_at timestamptz,
    last_error text,
    revoke_pending boolean NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT connections_keeper UNIQUE (platform, app_id, account_id, owner),
    CONSTRAINT connections_grant UNIQUE (platform, app_id, company_id, user_id)
);
CREATE INDEX connections_due ON connections (state, due_at, id);
CREATE INDEX connections_by_account ON connections (platform, app_id, state, account_id, authorized_at, id);
CREATE INDEX connections_by_consent ON connections (platform, app_id, state, authorized_at, id);

ALTER TABLE connections ENABLE ROW LEVEL SECURITY;
CREATE POLICY pipekeeper ON connections TO CURRENT_USER USING (true) WITH CHECK (true);

ALTER TABLE __diesel_schema_migrations ENABLE ROW LEVEL SECURITY;
CREATE POLICY pipekeeper ON __diesel_schema_migrations TO CURRENT_USER USING (true) WITH CHECK (true);

-- Supabase serves every table of `public` that these two may read, and grants them a lot by default.
DO $$
DECLARE
    visitor text;
BEGIN
    FOR visitor IN SELECT rolname FROM pg_roles WHERE rolname IN ('anon', 'authenticated') LOOP
        EXECUTE format('REVOKE ALL ON connections, __diesel_schema_migrations FROM %I', visitor);
    END LOOP;
END
$$;
