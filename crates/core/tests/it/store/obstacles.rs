//! What keeps a database from being used is told apart, and told without secrets.

use std::error::Error;
use std::iter::successors;

use pipekeeper_core::connection::ConnectionId;
use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::{Backend, Diagnosis, StoreError};
use pipekeeper_testing::{TestDatabase, TestDirectory, open, role_name};
use url::Url;

use super::at;

const PASSWORD: &str = "hunter2";

fn changed(url: &Secret, change: Change) -> Secret {
    let mut url = Url::parse(url.expose()).unwrap();
    change(&mut url);
    Secret::new(url.into())
}

/// What a person reads: all of it.
fn said(error: &StoreError) -> String {
    let first: &(dyn Error + 'static) = error;
    let chain: Vec<_> = successors(Some(first), |&cause| cause.source())
        .map(|cause| format!("{cause} {cause:?}"))
        .collect();
    chain.join("\n")
}

#[track_caller]
fn assert_is(error: &StoreError, diagnosis: Diagnosis) {
    assert_eq!(error.diagnosis(), Some(diagnosis), "{}", said(error));
    assert!(!said(error).contains(PASSWORD), "{}", said(error));
}

type Change = fn(&mut Url);

fn with_password(url: &mut Url) {
    url.set_password(Some(PASSWORD)).unwrap();
}

fn as_a_stranger(url: &mut Url) {
    with_password(url);
    url.set_username("no_such_user").unwrap();
}

fn to_an_unknown_database(url: &mut Url) {
    url.set_path("/nowhere");
}

fn to_a_closed_port(url: &mut Url) {
    with_password(url);
    url.set_port(Some(1)).unwrap();
}

fn to_an_unknown_host(url: &mut Url) {
    with_password(url);
    url.set_host(Some("nowhere.invalid")).unwrap();
}

/// No network has a way to all hosts in the world at once: as far away as any IPv6 address is from a network without IPv6.
fn to_a_host_with_an_ipv6_address_alone(url: &mut Url) {
    with_password(url);
    url.set_host(Some("[ff0e::1]")).unwrap();
}

pub(crate) async fn what_keeps_a_server_from_being_used_is_told(backend: Backend) {
    let database = TestDatabase::create(backend);
    let cases: [(Change, Diagnosis); 6] = [
        (with_password, Diagnosis::Password),
        (as_a_stranger, Diagnosis::Password),
        (to_an_unknown_database, Diagnosis::Database),
        (to_a_closed_port, Diagnosis::Refused),
        (to_an_unknown_host, Diagnosis::HostUnknown),
        (to_a_host_with_an_ipv6_address_alone, Diagnosis::Ipv6Only),
    ];
    for (change, diagnosis) in cases {
        let url = changed(&database.url(), change);
        let error = open(&url).ping().await.unwrap_err();
        // A password that is being changed heals by itself.
        assert!(error.is_unavailable());
        assert_is(&error, diagnosis);
    }
}

pub(crate) async fn a_user_with_too_few_rights_is_told_what_to_do(backend: Backend) {
    let database = TestDatabase::create(backend);
    let user = role_name();
    let run = |statement: &str| database.lines(&statement.replace("$USER", &user)).unwrap();
    let url = database.url_by(&user, PASSWORD);
    if backend == Backend::Postgres {
        run("CREATE ROLE $USER LOGIN PASSWORD 'hunter2' CONNECTION LIMIT 1");
    } else {
        run("GRANT USAGE ON *.* TO $USER IDENTIFIED BY 'hunter2' WITH MAX_USER_CONNECTIONS 1");
        let error = open(&url).ping().await.unwrap_err();
        assert_is(&error, Diagnosis::Database);
        let name = Url::parse(url.expose()).unwrap().path().replace('/', "");
        run(&format!("GRANT SELECT ON {name}.* TO $USER"));
    }

    let store = open(&url);
    store.ping().await.unwrap();
    let error = open(&url).ping().await.unwrap_err();
    assert_is(&error, Diagnosis::TooManyConnections);
    if backend == Backend::Postgres {
        run("ALTER ROLE $USER CONNECTION LIMIT -1");
    } else {
        // 0 would be the server's own limit for those who are connected already.
        run("GRANT USAGE ON *.* TO $USER WITH MAX_USER_CONNECTIONS 9");
    }

    let error = store.migrate().await.unwrap_err();
    assert_is(&error, Diagnosis::Permission);
    database.store().migrate().await.unwrap();
    let refused = match backend {
        Backend::Postgres => store.schema_status().await.map(drop),
        _ => {
            store
                .connection_touch(&ConnectionId::generate(), at(0), at(0))
                .await
        }
    };
    assert_is(&refused.unwrap_err(), Diagnosis::Permission);
    if backend == Backend::Postgres {
        run("DROP ROLE $USER");
    } else {
        run("DROP USER $USER");
    }
}

pub(crate) async fn a_host_that_answers_nothing_is_told_of(backend: Backend) {
    let database = TestDatabase::create(backend);
    let gate = database.gate();
    gate.stall();

    let error = open(&gate.url()).ping().await.unwrap_err();

    assert_eq!(error.diagnosis(), Some(Diagnosis::Silent), "{error:?}");
    assert!(Diagnosis::Silent.may_pass());
    gate.open();
}

#[tokio::test]
async fn what_keeps_a_file_from_being_used_is_told() {
    let directory = TestDirectory::create();
    let inside = |name: &str| format!("{}/{name}", directory.path().display());
    std::fs::write(inside("letter.txt"), "Dear Jane, this is no database.").unwrap();
    for (path, diagnosis) in [
        (inside("letter.txt"), Diagnosis::NotADatabase),
        (inside(""), Diagnosis::NotADatabase),
        (inside("missing/pipekeeper.db"), Diagnosis::NoDirectory),
        (inside("letter.txt/pipekeeper.db"), Diagnosis::NoDirectory),
        // No user can make files there.
        ("/sys/pipekeeper.db".to_owned(), Diagnosis::NotWritable),
    ] {
        let store = open(&Secret::new(format!("sqlite:{path}")));
        for error in [store.ping().await, store.migrate().await.map(drop)] {
            let error = error.expect_err(&path);
            assert_eq!(
                error.diagnosis(),
                Some(diagnosis),
                "{path}: {}",
                said(&error)
            );
        }
    }
}
