//! Where the processes of a plan listen.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::ensure;

use super::plan::{Plan, SIMULATOR, number_of, service_of};

/// From a service's port to that of its metrics.
const TO_METRICS: u16 = 1000;

impl Plan {
    pub fn port(&self, process: &str) -> u16 {
        // 2, 3 and 4 lie between those of the first ones and the simulator's.
        let later = 2 * (number_of(process) - 1);
        self.base_port
            + match service_of(process) {
                "auth-capture" => 0,
                "data-api" => 1 + later,
                "token-refresher" => 2 + later,
                _ => 10,
            }
    }

    pub fn url(&self, process: &str) -> String {
        format!("http://127.0.0.1:{}", self.port(process))
    }

    pub(super) fn metrics_port(&self, process: &str) -> u16 {
        self.port(process) + TO_METRICS
    }

    pub(super) fn check_ports(&self) -> anyhow::Result<()> {
        let mut taken = Vec::new();
        for process in self.processes() {
            let metrics = (process != SIMULATOR).then(|| self.metrics_port(&process));
            for port in std::iter::once(self.port(&process)).chain(metrics) {
                if TcpListener::bind(("127.0.0.1", port)).is_err() {
                    taken.push(format!("{port} ({process})"));
                }
            }
        }
        ensure!(
            taken.is_empty(),
            "another process listens on port {}: stop it, or choose other ports with --base-port",
            taken.join(", ")
        );
        Ok(())
    }
}

/// The first of ports that are all free: those of a plan, and its metrics' a thousand further on.
pub fn free_base_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Below the ports that the system hands out, and away from another run's.
    let offset = u16::try_from(std::process::id() % 300).unwrap_or_default() * 40;
    loop {
        let base = 16_000 + (offset + NEXT.fetch_add(20, Ordering::Relaxed)) % 14_000;
        let ports = (base..base + 11).chain(base + TO_METRICS..base + TO_METRICS + 11);
        if ports
            .into_iter()
            .all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
        {
            return base;
        }
    }
}
