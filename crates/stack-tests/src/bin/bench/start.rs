//! How fast the services start, and how much memory they take.

use std::io::{self, Write as _};

use anyhow::Context as _;
use stack_tests::load::{self, Until};
use stack_tests::processes::{Plan, Processes, SERVICES};

use super::{megabytes, millis, now, request_for};

/// Requests before a process's memory is read.
const REQUESTS: usize = 10_000;

pub(super) async fn start(mut plan: Plan) -> anyhow::Result<()> {
    plan.without = SERVICES.map(str::to_owned).to_vec();
    let mut processes = Processes::start(plan.clone()).await?;
    let mut out = io::stdout();
    writeln!(
        out,
        "process start to ready on SQLite, milliseconds (the first start creates and migrates the database)"
    )?;
    for service in SERVICES {
        let mut took = Vec::new();
        for run in 0..6 {
            let started = now();
            processes.start_one(service).await?;
            took.push(started.elapsed());
            if run < 5 {
                processes.stop_one(service).await?;
            }
        }
        let (first, later) = took.split_first().context("six starts")?;
        let worst = later.iter().max().context("five starts")?;
        writeln!(
            out,
            "  {service:16} first {:5.0}   later, worst of five {:5.0}",
            millis(*first),
            millis(*worst)
        )?;
    }

    let client = plan.client()?;
    client.connect(1, 1).await?;
    writeln!(
        out,
        "\nresident memory after {REQUESTS} requests over 16 connections, MB"
    )?;
    for service in SERVICES {
        let (address, request) = request_for(service, &client)?;
        let before = processes.resident_kib(service)?;
        load::run(&address, &request, 16, Until::Requests(REQUESTS)).await?;
        let after = processes.resident_kib(service)?;
        writeln!(
            out,
            "  {service:16} at start {:5.1}   after {:5.1}",
            megabytes(before),
            megabytes(after)
        )?;
    }
    processes.stop().await
}
