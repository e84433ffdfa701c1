//! Refreshes by webhook, beside the least that they could cost: taking the lease, one fsync, the commit.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use pipekeeper_core::clock::SystemClock;
use pipekeeper_core::connection::{AppKey, ConnectionId, ConnectionState};
use pipekeeper_core::granted::Consent;
use pipekeeper_core::refresher_client::{RefreshOutcome, Refreshed};
use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::{Backend, Commit, NewConnection, Store};
use pipekeeper_core::vault::{RowContext, Vault};
use pipekeeper_testing::{self as testing, TestDatabase};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tools::load::{self, Measured};
use tools::results::{Table, backend_name, per_second, two_digits};
use up::client::{Client, REFRESH};
use up::processes::{Plan, Processes};

use super::provider::Provider;
use super::{basic, caption, host_of, millis, now};

/// Enough for no token to be renewed again before it has ended.
const CONNECTIONS: usize = 8000;

/// How long the provider's tokens live: they have ended when their turn comes again, so that no renewal counts as early.
const EXPIRES_IN: Duration = Duration::from_secs(1);

pub(super) async fn refresh(
    mut plan: Plan,
    backend: Backend,
    length: Duration,
) -> anyhow::Result<()> {
    let provider = Provider::start(Duration::ZERO, EXPIRES_IN).await?;
    let database = TestDatabase::migrated(backend).await;
    plan.database_url = Some(database.url());
    plan.without = vec!["data-api".to_owned(), "auth-capture".to_owned()];
    plan.set = vec![
        (
            "token-refresher.providers.pipedrive.token_url".to_owned(),
            provider.url,
        ),
        // Only what callers ask for.
        (
            "token-refresher.sweep.every_secs".to_owned(),
            "3600".to_owned(),
        ),
    ];
    let processes = Processes::start(plan.clone()).await?;
    let client = plan.client()?;
    let (store, vault) = inside(&plan)?;
    let ids = connections(&store, &vault, &client.client_id, CONNECTIONS).await?;

    let mut table = Table::new([
        "refreshes by webhook",
        "callers",
        "refreshes/s (floor)",
        "p50 (floor)",
        "p99 (floor)",
    ]);
    for callers in [1, 16, 64] {
        let ours = by_webhook(&client, &ids, callers, length).await?;
        let floor = floor(&store, &plan.data, &ids, callers, length).await?;
        let beside = |one, other| {
            let [one, other] = [one, other].map(|time| two_digits(millis(time)));
            format!("{one} ms ({other})")
        };
        table.row([
            backend_name(backend).to_owned(),
            callers.to_string(),
            format!(
                "{} ({})",
                per_second(ours.per_second),
                per_second(floor.per_second)
            ),
            beside(ours.p50, floor.p50),
            beside(ours.p99, floor.p99),
        ]);
    }
    let run = format!("refresh --database {backend}");
    table.write(&mut io::stdout(), &caption(&run))?;
    processes.stop().await
}

/// The database of a plan, and what it is sealed with.
pub(super) fn inside(plan: &Plan) -> anyhow::Result<(Store, Vault)> {
    let url = plan
        .database_url
        .as_ref()
        .context("a plan with a database")?;
    Ok((testing::open(url), plan.vault()?))
}

/// Connections whose tokens have ended.
pub(super) async fn connections(
    store: &Store,
    vault: &Vault,
    client_id: &str,
    count: usize,
) -> anyhow::Result<Vec<ConnectionId>> {
    let app = AppKey {
        platform: "Pipedrive".to_owned(),
        app_id: client_id.to_owned(),
    };
    let now = SystemClock::shared().now();
    let mut ids = Vec::new();
    for user in 0..count {
        let id = ConnectionId::generate();
        let (account_id, owner) = ("bench".parse()?, id.as_str().parse()?);
        let to = RowContext {
            id: &id,
            app: &app,
            account_id: &account_id,
            owner: &owner,
        };
        let consent = Consent {
            access_token: vault.seal_access_token(to, &Secret::from("access")),
            refresh_token: vault.seal_refresh_token(to, &Secret::new(format!("refresh-{user}"))),
            company_id: "1".to_owned(),
            company_domain: "bench".to_owned(),
            company_name: "Bench".to_owned(),
            user_id: id.to_string(),
            user_name: "Bench".to_owned(),
            api_domain: "http://127.0.0.1".to_owned(),
            scope: "base".to_owned(),
            expires_at: now,
            authorized_at: now,
            idle_deadline: None,
            due_at: now,
            account_id,
            owner,
        };
        let new = NewConnection {
            id: id.clone(),
            app: app.clone(),
            consent,
        };
        store.connection_insert(&new, now).await?;
        ids.push(id);
    }
    Ok(ids)
}

