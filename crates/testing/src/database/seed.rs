//! Rows by the million, made by the database itself.

use std::ops::Range;

use super::TestDatabase;
use pipekeeper_core::clock::Timestamp;
use pipekeeper_core::connection::AppKey;
use pipekeeper_core::store::Backend;

const DAY: i64 = 86_400;

/// Of one statement: what a server's default memory has room for.
const STEP: u32 = 100_000;

const DIGITS: &str = "SELECT 0 AS d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 \
    UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9";

const COLUMNS: &str = "id, platform, app_id, account_id, owner, company_id, company_domain, company_name, user_id, \
    user_name, api_domain, scope, access_token, refresh_token, expires_at, refreshed_at, authorized_at, idle_deadline, \
    last_used_at, generation, state, state_reason, state_since, in_doubt, lease_owner, due_at, early_renewals, failures, \
    retry_at, last_error, revoke_pending, created_at, updated_at";

impl TestDatabase {
    /// Fills `connections` with rows of one app; the tokens open nothing.
    ///
    /// Row `n` of the range is account `account-<n>` of `jane`, company `company-<n>`, user `11`. Of a hundred rows 2 are
    /// `reauth_required` (since some time in the last month), 8 `revoked`, 2 of them pending, and 90 active: due within the
    /// next two days or, 1 of 300, overdue; dying of disuse within 60 days.
    pub fn seed(&self, rows: Range<u32>, app: &AppKey, now: Timestamp) {
        for first in rows.clone().step_by(STEP.try_into().expect("it fits")) {
            let step = first..rows.end.min(first + STEP);
            self.lines(&insertion(self.backend, step, app, now))
                .expect("the database makes rows");
        }
    }

    /// Has the planner look at what is there.
    pub fn analyze(&self) {
        let analyze: &[&str] = match self.backend {
            Backend::Sqlite => &["ANALYZE"],
            // What a server does by itself after a while; a count over an index alone needs it.
            Backend::Postgres => &[
                "VACUUM ANALYZE connections",
                "VACUUM ANALYZE default_connections",
                "VACUUM ANALYZE refresh_log",
            ],
            Backend::Mysql => &["ANALYZE TABLE connections, default_connections, refresh_log"],
        };
        for analyze in analyze {
            self.lines(analyze).expect("statistics");
        }
    }
}

fn insertion(backend: Backend, rows: Range<u32>, app: &AppKey, now: Timestamp) -> String {
    let Range { start, end } = rows;
    let AppKey { platform, app_id } = app;
    // Multiplied by a prime, so that no column has the order of another.
    let later = |first: i64, span: i64| {
        instant_of(
            backend,
            now,
            &format!("{first} + (n % 100000) * 7919 % {span}"),
        )
    };
    let (expires_at, due_at) = (later(-3600, 2 * DAY), later(-576, 2 * DAY));
    let (refreshed_at, authorized_at) = (later(-30 * DAY, 30 * DAY), later(-400 * DAY, 300 * DAY));
    let (idle_deadline, state_since) = (later(0, 60 * DAY), later(-30 * DAY, 30 * DAY));
    let (long_ago, is_now) = (
        instant_of(backend, now, &(-400 * DAY).to_string()),
        instant_of(backend, now, "0"),
    );
    let never = instant_of(backend, Timestamp::far_future(), "0");
    let token = match backend {
        Backend::Sqlite => "zeroblob(300)",
        Backend::Postgres => "decode(repeat('00', 300), 'hex')",
        Backend::Mysql => "repeat(char(0), 300)",
    };
    format!(
        "INSERT INTO connections ({COLUMNS}) \
         WITH digits AS ({DIGITS}), numbers AS (\
             SELECT a.d + 10 * b.d + 100 * c.d + 1000 * d.d + 10000 * e.d + {start} AS n \
             FROM digits a, digits b, digits c, digits d, digits e) \
         SELECT concat('00000000-0000-7000-8000-', 100000000000 + n), '{platform}', '{app_id}', \
             concat('account-', n), 'jane', concat('company-', n), 'acme', 'Acme', '11', 'Jane', \
             'https://acme.pipedrive.com', 'base deals:full', {token}, {token}, {expires_at}, {refreshed_at}, \
             {authorized_at}, {idle_deadline}, {refreshed_at}, 1, \
             CASE WHEN n % 50 = 0 THEN 'reauth_required' WHEN n % 50 < 5 THEN 'revoked' ELSE 'active' END, \
             CASE WHEN n % 50 = 0 THEN 'rejected' WHEN n % 50 < 5 THEN 'disconnected' ELSE NULL END, \
             {state_since}, false, NULL, \
             CASE WHEN n % 50 IN (0, 2, 3, 4) THEN {never} WHEN n % 50 = 1 THEN {is_now} ELSE {due_at} END, \
             0, 0, NULL, NULL, n % 50 = 1, {long_ago}, {is_now} \
         FROM numbers WHERE n < {end}"
    )
}

/// An instant, and so many seconds: an expression of the database's own.
fn instant_of(backend: Backend, from: Timestamp, secs: &str) -> String {
    let naive = from.datetime().naive_utc();
    match backend {
        Backend::Sqlite => format!("({} + 1000000 * ({secs}))", from.unix_micros()),
        Backend::Postgres => format!("(timestamptz '{naive}+00' + ({secs}) * interval '1 second')"),
        Backend::Mysql => format!("timestampadd(SECOND, {secs}, timestamp '{naive}')"),
    }
}
