//! How fast the services start, and how much memory they take.

use std::io;

use anyhow::{Context as _, anyhow};
use tools::load::{self, Until};
use tools::results::{Table, grouped};
use up::processes::{Plan, Processes, SERVICES};

use super::{caption, megabytes, millis, now, request_for};

/// Requests before a process's memory is read.
const REQUESTS: usize = 10_000;

pub(super) async fn start(mut plan: Plan) -> anyhow::Result<()> {
    plan.without = SERVICES.map(str::to_owned).to_vec();
    let mut processes = Processes::start(plan.clone()).await?;
    let mut started = [
        "the first start; token-refresher makes the SQLite database".to_owned(),
        "process start to ready, SQLite, worst of five".to_owned(),
        "resident at start".to_owned(),
        format!("resident after {} requests", grouped(REQUESTS)),
    ]
    .map(|what| vec![what]);
    let [first_start, worst_start, at_start, after] = &mut started;
    for service in SERVICES {
        let mut took = Vec::new();
        for run in 0..6 {
            let began = now();
            processes.start_one(service).await?;
            took.push(began.elapsed());
            if run < 5 {
                processes.stop_one(service).await?;
            }
        }
        let (first, later) = took.split_first().context("six starts")?;
        let worst = later.iter().max().context("five starts")?;
        first_start.push(format!("{:.0} ms", millis(*first)));
        worst_start.push(format!("{:.0} ms", millis(*worst)));
    }

    let client = plan.client()?;
    client.connect(1, 1).await?;
    for service in SERVICES {
        let (address, request) = request_for(service, &client)?;
        let before = processes.resident_kib(service)?;
        load::run(&address, &request, 16, Until::Requests(REQUESTS)).await?;
        let resident = processes.resident_kib(service)?;
        at_start.push(format!("{:.1} MB", megabytes(before)));
        after.push(format!("{:.1} MB", megabytes(resident)));
    }
    // As a request passes them.
    let [last, second, first] = SERVICES;
    let mut table = Table::new(["", first, second, last]);
    for mut row in started {
        if let Some((_, figures)) = row.split_first_mut() {
            figures.reverse();
        }
        let cells = row.try_into();
        table.row(cells.map_err(|row| anyhow!("not a figure for each service: {row:?}"))?);
    }
    table.write(&mut io::stdout(), &caption("start"))?;
    processes.stop().await
}
