use std::sync::atomic::{AtomicUsize, Ordering};

use pipekeeper_core::clock::Clock;
use pipekeeper_core::config::{Loader, Sources};
use pipekeeper_core::connection::AppKey;
use pipekeeper_core::crypto::Keyring;
use pipekeeper_core::granted::Consent;
use pipekeeper_core::http_client::{self, Limits};
use pipekeeper_core::provider::AppUse;
use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::{Backend, Commit, NewConnection, Revocation};
use pipekeeper_core::vault::RowContext;
use pipekeeper_testing::{self as testing, ManualClock, TestDatabase, TestDirectory};
use serde_json::{Value, json};
use wiremock::matchers::path;
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate};

use super::backoff::back_off;
use super::*;
use crate::journal::MachineDisk;
use crate::sweep::Swept;

mod broken;
mod continuity;
mod disconnects;
mod guards;
mod journals;
mod leases;
mod outcomes;
mod races;
mod refusals;
mod responses;
mod rules;
mod sweeps;

const NOW: i64 = 1_800_000_000_000_000;
const CLIENT_ID: &str = "57db0bab2932f657";
const DAY: Duration = Duration::from_hours(24);

const DEFAULTS: &str = r#"
[apps.pipedrive]
provider = "pipedrive"
client_id = "57db0bab2932f657"
client_secret = "s3cret"
"#;

fn timing() -> Timing {
    Timing {
        call_timeout: Duration::from_secs(10),
        lease: Duration::from_secs(30),
        orphan_grace: Duration::from_mins(1),
        minted_recently: Duration::from_secs(5),
        default_deadline: Duration::from_secs(8),
        max_concurrent_calls: 32,
        log_kept: DAY,
        sweep_every: Duration::from_secs(5),
    }
}

/// So many seconds from when all of this begins.
fn at(secs: u64) -> Timestamp {
    Timestamp::from_unix_micros(NOW)
        .unwrap()
        .saturating_add(Duration::from_secs(secs))
}

/// A token endpoint that gives these answers one after the other, and then none that it was not asked for.
struct Script {
    answers: Vec<Answer>,
    calls: AtomicUsize,
}

type Answer = Box<dyn Fn() -> ResponseTemplate + Send + Sync>;

impl Respond for Script {
    fn respond(&self, _: &Request) -> ResponseTemplate {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        self.answers
            .get(call)
            .map_or_else(|| ResponseTemplate::new(418), |answer| answer())
    }
}

fn plain(answer: ResponseTemplate) -> Answer {
    Box::new(move || answer.clone())
}

fn status(code: u16) -> Answer {
    plain(ResponseTemplate::new(code))
}

fn refusal(code: u16, word: &str) -> Answer {
    plain(ResponseTemplate::new(code).set_body_json(json!({"error": word})))
}

fn tokens() -> Value {
    json!({
        "access_token": "access-2", "refresh_token": "refresh-2", "expires_in": 3600,
        "scope": "base deals:full", "api_domain": "https://new.pipedrive.com",
    })
}

fn granted() -> Answer {
    plain(ResponseTemplate::new(200).set_body_json(tokens()))
}

/// The provider does something first.
fn after(deed: impl Fn() + Send + Sync + 'static, answer: Answer) -> Answer {
    Box::new(move || {
        deed();
        answer()
    })
}

/// A response that the provider holds back.
struct Held {
    reached: tokio::sync::mpsc::UnboundedReceiver<()>,
    release: std::sync::mpsc::Sender<()>,
}

impl Held {
    fn before(answer: Answer) -> (Answer, Self) {
        let (reach, reached) = tokio::sync::mpsc::unbounded_channel();
        let (release, released) = std::sync::mpsc::channel();
        let released = Mutex::new(released);
        let waits = move || {
            reach.send(()).unwrap();
            released.lock().unwrap().recv().unwrap();
        };
        (after(waits, answer), Self { reached, release })
    }

    /// The refresh token is at the provider.
    async fn reached(&mut self) {
        self.reached.recv().await.unwrap();
    }

    fn release(&self) {
        self.release.send(()).unwrap();
    }
}

/// A provider, a database, a clock, and one connection of generation 1.
struct Fixture {
    database: TestDatabase,
    journals: TestDirectory,
    store: Store,
    clock: Arc<ManualClock>,
    provider: MockServer,
    vault: Vault,
    tasks: Tasks,
    id: ConnectionId,
}

