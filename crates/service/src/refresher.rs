//! `[refresher]`: where token-refresher listens, and what it is told.

use std::time::Duration;

use anyhow::Context as _;
use pipekeeper_core::config::Loader;
use pipekeeper_core::http_client::{self, Limits};
use pipekeeper_core::refresher_client::RefresherClient;
use pipekeeper_core::secret::Secret;
use serde::Deserialize;
use url::Url;

use crate::auth::Credentials;

/// Checked; what is optional here was a problem for the loader.
#[derive(Debug, Clone)]
pub struct RefresherSection {
    url: Option<Url>,
    credentials: Credentials,
    deadline: Duration,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRefresher {
    url: String,
    user: String,
    password: Secret,
    password_file: String,
    timeout_secs: u16,
}

impl RefresherSection {
    /// Every problem goes to the loader.
    pub fn load(loader: &mut Loader) -> Self {
        let Some(raw) = loader.section::<RawRefresher>("refresher") else {
            return Self {
                url: None,
                credentials: Credentials::new(String::new(), Secret::default()),
                deadline: Duration::ZERO,
            };
        };
        if raw.timeout_secs == 0 {
            loader.problem("refresher.timeout_secs", "is 0");
        }
        Self {
            url: loader.url("refresher.url", &raw.url),
            credentials: Credentials::load(
                loader,
                "refresher",
                raw.user,
                raw.password,
                &raw.password_file,
            ),
            deadline: Duration::from_secs(raw.timeout_secs.into()),
        }
    }

    pub fn client(&self) -> anyhow::Result<RefresherClient> {
        // Longer than the deadline that is asked for: the refresher's own answer says more than a broken call.
        let limits = Limits {
            connect: Duration::from_secs(2),
            total: self.deadline + Duration::from_secs(2),
        };
        Ok(RefresherClient {
            client: http_client::build(limits)?,
            url: self.url.clone().context("no refresher.url")?,
            user: self.credentials.user().to_owned(),
            password: self.credentials.password().clone(),
            deadline: self.deadline,
        })
    }
}
