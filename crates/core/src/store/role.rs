//! A role of the database server that can do what the services need, and nothing else.

use std::fmt;

use diesel::prelude::*;
use diesel::sql_types::{Bool, Text};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection as _};
use mysql_async::Opts;
use postgres_protocol::password::scram_sha_256;

use super::migrate::{lock_postgres, sql};
use super::pool::{self, Pools};
use super::postgres::tls::Settings;
use super::{Store, StoreError};
use crate::secret::Secret;

/// What the services read and write.
const WRITTEN: [&str; 8] = [
    "connections",
    "logins",
    "refresh_log",
    "page_marks",
    "app_credentials",
    "imports",
    "default_connections",
    "callbacks",
];

/// What they read, or people with their role do.
const READ: [&str; 2] = [MIGRATIONS, "connections_overview"];

const MIGRATIONS: &str = "__diesel_schema_migrations";

/// Supabase's roles for its REST interface.
const VISITORS: [&str; 4] = ["anon", "authenticated", "authenticator", "service_role"];

/// `MySQL` takes no longer names.
const NAME_LIMIT: usize = 32;

/// A role to be, with or without a way to log in.
#[derive(Debug)]
pub struct Role {
    name: String,
    password: Option<Secret>,
}

/// Why a role can't be made.
#[derive(Debug, thiserror::Error)]
pub enum RoleError {
    #[error("SQLite knows no roles: who may write the file may do everything with it")]
    NoServer,
    #[error("the name of a role has 1 to {NAME_LIMIT} bytes, none of them a control character")]
    Name,
    #[error("the role's password is empty, or has control characters or a byte order mark")]
    Password,
    #[error("MySQL makes no role without a password")]
    PasswordNeeded,
    #[error("{0} is the role that migrates: it needs more rights than the services")]
    OwnRole(String),
    #[error(
        "{0} is a role that others use, or that can do more: the services need one of their own"
    )]
    NotPlain(String),
    #[error("the database did not take the role")]
    Store {
        #[from]
        source: StoreError,
    },
}