impl Fixture {
    async fn new() -> Self {
        let database = TestDatabase::migrated(Backend::Sqlite).await;
        let mut fixture = Self {
            store: database.store(),
            database,
            journals: TestDirectory::create(),
            clock: ManualClock::at(at(0)),
            provider: MockServer::start().await,
            vault: Vault::new(Keyring::parse(&Keyring::generate("k1")).unwrap()),
            tasks: Tasks::here(),
            id: ConnectionId::generate(),
        };
        Mock::given(path("/revoke"))
            .respond_with(ResponseTemplate::new(200))
            .mount(&fixture.provider)
            .await;
        fixture.id = fixture.connect("jane").await;
        fixture
    }

    async fn answering(answers: impl IntoIterator<Item = Answer>) -> Self {
        let fixture = Self::new().await;
        fixture.answer(answers).await;
        fixture
    }

    async fn answer(&self, answers: impl IntoIterator<Item = Answer>) {
        let script = Script {
            answers: answers.into_iter().collect(),
            calls: AtomicUsize::new(0),
        };
        Mock::given(path("/token"))
            .respond_with(script)
            .mount(&self.provider)
            .await;
    }

    /// A process of its own, whose journal all others can read.
    fn refresher(&self) -> Arc<Refresher> {
        self.refresher_to(&format!("{}/token", self.provider.uri()))
    }

    fn refresher_to(&self, token_url: &str) -> Arc<Refresher> {
        self.door_with(
            &[("PROVIDERS__PIPEDRIVE__TOKEN_URL", token_url)],
            &self.journals,
        )
    }

    /// One that is configured otherwise, and has a journal where others may not see it.
    fn door_with(&self, settings: &[(&str, &str)], journals: &TestDirectory) -> Arc<Refresher> {
        self.door_of(settings, self.journal(journals))
    }

    fn door_timed(&self, timing: Timing) -> Arc<Refresher> {
        self.door_made(&[], self.journal(&self.journals), timing)
    }

    fn door_of(&self, settings: &[(&str, &str)], journal: Journal) -> Arc<Refresher> {
        self.door_made(settings, journal, timing())
    }

    fn door_made(
        &self,
        settings: &[(&str, &str)],
        journal: Journal,
        timing: Timing,
    ) -> Arc<Refresher> {
        self.door_keeping(Rules::default(), settings, journal, timing)
    }

    /// A process that keeps these rules.
    fn door_keeping(
        &self,
        rules: Rules,
        settings: &[(&str, &str)],
        journal: Journal,
        timing: Timing,
    ) -> Arc<Refresher> {
        let set = |key: &str, value: &str| (format!("PIPEKEEPER__{key}"), value.to_owned());
        let provider = |key: &str, value: &str| set(&format!("PROVIDERS__PIPEDRIVE__{key}"), value);
        let uri = self.provider.uri();
        let mut env = vec![
            provider("ALLOW_HTTP", "true"),
            provider("TOKEN_URL", &format!("{uri}/token")),
            provider("REVOKE_URL", &format!("{uri}/revoke")),
        ];
        for (key, value) in settings {
            env.retain(|(name, _)| *name != format!("PIPEKEEPER__{key}"));
            env.push(set(key, value));
        }
        let mut loader = Loader::new(&Sources {
            defaults: DEFAULTS,
            file: None,
            env,
        })
        .unwrap();
        let apps = Apps::load(&mut loader, AppUse::Refresh);
        loader.finish().unwrap();
        let limit = Duration::from_mins(1);
        let client = http_client::build(Limits {
            connect: limit,
            total: limit,
        })
        .unwrap();
        let dependencies = Dependencies {
            store: self.store.clone(),
            clock: Arc::<ManualClock>::clone(&self.clock),
            tasks: self.tasks.clone(),
            vault: self.vault.clone(),
            apps,
            client,
            journal,
        };
        Arc::new(Refresher::new(dependencies, timing, rules))
    }

    fn journal(&self, journals: &TestDirectory) -> Journal {
        let clock = Arc::<ManualClock>::clone(&self.clock);
        Journal::open(
            Arc::new(MachineDisk),
            journals.path(),
            DAY,
            self.vault.clone(),
            clock,
        )
        .unwrap()
    }

    fn consent(&self, id: &ConnectionId, owner: &str, access: &str, refresh: &str) -> Consent {
        consent(&self.vault, id, owner, access, refresh)
    }

    /// Another process has the lease.
    async fn leased_by(&self, owner: &str) {
        let active = ConnectionState::Active;
        let leased = self.store.lease_acquire(&self.id, 1, active, owner).await;
        assert!(leased.unwrap());
    }

    /// One more connection of the same app.
    async fn connect(&self, owner: &str) -> ConnectionId {
        self.connect_with(owner, "refresh-1").await
    }

    /// One with a refresh token of its own: the journal knows an answer by the token that was spent.
    async fn connect_with(&self, owner: &str, refresh: &str) -> ConnectionId {
        let id = ConnectionId::generate();
        let new = NewConnection {
            consent: self.consent(&id, owner, "access-1", refresh),
            id: id.clone(),
            app: app(),
        };
        self.store.connection_insert(&new, at(0)).await.unwrap();
        id
    }

