//! What a thousand connections cost, and what a million do: the sweep's renewals, and the webhook.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use pipekeeper_core::clock::SystemClock;
use pipekeeper_core::connection::{AppKey, ConnectionId};
use pipekeeper_core::store::Backend;
use pipekeeper_testing::TestDatabase;
use serde_json::json;
use tools::load::{self, Measured, Until};
use tools::results::{Table, backend_name, grouped, per_second, two_digits};
use up::client::{Client, REFRESH};
use up::processes::{Plan, Processes};

use super::provider::Provider;
use super::refresh::{connections, inside};
use super::{basic, caption, host_of, millis, now};

const ROWS: [u32; 2] = [1000, 1_000_000];

/// What Pipedrive's token endpoint may well take.
const DELAY: Duration = Duration::from_millis(100);

/// Connections that are due when the sweep begins.
const DUE: usize = 6000;

pub(super) async fn scale(mut plan: Plan, backend: Backend) -> anyhow::Result<()> {
    let provider = Provider::start(DELAY, Duration::from_hours(1)).await?;
    let database = TestDatabase::migrated(backend).await;
    plan.database_url = Some(database.url());
    plan.without = vec!["data-api".to_owned(), "auth-capture".to_owned()];
    plan.set = vec![
        (
            "token-refresher.providers.pipedrive.token_url".to_owned(),
            provider.url.clone(),
        ),
        (
            "token-refresher.sweep.every_secs".to_owned(),
            "1".to_owned(),
        ),
        (
            "token-refresher.refresh.max_concurrent_calls".to_owned(),
            "64".to_owned(),
        ),
    ];
    let mut table = Table::new([
        "a refresher, and a provider that takes 100 ms",
        "connections",
        "renewals/s",
        "a webhook that finds a newer token, p50",
        "p99",
    ]);
    let mut seeded = 0;
    for rows in ROWS {
        let app = AppKey {
            platform: "Pipedrive".to_owned(),
            app_id: pipedrive_sim::DEFAULT_CLIENT_ID.to_owned(),
        };
        let clock = SystemClock::shared();
        database.seed(seeded..rows, &app, clock.now());
        database.analyze();
        seeded = rows;

        let mut processes = Processes::prepare(plan.clone())?;
        let (store, vault) = inside(&plan)?;
        let ids = connections(&store, &vault, &app.app_id, DUE).await?;
        for id in &ids {
            store.connection_touch(id, clock.now(), clock.now()).await?;
        }
        let before = provider.calls.load(Ordering::Relaxed);
        let started = now();
        processes.start_all().await?;
        while provider.calls.load(Ordering::Relaxed) < before + DUE {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let took = started.elapsed();
        let id = ids.first().context("there are some")?;
        let results = already_newer(&plan.client()?, id).await?;
        table.row([
            backend_name(backend).to_owned(),
            grouped(usize::try_from(rows)?),
            per_second(f64::from(u32::try_from(DUE)?) / took.as_secs_f64()),
            format!("{} ms", two_digits(millis(results.p50))),
            format!("{} ms", two_digits(millis(results.p99))),
        ]);
        processes.stop().await?;
    }
    let run = format!("scale --database {backend}");
    table.write(&mut io::stdout(), &caption(&run))?;
    Ok(())
}

async fn already_newer(client: &Client, id: &ConnectionId) -> anyhow::Result<Measured> {
    let address = host_of(&client.token_refresher)?;
    let body = json!({"connectionId": id, "generation": -1}).to_string();
    let headers = basic(&client.refresher);
    let request = load::request("POST", &address, REFRESH, &headers, &body);
    load::run(&address, &request, 1, Until::Requests(2000)).await
}