/// Each caller has connections of its own and refreshes them in turn.
async fn by_webhook(
    client: &Client,
    ids: &[ConnectionId],
    callers: usize,
    length: Duration,
) -> anyhow::Result<Measured> {
    let started = now();
    let mut running = JoinSet::new();
    for own in ids.chunks(ids.len().div_ceil(callers)) {
        let (headers, own) = (basic(&client.refresher), own.to_vec());
        let address = host_of(&client.token_refresher)?;
        running.spawn(async move {
            let mut stream = TcpStream::connect(&address).await?;
            stream.set_nodelay(true)?;
            let mut buffer = vec![0; 16 * 1024];
            let mut took = Vec::new();
            // What each connection has now; the first answer says so.
            let mut generations = vec![None::<i64>; own.len()];
            while started.elapsed() < length {
                for (id, generation) in own.iter().zip(&mut generations) {
                    let body = json!({"connectionId": id, "generation": generation}).to_string();
                    let request = load::request("POST", &address, REFRESH, &headers, &body);
                    let sent = now();
                    let answer = load::exchange(&mut stream, &request, &mut buffer).await?;
                    let lasted = sent.elapsed();
                    let answer: Refreshed = serde_json::from_slice(answer)?;
                    if answer.outcome == RefreshOutcome::Refreshed {
                        took.push(lasted);
                    }
                    *generation = Some(answer.generation);
                    if started.elapsed() >= length {
                        break;
                    }
                }
            }
            Ok::<_, anyhow::Error>(took)
        });
    }
    let mut all = Vec::new();
    while let Some(took) = running.join_next().await {
        all.extend(took??);
    }
    Measured::of(all, started.elapsed())
}

/// What no refresh can do without: the lease as a durable intent, the answer on disk, the commit.
async fn floor(
    store: &Store,
    data: &Path,
    ids: &[ConnectionId],
    callers: usize,
    length: Duration,
) -> anyhow::Result<Measured> {
    let file = Arc::new(File::create(data.join("floor"))?);
    let mut running = JoinSet::new();
    for own in ids.chunks(ids.len().div_ceil(callers)) {
        let (store, own, file) = (store.clone(), own.to_vec(), Arc::clone(&file));
        running.spawn(async move {
            let mut took = Vec::new();
            let mut rows = Vec::new();
            for id in &own {
                rows.push(store.connection_find(id).await?.context("it is there")?);
            }
            let begun = now();
            while begun.elapsed() < length {
                for row in &mut rows {
                    let sent = now();
                    let active = ConnectionState::Active;
                    ensure!(
                        store
                            .lease_acquire(&row.id, row.generation, active, "floor")
                            .await?,
                        "lease"
                    );
                    let file = Arc::clone(&file);
                    tokio::task::spawn_blocking(move || {
                        file.write_all_at(&[0; 700], 0)?;
                        file.sync_data()
                    })
                    .await??;
                    let at = SystemClock::shared().now();
                    let commit = Commit {
                        spent_under: Some("floor".to_owned()),
                        access_token: row.access_token.clone(),
                        refresh_token: row.refresh_token.clone(),
                        scope: Some(row.scope.clone()),
                        api_domain: Some(row.api_domain.clone()),
                        expires_at: at,
                        refreshed_at: at,
                        idle_deadline: None,
                        early_renewals: 0,
                        due_at: at,
                    };
                    ensure!(
                        store
                            .connection_commit(&row.id, row.generation, &commit, at)
                            .await?,
                        "commit"
                    );
                    row.generation += 1;
                    took.push(sent.elapsed());
                    if begun.elapsed() >= length {
                        break;
                    }
                }
            }
            Ok::<_, anyhow::Error>((took, begun.elapsed()))
        });
    }
    let (mut all, mut longest) = (Vec::new(), Duration::ZERO);
    while let Some(took) = running.join_next().await {
        let (took, lasted) = took??;
        all.extend(took);
        longest = longest.max(lasted);
    }
    Measured::of(all, longest)
}
