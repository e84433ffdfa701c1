//! One grant: the rows that hold it, the apps that it may be of, and whose it is.

use std::cmp::Ordering;
use std::sync::Arc;

use pipekeeper_core::crypto::sha256_hex;
use pipekeeper_core::oauth::{self, Identity, IdentityError};
use pipekeeper_core::provider::{ApiDomain, App, AppChoice, Apps};
use pipekeeper_core::secret::Secret;

use super::source::SourceRow;
use super::{RowOutcome, RowReport, Run};

/// A provider that is busy is asked again.
const TRIES: u32 = 3;

/// All that hold one refresh token.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) token_hash: String,
    /// Places among what was found, the newest last, and the app that each says it is of.
    pub(super) rows: Vec<(usize, Arc<App>)>,
}

/// Whose a grant is.
pub(super) struct Known {
    pub(super) app: Arc<App>,
    pub(super) identity: Identity,
    pub(super) api_domain: ApiDomain,
    /// That of the rows' access tokens which the provider has taken.
    pub(super) access_token: Secret,
}

pub(super) enum IdentityCheck {
    Known(Box<Known>),
    /// The access tokens say nothing any more.
    Expired,
    /// Unknown.
    Unknown(String),
}

impl Grant {
    pub(super) fn of(found: &SourceRow) -> Self {
        Self {
            token_hash: token_hash(found),
            rows: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, row: usize, app: &Arc<App>) {
        self.rows.push((row, Arc::clone(app)));
    }

    /// The app that it is of. Several: n8n's refresh writes one app's tokens into every row of the platform.
    pub(super) fn apps(&self) -> Vec<Arc<App>> {
        let mut apps: Vec<Arc<App>> = Vec::new();
        for (_, app) in self.rows.iter().rev() {
            if !apps.iter().any(|known| known.key == app.key) {
                apps.push(Arc::clone(app));
            }
        }
        apps
    }

    pub(super) fn sort(&mut self, found: &[SourceRow]) {
        self.rows
            .sort_by(|(a, _), (b, _)| match (found.get(*a), found.get(*b)) {
                (Some(a), Some(b)) => a.by_age(b),
                _ => Ordering::Equal,
            });
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "rows are places among what was found, and there is at least one"
    )]
    pub(super) fn newest<'a>(&self, found: &'a [SourceRow]) -> &'a SourceRow {
        &found[self.rows[self.rows.len() - 1].0]
    }

    /// The same report for all of its rows.
    pub(super) fn all(&self, report_of_row: &RowReport) -> Vec<(usize, RowReport)> {
        let rows = self.rows.iter();
        rows.map(|(row, _)| (*row, report_of_row.clone())).collect()
    }

    /// One for the newest row of the app that it turned out to be of; of the others what they are beside it.
    pub(super) fn told(
        &self,
        found: &[SourceRow],
        app: &App,
        report_of_row: &RowReport,
    ) -> Vec<(usize, RowReport)> {
        let of_app = |(_, own): &&(usize, Arc<App>)| own.key == app.key;
        let newest = self.rows.iter().rev().find(of_app).map(|(row, _)| *row);
        let name = newest.and_then(|row| found.get(row));
        let name = name.map_or("another", |found| found.name.as_str());
        let of = self.rows.iter().find(of_app).map(|(_, own)| own);
        let beside = |own: &App| RowReport {
            did: RowOutcome::Skipped,
            said: if own.key == app.key {
                format!("holds the same refresh token as {name}")
            } else {
                format!(
                    "holds the refresh token of {name}, which is app {}'s",
                    app.key
                )
            },
            identity: report_of_row.identity.clone(),
            app: of.map(Arc::clone),
            connection: None,
        };
        let rows = self.rows.iter();
        rows.map(|(row, own)| {
            let is_newest = Some(*row) == newest;
            (
                *row,
                if is_newest {
                    RowReport {
                        app: Some(Arc::clone(own)),
                        ..report_of_row.clone()
                    }
                } else {
                    beside(own)
                },
            )
        })
        .collect()
    }
}

pub(super) fn token_hash(found: &SourceRow) -> String {
    sha256_hex(found.refresh_token.expose())
}