impl Role {
    /// # Errors
    /// A name or a password that not every server takes.
    pub fn new(name: &str, password: Option<Secret>) -> Result<Self, RoleError> {
        if name.is_empty() || name.len() > NAME_LIMIT || name.contains(char::is_control) {
            return Err(RoleError::Name);
        }
        if password.as_ref().is_some_and(|password| {
            let is_foreign = |c: char| c.is_control() || c == '\u{feff}';
            password.expose().is_empty() || password.expose().contains(is_foreign)
        }) {
            return Err(RoleError::Password);
        }
        Ok(Self {
            name: name.to_owned(),
            password,
        })
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[derive(QueryableByName)]
struct Known {
    #[diesel(sql_type = Bool)]
    own: bool,
    #[diesel(sql_type = Bool)]
    exists: bool,
    #[diesel(sql_type = Bool)]
    powerful: bool,
}

impl Known {
    /// Only a role that can do nothing else is given to the services.
    fn is_plain(&self, role: &Role) -> Result<(), RoleError> {
        if self.own {
            Err(RoleError::OwnRole(role.name.clone()))
        } else if self.powerful {
            Err(RoleError::NotPlain(role.name.clone()))
        } else {
            Ok(())
        }
    }
}

#[derive(QueryableByName)]
struct Line {
    #[diesel(sql_type = Text)]
    line: String,
}

impl Store {
    /// Makes the role if there is none yet, sets its password if one is given, and lets it read and write the tables of the
    /// schema as it is. Done again it adds what is missing.
    pub async fn role_grant(&self, role: &Role) -> Result<(), RoleError> {
        match &self.pools {
            Pools::Postgres(_, settings) => grant_on_postgres(settings, role).await,
            Pools::Mysql(_, opts) => grant_on_mysql(opts, role).await,
            Pools::Sqlite(..) => Err(RoleError::NoServer),
        }
    }
}

/// The owner's policies let no other role see a row: the role gets one of its own on each table.
async fn grant_on_postgres(settings: &Settings, role: &Role) -> Result<(), RoleError> {
    let _lock = lock_postgres(settings).await?;
    let mut connection = pool::connect_postgres(settings)
        .await
        .map_err(StoreError::from)?;
    let known: Known = sql("SELECT current_user = $1 AS own, COUNT(*) > 0 AS exists, \
             COALESCE(bool_or(rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication), false) AS powerful \
         FROM pg_roles WHERE rolname = $1")
    .bind::<Text, _>(&role.name)
    .get_result(&mut connection)
    .await
    .map_err(StoreError::from)?;
    known.is_plain(role)?;
    if VISITORS.contains(&role.name.as_str()) {
        return Err(RoleError::NotPlain(role.name.clone()));
    }
    let homes: Vec<Line> =
        sql("SELECT current_schema()::text AS line UNION ALL SELECT current_database()::text")
            .load(&mut connection)
            .await
            .map_err(StoreError::from)?;
    let [schema, database] = homes.as_slice() else {
        return Err(StoreError::Query {
            source: diesel::result::Error::NotFound,
        }
        .into());
    };
    let covered: Vec<Line> = sql("SELECT tablename::text AS line FROM pg_policies \
         WHERE schemaname = current_schema() AND $1 = ANY(roles::text[])")
    .bind::<Text, _>(&role.name)
    .load(&mut connection)
    .await
    .map_err(StoreError::from)?;

    let name = identifier(&role.name);
    let policy = identifier(&format!("pipekeeper:{}", role.name));
    let mut statements = Vec::new();
    if !known.exists {
        statements.push(format!("CREATE ROLE {name} NOLOGIN"));
    }
    if let Some(password) = &role.password {
        // Its verifier alone goes to the server, and into the server's log.
        let verifier = literal(&scram_sha_256(password.expose().as_bytes()));
        statements.push(format!("ALTER ROLE {name} LOGIN PASSWORD {verifier}"));
    }
    statements.extend([
        format!(
            "GRANT CONNECT ON DATABASE {} TO {name}",
            identifier(&database.line)
        ),
        format!(
            "GRANT USAGE ON SCHEMA {} TO {name}",
            identifier(&schema.line)
        ),
        format!(
            "GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO {name}",
            WRITTEN.join(", ")
        ),
        format!("GRANT SELECT ON {} TO {name}", READ.join(", ")),
    ]);
    let is_covered = |table: &str| covered.iter().any(|line| line.line == table);
    for table in WRITTEN.into_iter().filter(|table| !is_covered(table)) {
        statements.push(format!(
            "CREATE POLICY {policy} ON {table} TO {name} USING (true) WITH CHECK (true)"
        ));
    }
    // The other one that is read is a view, which passes the policies of its table.
    if !is_covered(MIGRATIONS) {
        statements.push(format!(
            "CREATE POLICY {policy} ON {MIGRATIONS} FOR SELECT TO {name} USING (true)"
        ));
    }
    // One message is one transaction.
    let granted = connection.batch_execute(&statements.join("; ")).await;
    Ok(granted.map_err(StoreError::from)?)
}

async fn grant_on_mysql(opts: &Opts, role: &Role) -> Result<(), RoleError> {
    let Some(password) = &role.password else {
        return Err(RoleError::PasswordNeeded);
    };
    let mut connection = pool::connect_mysql(opts).await.map_err(StoreError::from)?;
    let known: Known = sql(
        "SELECT SUBSTRING_INDEX(CURRENT_USER(), '@', 1) = ? AS own, 1 = 1 AS `exists`, \
             COUNT(*) > 0 AS powerful FROM information_schema.user_privileges \
         WHERE grantee = CONCAT('''', ?, '''@''%''') AND privilege_type <> 'USAGE'",
    )
    .bind::<Text, _>(&role.name)
    .bind::<Text, _>(&role.name)
    .get_result(&mut connection)
    .await
    .map_err(StoreError::from)?;
    known.is_plain(role)?;
    let name = format!("{}@'%'", literal(&role.name));
    let password = literal(password.expose());
    let mut statements = vec![
        // A backslash is itself then, and a quote the only character to take care of.
        "SET SESSION sql_mode = 'NO_BACKSLASH_ESCAPES'".to_owned(),
        format!("CREATE USER IF NOT EXISTS {name} IDENTIFIED BY {password}"),
        format!("ALTER USER {name} IDENTIFIED BY {password}"),
    ];
    statements.extend(
        WRITTEN.map(|table| format!("GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {name}")),
    );
    statements.extend(READ.map(|relation| format!("GRANT SELECT ON {relation} TO {name}")));
    for statement in statements {
        let granted = connection.batch_execute(&statement).await;
        granted.map_err(StoreError::from)?;
    }
    Ok(())
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_within_its_quotes() {
        assert_eq!(
            identifier(r#"a"; DROP TABLE x; --"#),
            r#""a""; DROP TABLE x; --""#
        );
        assert_eq!(literal(r"a'; \' --"), r"'a''; \'' --'");
    }

    #[test]
    fn names_and_passwords_that_some_server_refuses_are_refused() {
        let role = |name: &str, password: Option<&str>| Role::new(name, password.map(Secret::from));
        assert!(role("pipekeeper \"one\"", Some("p'\\")).is_ok());
        for name in ["", "a\0b", "line\nline", &"n".repeat(33)] {
            assert!(matches!(role(name, None), Err(RoleError::Name)), "{name}");
        }
        for password in ["", "a\nb", "\u{feff}a"] {
            let made = role("services", Some(password));
            assert!(matches!(made, Err(RoleError::Password)), "{password}");
        }
    }
}
