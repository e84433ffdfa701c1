//! The role that `migrate --role` makes.

use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::{Backend, Diagnosis, Role, RoleError, Schema};
use pipekeeper_testing::{AS_ROLE, TestDatabase, open, role_name};
use url::Url;

use super::again::promises_hold;
use super::{consent, get, insert};

pub(crate) async fn the_stores_promises_hold_for_a_service_role(backend: Backend) {
    // To migrate is the owner's business, and plans need its rights.
    let left_out = [
        "six_processes",
        "migrations_run",
        "migration_keeps",
        "up_down_up",
        "schema_status",
        "every_hot_query",
    ];
    let module = format!("store::{backend}::");
    let count = promises_hold(backend, (AS_ROLE, "1"), &[&module], &left_out);
    assert!(count >= 40, "{count}");
}

fn role(name: &str, password: &str) -> Role {
    Role::new(name, Some(Secret::from(password))).unwrap()
}

pub(crate) async fn a_service_role_can_do_nothing_else(backend: Backend) {
    let mut database = TestDatabase::migrated(backend).await;
    let more = "CREATE TABLE somebody_elses (id int PRIMARY KEY)";
    database.lines(more).unwrap();
    database.become_role(&role_name(), "secret").await;
    insert(&database.store(), consent("acme", "jane")).await;

    for statement in [
        "CREATE TABLE more (id int PRIMARY KEY)",
        "DROP TABLE logins",
        "ALTER TABLE logins ADD COLUMN more int",
        "TRUNCATE TABLE logins",
        "CREATE INDEX more ON logins (created_at)",
        "SELECT id FROM somebody_elses",
        "INSERT INTO __diesel_schema_migrations (version) VALUES ('9001')",
        "DELETE FROM __diesel_schema_migrations",
        "DELETE FROM connections_overview",
    ] {
        let refused = database.lines_by(&database.url(), statement);
        let error = refused.expect_err(statement);
        let why = ["denied", "must be owner"];
        assert!(why.iter().any(|why| error.contains(why)), "{error}");
    }
    let error = database.store().migrate().await.unwrap_err();
    assert_eq!(error.diagnosis(), Some(Diagnosis::Permission), "{error:?}");

    let overview = "SELECT account_id FROM connections_overview";
    let seen = database.lines_by(&database.url(), overview).unwrap();
    assert_eq!(seen, ["acme"]);
    let status = database.store().schema_status().await.unwrap();
    assert_eq!(status, Schema::Current);
}

/// As if everything had come with migrations after the role was made.
pub(crate) async fn a_role_covers_what_a_later_migration_adds(backend: Backend) {
    let mut database = TestDatabase::migrated(backend).await;
    let (owner, owners_url, name) = (database.store(), database.url(), role_name());
    database.become_role(&name, "first").await;
    database.revert_all();
    owner.migrate().await.unwrap();
    // MySQL remembers rights on tables that are gone.
    if backend == Backend::Postgres {
        let delete = database.lines_by(&database.url(), "DELETE FROM logins");
        assert!(delete.unwrap_err().contains("permission denied"));
    }

    for _again in 0..2 {
        owner.role_grant(&role(&name, "second")).await.unwrap();
    }

    let url = database.url_by(&name, "second");
    let services = open(&url);
    let id = insert(&services, consent("acme", "jane")).await;
    assert_eq!(get(&services, &id).await.id, id);
    let tables = match backend {
        Backend::Postgres => {
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename !~ '^__'"
        }
        _ => {
            "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() \
             AND table_type = 'BASE TABLE' AND table_name NOT LIKE '\\_\\_%'"
        }
    };
    let tables = database.lines_by(&owners_url, tables).unwrap();
    assert!(tables.len() >= 6, "{tables:?}");
    for table in tables {
        let delete = format!("DELETE FROM {table}");
        database.lines_by(&url, &delete).unwrap();
        assert!(has_policy(&database, &name, &table), "{table}");
    }
    let error = database.store().ping().await.unwrap_err();
    assert_eq!(error.diagnosis(), Some(Diagnosis::Password), "{error:?}");
}

