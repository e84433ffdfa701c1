//! What may be our own mistake does not cost connections: apps that the provider refuses, secrets that are being changed,
//! and refusals that come in masses.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pipekeeper_core::clock::{SharedClock, Timestamp};
use pipekeeper_core::provider::App;
use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::{Store, StoreError};

/// How often an app that the provider refuses is tried again.
pub(super) const PROBE_EVERY: Duration = Duration::from_mins(1);

/// Within this time only so many of an app's connections may be refused before it is taken for our mistake: Pipedrive words
/// a wrong secret almost like a dead token.
pub(super) const MASS_WINDOW: Duration = Duration::from_mins(10);
const MASS_AT_LEAST: i64 = 3;
const MASS_SHARE: i64 = 20;

/// For so long new tokens for one connection speak for the provider's refusals of others.
const GRANTED_LATELY: Duration = Duration::from_mins(1);

/// How long the number of an app's connections is believed.
const COUNTED_FOR: Duration = Duration::from_mins(10);

/// What is known of the apps; each process finds out for itself.
#[derive(Debug)]
pub(super) struct Guard {
    store: Store,
    clock: SharedClock,
    apps: Mutex<HashMap<String, AppState>>,
    /// Held from the look at an app's refusals until the next one is written.
    rejecting: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct AppState {
    /// Until then, on the monotonic clock.
    held: Option<(&'static str, Duration)>,
    second_secret: bool,
    /// When, on the monotonic clock, and how many.
    active_count: Option<(Duration, i64)>,
    /// On the monotonic clock.
    mass_rejection_until: Option<Duration>,
    /// Connections in doubt were refused, many of them, and none has got new tokens since.
    refuses_everybody: bool,
    /// When the provider last gave one of its connections new tokens, on the monotonic clock.
    granted_at: Option<Duration>,
}

impl Guard {
    pub(super) fn new(store: Store, clock: SharedClock) -> Self {
        Self {
            store,
            clock,
            apps: Mutex::default(),
            rejecting: tokio::sync::Mutex::default(),
        }
    }

    /// The provider refuses our client: until then it is left alone.
    pub(super) fn suspend(&self, app: &App, word: &'static str) -> Timestamp {
        let until = self.clock.monotonic() + PROBE_EVERY;
        self.apps().entry(app.key.clone()).or_default().held = Some((word, until));
        self.clock.now().saturating_add(PROBE_EVERY)
    }

    /// Why this app is left alone, and until when. When the time is over, one caller tries for all.
    pub(super) fn suspended(&self, app: &App) -> Option<(&'static str, Timestamp)> {
        let now = self.clock.monotonic();
        let mut apps = self.apps();
        let held = &mut apps.get_mut(&app.key)?.held;
        let (word, until) = (*held)?;
        if until > now {
            return Some((
                word,
                self.clock.now().saturating_add(until.saturating_sub(now)),
            ));
        }
        *held = Some((word, now + PROBE_EVERY));
        None
    }

    /// The secret that the provider knew us by last, and the other one.
    pub(super) fn secrets<'a>(&self, app: &'a App) -> (&'a Secret, Option<&'a Secret>) {
        let second_first = self
            .apps()
            .get(&app.key)
            .is_some_and(|app| app.second_secret);
        match &app.second_client_secret {
            Some(second) if second_first => (second, Some(&app.client_secret)),
            second => (&app.client_secret, second.as_ref()),
        }
    }

    /// The provider answered as it answers a client that it knows, by this secret.
    pub(super) fn record_accepted_secret(&self, app: &App, secret: &Secret) {
        let second = app
            .second_client_secret
            .as_ref()
            .is_some_and(|second| second.expose() == secret.expose());
        let mut apps = self.apps();
        let state = apps.entry(app.key.clone()).or_default();
        state.held = None;
        if state.second_secret != second {
            state.second_secret = second;
            tracing::warn!(
                app = app.key,
                second,
                "the provider knows us by the other client secret: remove the one that it refuses"
            );
        }
    }

    /// The provider gave new tokens.
    pub(super) fn record_success(&self, app: &App) {
        let now = self.clock.monotonic();
        let mut apps = self.apps();
        let state = apps.entry(app.key.clone()).or_default();
        state.granted_at = Some(now);
        state.refuses_everybody = false;
    }

    /// Held while one connection is declared dead, so that two can't both be the last that may.
    pub(super) async fn one_at_a_time(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.rejecting.lock().await
    }

    /// Whether one more connection of this app may be declared dead. (Other processes count for themselves: each may
    /// exceed it by one.)
    ///
    /// One in doubt most likely dies of its lost answer: a crash loses many at once. It may, as long as the provider goes on
    /// giving others new tokens; if it refuses all, lost responses are not the reason.
    pub(super) async fn may_reject(&self, app: &App, in_doubt: bool) -> Result<bool, StoreError> {
        if in_doubt && self.has_granted_lately(app) {
            return Ok(true);
        }
        let now = self.clock.monotonic();
        let since = self.clock.now().saturating_sub(MASS_WINDOW);
        let key = app.app_key();
        let mut rejected = self.store.rejections_since(&key, "rejected", since).await?;
        if in_doubt {
            rejected += self
                .store
                .rejections_since(&key, "answer_lost", since)
                .await?;
        }
        if rejected < MASS_AT_LEAST || rejected < (self.active(app).await? + rejected) / MASS_SHARE
        {
            return Ok(true);
        }
        let mut apps = self.apps();
        let state = apps.entry(app.key.clone()).or_default();
        let told = if in_doubt {
            std::mem::replace(&mut state.refuses_everybody, true)
        } else {
            let until = now + MASS_WINDOW;
            let before = state.mass_rejection_until.replace(until);
            before.is_some_and(|at| at > now)
        };
        drop(apps);
        if !told {
            tracing::error!(
                app = app.key,
                rejected,
                in_doubt,
                "mass_rejection: the provider refuses more refresh tokens at once than users revoke; they are kept. Check client_id and client_secret, then run `token-refresher recheck`"
            );
        }
        metrics::counter!("pipekeeper_mass_rejections_total", "app" => app.key.clone())
            .increment(1);
        Ok(false)
    }

    fn has_granted_lately(&self, app: &App) -> bool {
        let granted_at = self.apps().get(&app.key).and_then(|app| app.granted_at);
        granted_at.is_some_and(|at| self.clock.monotonic().saturating_sub(at) < GRANTED_LATELY)
    }

    /// Counted now and then: it takes a walk along an index.
    async fn active(&self, app: &App) -> Result<i64, StoreError> {
        let now = self.clock.monotonic();
        let counted = self.apps().get(&app.key).and_then(|app| app.active_count);
        if let Some((at, active)) = counted
            && now.saturating_sub(at) < COUNTED_FOR
        {
            return Ok(active);
        }
        let active = self.store.connections_active(&app.app_key()).await?;
        self.apps().entry(app.key.clone()).or_default().active_count = Some((now, active));
        Ok(active)
    }

    /// The apps that don't work as they should: their keys, and a word each.
    pub(super) fn degraded_reasons(&self) -> Vec<String> {
        let now = self.clock.monotonic();
        let apps = self.apps();
        let mut degraded_reasons: Vec<String> = apps
            .iter()
            .flat_map(|(key, app)| {
                let held = app.held.filter(|(_, until)| *until > now);
                let mass = app.mass_rejection_until.is_some_and(|until| until > now)
                    || app.refuses_everybody;
                let held = held.map(|(word, _)| format!("app {key}: {word}"));
                held.into_iter()
                    .chain(mass.then(|| format!("app {key}: mass_rejection")))
            })
            .collect();
        degraded_reasons.sort();
        degraded_reasons
    }

    fn apps(&self) -> MutexGuard<'_, HashMap<String, AppState>> {
        self.apps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
