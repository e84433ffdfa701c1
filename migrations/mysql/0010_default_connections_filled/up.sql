-- Each app, and each account, keeps the connection that callers got without this table: the active one; of several
-- installs the one authorized last; of several connections that a login made none; where all have ended, the one
-- authorized last. What an import has not filed yet (`~import`) belongs to no account.
INSERT INTO default_connections (platform, app_id, account_id, connection_id, company_id, user_id, reason, set_at)
SELECT platform, app_id, '', id, company_id, user_id, 'migration', authorized_at
FROM (
    SELECT
        platform,
        app_id,
        id,
        company_id,
        user_id,
        authorized_at,
        ROW_NUMBER() OVER (
            PARTITION BY platform, app_id
            ORDER BY
                CASE state WHEN 'active' THEN 0 ELSE 1 END,
                authorized_at DESC,
                CASE state WHEN 'revoked' THEN 0 ELSE 1 END,
                id DESC
        ) AS nth,
        SUM(CASE state WHEN 'active' THEN 1 ELSE 0 END) OVER (PARTITION BY platform, app_id) AS active_rows,
        SUM(CASE WHEN state = 'active' AND account_id NOT LIKE '~%' THEN 1 ELSE 0 END) OVER (
            PARTITION BY platform, app_id
        ) AS active_logins
    FROM connections
    WHERE account_id <> '~import'
) AS of_app
WHERE nth = 1 AND (active_rows <= 1 OR active_logins = 0)
UNION ALL
SELECT platform, app_id, account_id, id, company_id, user_id, 'migration', authorized_at
FROM (
    SELECT
        platform,
        app_id,
        account_id,
        id,
        company_id,
        user_id,
        authorized_at,
        ROW_NUMBER() OVER (
            PARTITION BY platform, app_id, account_id
            ORDER BY
                CASE state WHEN 'active' THEN 0 ELSE 1 END,
                authorized_at DESC,
                CASE state WHEN 'revoked' THEN 0 ELSE 1 END,
                id DESC
        ) AS nth,
        SUM(CASE state WHEN 'active' THEN 1 ELSE 0 END) OVER (
            PARTITION BY platform, app_id, account_id
        ) AS active_rows
    FROM connections
    WHERE account_id <> '~import'
) AS of_account
WHERE nth = 1 AND (active_rows <= 1 OR account_id LIKE '~%');
