//! Behind a transaction pooler, as Supabase has one before every project.

use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::{Backend, Diagnosis};
use pipekeeper_testing::{BY_WAY_OF, Pooler, TestDatabase, open};
use url::Url;

use super::again::promises_hold;
use super::{consent, insert};

/// Plans, limits of milliseconds, and what a server itself says are no matter of the pooler.
const LEFT_OUT: [&str; 6] = [
    "every_hot_query",
    "silent_server",
    "store::postgres_server::a_",
    "store::postgres_server::r",
    "store::postgres_server::the_stores",
    "store::postgres_server::what",
];

pub(super) async fn the_stores_promises_hold_behind_a_pooler_without_named_statements() {
    let pooler = Pooler::start(Some(0));
    let all = ["store::postgres::", "store::postgres_server::"];
    let by_way_of = (BY_WAY_OF, pooler.url());
    let count = promises_hold(Backend::Postgres, by_way_of, &all, &LEFT_OUT);
    assert!(count >= 50, "{count}");
}

/// Those that send a lot at once.
pub(super) async fn the_stores_promises_hold_behind_a_pooler_as_it_comes() {
    let pooler = Pooler::start(None);
    let some = [
        "store::postgres::six_processes",
        "store::postgres::lease_is",
        "store::postgres::login_is",
        "store::postgres::of_several",
        "store::postgres::orphan",
        "store::postgres::pages",
        "store::postgres_server::",
    ];
    let by_way_of = (BY_WAY_OF, pooler.url());
    let count = promises_hold(Backend::Postgres, by_way_of, &some, &LEFT_OUT);
    assert!(count >= 9, "{count}");
    the_users_whole_name_arrives(&pooler).await;
    its_refusals_are_told_apart(&pooler).await;
}

/// Supabase's poolers tell projects apart by what stands behind its dot.
async fn the_users_whole_name_arrives(pooler: &Pooler) {
    let database = TestDatabase::create(Backend::Postgres);
    let store = open(&pooler.url_of(&database));

    store.migrate().await.unwrap();

    insert(&store, consent("acme", "jane")).await;
    let owners = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(database.lines(owners).unwrap(), [Pooler::USER]);
}

/// In words of its own.
async fn its_refusals_are_told_apart(pooler: &Pooler) {
    let database = TestDatabase::create(Backend::Postgres);
    let url = Url::parse(pooler.url_of(&database).expose()).unwrap();
    let (mut wrong_password, mut unknown_user, mut unknown_database) =
        (url.clone(), url.clone(), url);
    wrong_password.set_password(Some("hunter2")).unwrap();
    unknown_user.set_username("stranger").unwrap();
    unknown_database.set_path("/nowhere");

    for (url, diagnosis) in [
        (wrong_password, Diagnosis::Password),
        (unknown_user, Diagnosis::Password),
        (unknown_database, Diagnosis::Database),
    ] {
        let refused = open(&Secret::new(url.into())).ping().await;
        let error = refused.unwrap_err();
        assert_eq!(error.diagnosis(), Some(diagnosis), "{error:?}");
        assert!(error.is_unavailable(), "{error:?}");
    }
}
