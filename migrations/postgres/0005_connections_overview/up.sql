-- For people with a SQL client; a reader needs the rights, and passes the policies, of the table itself.
CREATE VIEW connections_overview WITH (security_invoker = true) AS
SELECT
    id,
    platform,
    app_id,
    account_id,
    owner,
    company_id,
    company_domain,
    company_name,
    user_id,
    user_name,
    api_domain,
    scope,
    expires_at,
    refreshed_at,
    authorized_at,
    idle_deadline,
    last_used_at,
    generation,
    state,
    state_reason,
    state_since,
    in_doubt,
    due_at,
    early_renewals,
    failures,
    retry_at,
    last_error,
    revoke_pending,
    created_at,
    updated_at
FROM connections;

-- Supabase serves every table of `public` that these two may read, and grants them a lot by default.
DO $$
DECLARE
    visitor text;
BEGIN
    FOR visitor IN SELECT rolname FROM pg_roles WHERE rolname IN ('anon', 'authenticated') LOOP
        EXECUTE format('REVOKE ALL ON connections_overview FROM %I', visitor);
    END LOOP;
END
$$;
