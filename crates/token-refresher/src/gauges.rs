//! Gauges: what requests do not show. Each process reports the same of the database.

use pipekeeper_core::store::StoreError;
use pipekeeper_refresh::Refresher;

/// Sets the gauges.
pub(crate) async fn report(refresher: &Refresher) -> Result<(), StoreError> {
    let now = refresher.now();
    metrics::gauge!("pipekeeper_journal_depth").set(figure(refresher.journal().depth()));
    let dying = refresher.store().idle_deadlines(now).await?;
    for (within, grants) in [
        ("1d", dying.within_day),
        ("7d", dying.within_week),
        ("30d", dying.within_month),
    ] {
        metrics::gauge!("pipekeeper_grants_dying", "within" => within).set(figure(grants));
    }
    let age = |since| now.saturating_since(since).as_secs_f64();
    metrics::gauge!("pipekeeper_refresh_oldest_success_seconds")
        .set(dying.oldest_refresh.map_or(0.0, age));
    metrics::gauge!("pipekeeper_sweep_lag_seconds")
        .set(refresher.store().due_since(now).await?.map_or(0.0, age));
    Ok(())
}

/// Gauges are floating-point numbers; beyond 2^32 the last digit does not matter.
fn figure(count: impl TryInto<u32>) -> f64 {
    count.try_into().map_or(f64::MAX, f64::from)
}