    async fn row(&self) -> Connection {
        self.row_of(&self.id).await
    }

    async fn row_of(&self, id: &ConnectionId) -> Connection {
        self.store.connection_find(id).await.unwrap().unwrap()
    }

    async fn refresh(&self, failed_generation: Option<i64>) -> RefreshResult {
        refresh(&self.refresher(), &self.id, failed_generation).await
    }

    async fn requests(&self, to: &str) -> Vec<Request> {
        let all = self.provider.received_requests().await.unwrap();
        all.into_iter()
            .filter(|request| request.url.path() == to)
            .collect()
    }

    async fn calls(&self) -> usize {
        self.requests("/token").await.len()
    }

    /// Outcome and word of every attempt, the first one first.
    async fn log(&self) -> Vec<(String, Option<String>)> {
        self.tasks.idle().await;
        let mut log = self.store.refresh_log_for(&self.id, 100).await.unwrap();
        log.reverse();
        log.into_iter()
            .map(|entry| (entry.outcome, entry.error))
            .collect()
    }

    /// A deed of another process, on a runtime of its own.
    fn elsewhere<W, D>(&self, deed: D) -> impl Fn() + Send + Sync + use<W, D>
    where
        W: Future<Output = ()>,
        D: Fn(Store, ConnectionId) -> W + Send + Sync + 'static,
    {
        let (url, id, deed) = (self.database.url(), self.id.clone(), Arc::new(deed));
        move || {
            let (url, id, deed) = (url.clone(), id.clone(), Arc::clone(&deed));
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()
                        .unwrap()
                        .block_on(async { deed(testing::open(&url), id).await });
                });
            });
        }
    }
}

async fn refresh(
    refresher: &Arc<Refresher>,
    id: &ConnectionId,
    failed_generation: Option<i64>,
) -> RefreshResult {
    let patience = Duration::from_mins(2);
    refresher
        .refresh(id, failed_generation, Trigger::Webhook, patience)
        .await
}

fn app() -> AppKey {
    AppKey {
        platform: "Pipedrive".to_owned(),
        app_id: CLIENT_ID.to_owned(),
    }
}

fn consent(vault: &Vault, id: &ConnectionId, owner: &str, access: &str, refresh: &str) -> Consent {
    let (account_id, owner) = ("acme".parse().unwrap(), owner.parse().unwrap());
    let key = app();
    let to = RowContext {
        id,
        app: &key,
        account_id: &account_id,
        owner: &owner,
    };
    Consent {
        access_token: vault.seal_access_token(to, &Secret::from(access)),
        refresh_token: vault.seal_refresh_token(to, &Secret::from(refresh)),
        company_id: "7".to_owned(),
        company_domain: "acme".to_owned(),
        company_name: "Acme".to_owned(),
        user_id: owner.to_string(),
        user_name: "Jane".to_owned(),
        api_domain: "https://acme.pipedrive.com".to_owned(),
        scope: "base".to_owned(),
        expires_at: at(3600),
        authorized_at: at(0),
        idle_deadline: None,
        due_at: at(3300),
        account_id,
        owner,
    }
}

/// What its people did to a connection of generation 1: a new consent, and a disconnect.
async fn reconnected_and_ended(vault: &Vault, store: &Store, id: &ConnectionId) {
    let again = consent(vault, id, "jane", "access-9", "refresh-9");
    let reconnected = store.connection_reconnect(id, 1, &again, at(0)).await;
    assert!(reconnected.unwrap());
    let pending = Revocation::Pending;
    let ended = store.connection_revoke(id, 2, "disconnected", pending, at(0));
    assert!(ended.await.unwrap());
}

fn sibling(vault: &Vault, row: &Connection) -> Commit {
    let key = row.app();
    let to = RowContext::of(row, &key);
    Commit {
        spent_under: None,
        access_token: vault.seal_access_token(to, &Secret::from("access-sibling")),
        refresh_token: vault.seal_refresh_token(to, &Secret::from("refresh-sibling")),
        scope: None,
        api_domain: None,
        expires_at: at(7200),
        refreshed_at: at(0),
        idle_deadline: None,
        early_renewals: 0,
        due_at: at(6900),
    }
}

#[track_caller]
fn refreshed(result: RefreshResult) -> Arc<Connection> {
    match result {
        Ok(Outcome::Refreshed(row)) => row,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn already_newer(result: RefreshResult) -> Arc<Connection> {
    match result {
        Ok(Outcome::AlreadyNewer(row)) => row,
        other => panic!("{other:?}"),
    }
}