/// The app that a row belongs to, or why it is left alone.
pub(super) fn app_of<'a>(
    found: &SourceRow,
    apps: &'a Apps,
    chosen: Option<&'a Arc<App>>,
) -> Result<&'a Arc<App>, RowReport> {
    let is_ours = |platform: &str| {
        matches!(
            apps.find(None, Some(platform)),
            AppChoice::One(_) | AppChoice::Several
        )
    };
    if let Some(platform) = found.platform.as_deref().filter(|name| !is_ours(name)) {
        return Err(RowReport::new(
            RowOutcome::Skipped,
            format!("of another platform, {platform}"),
        ));
    }
    if found.refresh_token.is_empty() || found.access_token.is_empty() {
        return Err(RowReport::new(RowOutcome::Skipped, "holds no tokens"));
    }
    if let Some((did, why)) = &found.unfit {
        return Err(RowReport::new(did.clone(), *why));
    }
    match (&found.app_id, chosen) {
        (None, Some(app)) => Ok(app),
        (app_id, _) => match apps.find(app_id.as_deref(), found.platform.as_deref()) {
            AppChoice::One(app) => Ok(app),
            AppChoice::Unknown => Err(RowReport::new(
                RowOutcome::NeedsAction,
                format!(
                    "no app is known as {}: name it in the `aliases` of the app that it is (apps.<key>.aliases)",
                    app_id.as_deref().unwrap_or("this")
                ),
            )),
            AppChoice::Several => Err(RowReport::new(
                RowOutcome::NeedsAction,
                "names no app, and there are several: --app says which",
            )),
        },
    }
}

impl Run<'_> {
    /// Asks the provider with the newest access token that it takes.
    pub(super) async fn ask(&self, found: &[SourceRow], grant: &Grant) -> IdentityCheck {
        let apps = grant.apps();
        let [app] = apps.as_slice() else {
            // The API takes the token of either app: only the token endpoint knows whose it is.
            return IdentityCheck::Expired;
        };
        let rows = grant.rows.iter().rev();
        let mut tokens: Vec<&SourceRow> = rows.filter_map(|(row, _)| found.get(*row)).collect();
        tokens.dedup_by(|a, b| a.access_token.expose() == b.access_token.expose());
        let mut said = IdentityCheck::Expired;
        for one in tokens {
            let Some(api_domain) = self.api_domain(app, one) else {
                said = IdentityCheck::Unknown(
                    "its API domain is unknown: old_table.api_domain is not one of its provider's"
                        .to_owned(),
                );
                continue;
            };
            match self.identify(app, &api_domain, &one.access_token).await {
                Ok(identity) => {
                    return IdentityCheck::Known(Box::new(Known {
                        app: Arc::clone(app),
                        identity,
                        api_domain,
                        access_token: one.access_token.clone(),
                    }));
                }
                Err(error) if error.is_refusal() => {}
                Err(error) => said = IdentityCheck::Unknown(unasked(error)),
            }
        }
        said
    }

    /// Where this grant's API is.
    pub(super) fn api_domain(&self, app: &App, found: &SourceRow) -> Option<ApiDomain> {
        let provider = &app.provider;
        match &found.api_domain {
            Some(own) => provider.api_domain(own).ok(),
            None => provider
                .default_api_domain()
                .cloned()
                .or_else(|| provider.api_domain(&self.old_table.api_domain).ok()),
        }
    }

    pub(super) async fn identify(
        &self,
        app: &App,
        api_domain: &ApiDomain,
        token: &Secret,
    ) -> Result<Identity, IdentityError> {
        let provider = &app.provider;
        let may_pass = IdentityError::may_pass;
        oauth::identify_patiently(&self.client, provider, api_domain, token, TRIES, may_pass).await
    }
}

pub(super) fn unasked(error: IdentityError) -> String {
    let advice = match error {
        // IdentityCheck again, the provider says the same.
        IdentityError::UnusableId(_) | IdentityError::IdTooLong(_) => "it can't be imported",
        IdentityError::Transport(_) | IdentityError::Status { .. } | IdentityError::Garbled => {
            "run this again"
        }
    };
    let why = anyhow::Error::from(error);
    format!("whose it is could not be asked ({why:#}): {advice}")
}

/// The company and user that a token of Pipedrive's names in its own text, if it does. A hint, never a proof.
pub(super) fn hint(token: &Secret) -> Option<(String, String)> {
    let mut parts = token.expose().split(':');
    let (company, user, _secret) = (parts.next()?, parts.next()?, parts.next()?);
    let is_number =
        |text: &str| !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    (parts.next().is_none() && is_number(company) && is_number(user))
        .then(|| (company.to_owned(), user.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_names_its_owner_gives_a_hint() {
        let named = hint(&Secret::from("7507356:11465942:cf3d769527455ee0"));
        assert_eq!(named, Some(("7507356".to_owned(), "11465942".to_owned())));
        for silent in ["", "abc", "1:2", "1:2:3:4", "a:2:3", ":2:3", "1::3"] {
            assert_eq!(hint(&Secret::from(silent)), None, "{silent}");
        }
    }
}