/// Without one a role with every right sees no row.
fn has_policy(database: &TestDatabase, role: &str, table: &str) -> bool {
    let query =
        format!("SELECT 1 FROM pg_policies WHERE tablename = '{table}' AND '{role}' = ANY(roles)");
    database.backend() != Backend::Postgres || database.lines(&query).unwrap() == ["1"]
}

pub(crate) async fn a_role_has_whatever_name_and_password_it_was_given(backend: Backend) {
    let mut database = TestDatabase::migrated(backend).await;
    let name = format!(r#"'"` \{}"#, role_name());
    let password = r#"'; DROP TABLE logins; -- \' " %@/?#:é"#;

    database.become_role(&name, password).await;

    let id = insert(&database.store(), consent("acme", "jane")).await;
    assert_eq!(get(&database.store(), &id).await.id, id);
    let wrong = open(&database.url_by(&name, "wrong")).ping().await;
    assert_eq!(wrong.unwrap_err().diagnosis(), Some(Diagnosis::Password));
}

pub(crate) async fn roles_that_are_not_for_services_are_left_alone(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let (own, powerful) = match backend {
        Backend::Postgres => ("postgres", role_name()),
        _ => ("root", role_name()),
    };
    database
        .lines(&match backend {
            Backend::Postgres => format!("CREATE ROLE {powerful} CREATEDB"),
            _ => format!("GRANT SELECT ON *.* TO {powerful}@'%' IDENTIFIED BY 'secret'"),
        })
        .unwrap();

    let mine = store.role_grant(&role(own, "secret")).await;
    let more = store.role_grant(&role(&powerful, "secret")).await;

    assert!(matches!(mine, Err(RoleError::OwnRole(_))), "{mine:?}");
    assert!(matches!(more, Err(RoleError::NotPlain(_))), "{more:?}");
    if backend == Backend::Postgres {
        // What visitors of Supabase come as.
        let visitor = store.role_grant(&role("anon", "secret")).await;
        assert!(matches!(visitor, Err(RoleError::NotPlain(_))));
        database.lines(&format!("DROP ROLE {powerful}")).unwrap();
    } else {
        let group = Role::new(&role_name(), None).unwrap();
        let refused = store.role_grant(&group).await;
        assert!(matches!(refused, Err(RoleError::PasswordNeeded)));
        database.lines(&format!("DROP USER {powerful}")).unwrap();
    }
}

/// Supabase's `postgres`: owns the database, may make roles, is no superuser. The role can be a group that others are in.
pub(super) async fn an_owner_without_all_rights_can_make_the_role() {
    let database = TestDatabase::create(Backend::Postgres);
    let (owner, group, member) = (role_name(), role_name(), role_name());
    let run = |statement: &str| database.lines(statement).unwrap();
    run(&format!(
        "CREATE ROLE {owner} LOGIN CREATEROLE PASSWORD 'secret'"
    ));
    run(&format!("CREATE ROLE {member} LOGIN PASSWORD 'secret'"));
    give_to(&database, &owner);
    let store = open(&database.url_by(&owner, "secret"));
    store.migrate().await.unwrap();

    let without_password = Role::new(&group, None).unwrap();
    for role in [
        &without_password,
        &without_password,
        &role(&group, "log in"),
    ] {
        store.role_grant(role).await.unwrap();
    }

    run(&format!("GRANT {group} TO {member}"));
    for (name, password) in [(&member, "secret"), (&group, "log in")] {
        let services = open(&database.url_by(name, password));
        let id = insert(&services, consent(name, "jane")).await;
        assert_eq!(get(&services, &id).await.id, id);
    }
    run(&format!("DROP OWNED BY {group}, {owner} CASCADE"));
    give_to(&database, "postgres");
    run(&format!("DROP ROLE {group}, {member}, {owner}"));
}

fn give_to(database: &TestDatabase, owner: &str) {
    let url = Url::parse(database.url().expose()).unwrap();
    let name = url.path().trim_start_matches('/');
    let give = format!("ALTER DATABASE {name} OWNER TO {owner}");
    database.lines(&give).unwrap();
}

#[tokio::test]
async fn sqlite_has_no_roles() {
    let database = TestDatabase::migrated(Backend::Sqlite).await;

    let refused = database.store().role_grant(&role("services", "x")).await;

    assert!(matches!(refused, Err(RoleError::NoServer)), "{refused:?}");
}
