//! Prometheus metrics, on a listener of their own that faces no caller.

use std::net::TcpListener;
use std::sync::OnceLock;
use std::time::Duration;

use actix_web::web::Data;
use actix_web::{App, HttpResponse, HttpServer, dev::Server, route};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Upper bounds in seconds: a hot answer takes a millisecond, a refresh up to half a minute.
const BUCKETS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0,
];

/// Which build this is.
pub(crate) fn record_build(service: &'static str) {
    metrics::gauge!("pipekeeper_build_info",
        "service" => service, "version" => env!("CARGO_PKG_VERSION"), "commit" => env!("PIPEKEEPER_COMMIT"))
    .set(1.0);
}

/// The process's recorder; services that share a process (in tests) share it.
pub fn recorder() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            PrometheusBuilder::new()
                .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &BUCKETS)
                .and_then(PrometheusBuilder::install_recorder)
                .expect("the buckets are not empty and nothing else installs a recorder")
        })
        .clone()
}

#[route("/metrics", method = "GET", method = "HEAD")]
async fn scrape(handle: Data<PrometheusHandle>) -> HttpResponse {
    handle.run_upkeep();
    HttpResponse::Ok()
        .content_type("text/plain; version=0.0.4; charset=utf-8")
        .body(handle.render())
}

/// Serves `GET` and `HEAD /metrics` on an already bound socket.
pub(crate) fn server(listener: TcpListener, grace: Duration) -> std::io::Result<Server> {
    let handle = recorder();
    let server = HttpServer::new(move || {
        App::new()
            .app_data(Data::new(handle.clone()))
            .service(scrape)
    })
    .workers(1)
    .shutdown_timeout(grace.as_secs())
    .disable_signals()
    .listen(listener)?;
    Ok(server.run())
}
