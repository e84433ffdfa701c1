//! Grants that the provider refused, refreshed once more when an operator asks.

use pipekeeper_core::clock::SystemClock;
use pipekeeper_service::Loaded;

use crate::TokenRefresher;

/// `token-refresher recheck`: the running processes do it, in their next sweeps.
pub(crate) async fn recheck(
    app: Option<&str>,
    config: Loaded<TokenRefresher>,
) -> anyhow::Result<String> {
    let store = config.open_store()?;
    let now = SystemClock::shared().now();
    let chosen = match app {
        None => config.own.apps.iter().collect(),
        Some(key) => vec![config.own.apps.get(key)?],
    };
    let mut report = Vec::new();
    for app in chosen {
        let rows = store.connections_recheck(&app.app_key(), now).await?;
        report.push(format!(
            "app {}: {rows} refused connections are refreshed once more; refresh_log has the results",
            app.key
        ));
    }
    Ok(report.join("\n"))
}
